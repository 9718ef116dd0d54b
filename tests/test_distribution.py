"""Another project of the same import name whose files, or whose extras, are taken for ours."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import emukit
from emukit.distribution import NAME, VERSION, other_project

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(words, *path):
    """A fresh interpreter with these folders first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=path[0])
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def installed(tmp_path):
    """A folder with our files as pip would write them, as far as an import goes."""
    shutil.copytree(ROOT / "emukit", tmp_path / "emukit", ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    shutil.copy(ROOT / "emukit_climate.py", tmp_path)
    return tmp_path


def test_version_is_the_distributions():
    assert PROJECT["project"]["name"] == NAME
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "emukit/distribution.py"
    assert emukit.__version__ == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    assert PROJECT["project"]["scripts"] == {"emukit": "emukit_climate:main"}


def test_no_text_installs_the_other_project():
    shown = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("emukit/**/*.py"), ROOT / "Makefile"]
    for path in shown:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(?<!un)install\s+['"]?emukit\b(?!-climate)""", text), path


def test_only_the_other_projects_metadata_counts(tmp_path):
    package = tmp_path / "emukit"
    package.mkdir()
    for name in ("emukit_climate-0.1.0.dist-info", "emukit-extra.txt"):
        (tmp_path / name).mkdir()
    older = tmp_path / "emukit-0.1.0.dist-info"
    older.mkdir()
    (older / "entry_points.txt").write_text("[console_scripts]\nemukit = emukit.cli:main\n")
    places = [str(tmp_path), str(tmp_path / "nowhere"), "archive.zip"]
    assert other_project(package, places) == ""
    (tmp_path / "emukit-0.4.11.dist-info").mkdir()
    assert other_project(package, places) == f"it is installed as {tmp_path / 'emukit-0.4.11.dist-info'}"


def test_files_of_the_other_project_among_ours_are_said_on_import(installed):
    code, out, err = run(["-c", "import emukit; print(emukit.__version__)"], installed)
    assert (code, out.strip(), err) == (0, VERSION, "")
    (installed / "emukit" / "bayesian_optimization").mkdir()
    code, out, err = run(["-c", "import emukit; print(emukit.__version__)"], installed)
    assert (code, out.strip()) == (0, VERSION)
    assert "shares its import name with another project named emukit" in err
    assert "pip uninstall emukit" in err


@pytest.mark.parametrize("case", ["first on the path", "over our files"])
def test_command_that_finds_the_other_project_says_so(installed, tmp_path_factory, case):
    theirs = installed if case == "over our files" else tmp_path_factory.mktemp("theirs")
    (theirs / "emukit").mkdir(exist_ok=True)
    (theirs / "emukit" / "__init__.py").write_text("__version__ = '0.4.11'\n")
    code, out, err = run(["-c", "import emukit_climate; emukit_climate.main()"], theirs, installed)
    assert (code, out) == (2, "")
    assert str(theirs / "emukit" / "__init__.py") in err
    assert "pip uninstall emukit" in err
    assert "Traceback" not in err


def test_command_runs_ours(installed):
    code, out, err = run(
        ["-c", "import sys, emukit_climate; sys.argv[1:] = ['--version']; emukit_climate.main()"], installed
    )
    assert (code, out, err) == (0, f"emukit {VERSION}\n", "")


@pytest.mark.parametrize(("target", "extras"), [("demo", []), ("test", [".[dev]"]), ("install", [".[dev]"])])
def test_demo_installs_nothing_that_only_development_needs(tmp_path, target, extras):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    # Without what a make around the tests hands to its children: it makes this one say which folder it works in.
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True, env=outside)
    assert re.findall(r"-e '(\.\[\w+\])'", done.stdout) == extras
    assert re.search(r"-e \.$", done.stdout, re.MULTILINE)
    if target == "demo":
        commands = re.findall(r"emukit (\w+) ", done.stdout)
        assert commands[-5:] == ["train", "submit", "score", "leaderboard", "report"]
        assert "report/demo/index.html" in done.stdout.splitlines()[-1]
