"""Promises of the README, and of the page on studies, that the code does not keep."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = README + (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")


def test_python_example_runs(tmp_path, monkeypatch, capsys):
    from emukit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["emukit", "train", "linear", "--data", "demo", "--out", "runs/demo", "-q"])
    main_exit(main)
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    value, part = map(float, capsys.readouterr().out.split())
    assert 0.2 < value < 1.5
    assert 0.0 < part < 1.5


def main_exit(main):
    code = 0
    try:
        main()
    except SystemExit as e:
        code = e.code
    assert not code


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^    (emukit [a-z].*?)(?:  +#.*)?$", SHOWN, re.MULTILINE))))
def test_every_command_shown_is_known_with_its_options(line, monkeypatch, capsys):
    from emukit.cli import main

    words = line.split()
    verb = words[1:3] if words[1] == "data" else words[1:2]
    monkeypatch.setattr(sys, "argv", ["emukit", *verb, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    main_exit(main)
    shown = capsys.readouterr().out
    for option in (w for w in words if w.startswith("--")):
        assert option in shown


def test_tree_names_what_is_there():
    (tree,) = re.findall(r"## What is where\n\n(.*?)\n\n", README, re.DOTALL)
    for name in re.findall(r"^ +(\w+)/ ", tree, re.MULTILINE):
        assert (ROOT / name).is_dir() or (ROOT / "emukit" / name).is_dir()
    for name in re.findall(r"(\w+\.py)\b", tree):
        assert (ROOT / "emukit" / name).is_file()
    packages = {p.name for p in (ROOT / "emukit").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages <= set(re.findall(r"(\w+)/", tree))
