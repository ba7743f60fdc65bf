"""What `make` sets up on machines that lack something. Python, apt and sudo are played by small scripts."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Makes a venv whose pip works once python3-venv is there, and else half a one, as Debian's does.
PYTHON = """\
#!/bin/sh
[ "$1" = -m ] && [ "$2" = venv ] || exit 0
mkdir -p "$3/bin"
pip=1; [ -e installed ] && pip=0
echo "#!/bin/sh\nexit $pip" > "$3/bin/python"
chmod +x "$3/bin/python"
exit $pip
"""
APT = """\
#!/bin/sh
echo "$@" >> apt.log
case "$1" in
  update) touch lists ;;
  install) [ -e lists ] && touch installed ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Runs `make .venv/made` with these programs and a user's id; the outcome."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "rm", "mkdir", "touch", "chmod"):
        (programs / name).symlink_to(shutil.which(name))

    def make(user=0, **scripts):
        for name, script in {"id": f"#!/bin/sh\necho {user}\n", **scripts}.items():
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        command = ["make", "-f", ROOT / "Makefile", ".venv/made"]
        return subprocess.run(
            command, cwd=tmp_path, env={"PATH": str(programs)}, capture_output=True, text=True, timeout=20
        )

    return make


def test_a_venv_is_made_where_python_has_what_it_takes(make, tmp_path):
    (tmp_path / "installed").touch()

    assert make(python3=PYTHON).returncode == 0
    assert (tmp_path / ".venv" / "made").exists()


def test_on_a_bare_debian_the_package_lists_come_first(make, tmp_path):
    assert make(python3=PYTHON, **{"apt-get": APT}).returncode == 0
    assert (tmp_path / "apt.log").read_text().splitlines() == ["update", "install -y python3-venv"]
    assert (tmp_path / ".venv" / "made").exists()


def test_who_is_not_root_installs_by_sudo(make, tmp_path):
    sudo = '#!/bin/sh\necho sudo >> apt.log\n"$@"\n'

    assert make(user=1000, python3=PYTHON, sudo=sudo, **{"apt-get": APT}).returncode == 0
    assert (tmp_path / "apt.log").read_text().splitlines()[::2] == ["sudo", "sudo"]


@pytest.mark.parametrize(
    "scripts", [{}, {"apt-get": APT}, {"apt-get": "#!/bin/sh\nexit 100\n", "sudo": '#!/bin/sh\n"$@"\n'}]
)
def test_where_nothing_can_be_installed_it_is_told_and_no_half_made_venv_stays(make, tmp_path, scripts):
    made = make(user=1000, python3=PYTHON, **scripts)

    assert made.returncode != 0
    assert "as root, apt-get install python3-venv" in made.stderr
    assert not (tmp_path / ".venv").exists()
    (tmp_path / "installed").touch()
    assert make(python3=PYTHON).returncode == 0


def test_a_half_made_venv_is_made_anew(make, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "stale").touch()
    (tmp_path / "installed").touch()

    assert make(python3=PYTHON).returncode == 0
    assert not (tmp_path / ".venv" / "bin" / "stale").exists()


@pytest.mark.parametrize(
    ("scripts", "said"),
    [
        ({}, "there is no python3"),
        ({"python3": "#!/bin/sh\necho 'whisperd needs Python 3.11 or newer' >&2\nexit 1\n"}, ""),
    ],
)
def test_without_a_python_that_is_new_enough_nothing_is_made(make, tmp_path, scripts, said):
    made = make(**scripts)

    assert made.returncode != 0
    assert "whisperd needs Python 3.11 or newer" in made.stderr
    assert said in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_locks_hold_the_build_backend():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (backend,) = project["build-system"]["requires"]

    assert project["dependency-groups"]["build"] == [backend]
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert "\nsetuptools==" in (ROOT / lock).read_text()
