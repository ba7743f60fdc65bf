"""Who may make which call: the table "Who may call" of the README, which is the rule. The code follows it."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
NEEDS = {  # as the table has it: the right as the code has it
    "no key": "public",
    "`read`": "read",
    "`read` of all tenants": "oversee",
    "`submit`": "submit",
    "`admin`": "admin",
}


def _table():
    section = README.split("\n## Who may call\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and line.count(" | ") == 1 and not line.startswith(("| needs", "| ---")):
            needs, calls = line.strip("| ").split(" | ")
            for method, path in re.findall(r"`([A-Z]+) (/\S*)`", calls):
                yield (method, path), NEEDS[needs]


RULES = dict(_table())  # (method or WS, path) to right
assert len(RULES) == len(list(_table())), "a call stands twice in the table"


def ruled(path):
    """A path of the application as the table writes it."""
    return path.replace("{task_id}", "{id}").replace(":path}", "}")
