"""What the dashboard is made of: other people's libraries, as npm has them, and lists that must agree."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

from tests.browser.chromium import SOURCE
from tests.clients import installed
from whisperd.engine.languages import LANGUAGES

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "whisperd" / "web" / "dashboard"
VENDOR = DASHBOARD / "vendor"


def test_the_libraries_are_what_the_lock_makes_of_them(tmp_path):
    folder = installed.node_modules(SOURCE)

    subprocess.run(["node", folder / "build.mjs", tmp_path / "vendor"], check=True, timeout=60)

    made = {path.name: path.read_bytes() for path in (tmp_path / "vendor").iterdir()}
    assert made == {path.name: path.read_bytes() for path in VENDOR.iterdir()}, "run: make vendor"


def test_each_library_has_its_version_its_licence_and_its_hash():
    listed = json.loads((VENDOR / "versions.json").read_text())
    locked = json.loads((SOURCE / "package-lock.json").read_text())["packages"]

    for package in listed["packages"]:
        assert package["version"] == locked[f"node_modules/{package['name']}"]["version"]
        assert (VENDOR / package["licence_file"]).stat().st_size > 1000
    hashes = {file["name"]: file["sha256"] for file in listed["files"]}
    scripts = [path for path in VENDOR.iterdir() if path.suffix in (".js", ".css")]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in scripts} == hashes


def test_the_page_offers_the_languages_that_there_are():
    text = (DASHBOARD / "languages.js").read_text()
    listed = " ".join(re.findall(r'^  "(.+?)"', text, re.MULTILINE)).split()

    assert listed == list(LANGUAGES)


def test_our_own_scripts_make_no_markup_of_texts():
    for script in [*DASHBOARD.glob("*.js"), *DASHBOARD.glob("p*/*.js")]:
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script.read_text()
        )
        assert found is None, script
