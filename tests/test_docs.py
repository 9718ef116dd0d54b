"""Promises of the README and of docs/ that the code does not keep: commands, links, examples, generated pages."""

import importlib.util
import re
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer

from emukit.cli import app, main
from emukit.data.card import parse_card

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("baselines/**/*.md")]
PAGES = sorted(set(PAGES) - {p for p in PAGES if p.relative_to(ROOT).parts[0].startswith(".")})
GUIDE = (DOCS / "guide.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^    (emukit [a-z].*?)(?:  +#.*)?$", re.MULTILINE)


def named(path):
    return str(path.relative_to(ROOT))


def text_of(path):
    return path.read_text(encoding="utf-8")


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text):
    """The places of a page that a link can name, as GitHub calls them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def called(*words):
    """The exit code of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["emukit", *words])
        try:
            main()
        except SystemExit as e:
            return e.code or 0
    return 0


def test_readme_is_short():
    assert len(text_of(README).split()) <= 900


def test_readme_shows_reference_lines_and_the_origin_of_its_best_number():
    table = text_of(README)
    assert "noise ceiling" in table
    assert "another run of the climate model" in table
    assert "someone who had seen the hidden months" in " ".join(table.split())


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        other = (page.parent / place).resolve() if place else page
        assert other.exists(), target
        assert other.is_relative_to(ROOT), target
        if anchor and other.suffix == ".md":
            assert anchor in anchors(text_of(other)), target


def test_every_page_of_docs_is_in_the_index():
    index = text_of(DOCS / "README.md")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


TARGETS = set(re.findall(r"\bmake ([a-z]\w+)", text_of(README) + text_of(DOCS / "README.md")))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_targets_that_are_named_exist(target):
    assert re.search(rf"^{target}:", text_of(ROOT / "Makefile"), re.MULTILINE)


@cache
def whole_command():
    """The command line with all that is below it."""
    return typer.main.get_command(app)


SHOWN = {line for page in PAGES if page.name != "CHANGELOG.md" for line in COMMAND.findall(text_of(page))}


@pytest.mark.parametrize("line", sorted(SHOWN))
def test_every_command_shown_is_known_with_its_options(line):
    command = whole_command()
    words = shlex.split(line.replace("'", ""))[1:]
    while hasattr(command, "commands"):
        # `emukit runs FOLDER` lists without the word.
        command = command.commands[words.pop(0) if words[0] in command.commands else "list"]
        if not words:
            break
    if hasattr(command, "commands"):
        command = command.commands["list"]
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for option in (w.partition("=")[0] for w in words if w.startswith("-")):
        assert option in options, option


@pytest.fixture(scope="module")
def first_steps(tmp_path_factory):
    """What the commands of the guide's first section leave behind."""
    (section,) = re.findall(r"^## Ten minutes on the demo climate\n(.*?)^## ", GUIDE, re.DOTALL | re.MULTILINE)
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("EMUKIT_DATA", raising=False)
        codes = {line: called(*shlex.split(line)[1:]) for line in COMMAND.findall(section)}
    return folder, codes


@pytest.mark.slow
def test_first_steps_of_the_guide_run_as_they_stand(first_steps):
    folder, codes = first_steps
    assert len(codes) > 8
    assert set(codes.values()) == {0}, codes
    for left in ("demo.zarr", "runs/best/run.json", "ssp245.nc", "submissions/best/score.json"):
        assert (folder / left).exists(), left


@pytest.mark.slow
def test_python_example_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert called("train", "linear", "--data", "demo", "--out", "runs/demo", "-q") == 0
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(compile(code, "guide.md", "exec"), {})
    value, part = map(float, capsys.readouterr().out.split())
    assert 0.2 < value < 1.5
    assert 0.0 < part < 1.5


def test_reference_of_commands_is_what_the_commands_say():
    assert text_of(DOCS / "commands.md") == script("make_commands").page(), "run `make docs`"


def test_every_key_of_a_card_is_explained():
    page = text_of(DOCS / "cards.md")
    assert page == script("make_cards").written(page), "run `make docs`"
    assert not re.findall(r"^\| `(\w+)` \|.*\|  \|$", page, re.MULTILINE), "a key without a meaning in its docstring"


def test_picture_of_the_architecture_shows_the_imports_of_the_code():
    assert text_of(DOCS / "architecture.svg") == script("make_architecture").picture(), "run `make docs`"


def test_card_shown_is_a_card():
    (text,) = re.findall(r"```toml\n(.*?)```", text_of(DOCS / "cards.md"), re.DOTALL)
    card = parse_card(tomllib.loads(text), "docs/cards.md")
    assert card.protocols[card.default_protocol].validation


def test_every_package_and_module_at_the_top_is_described():
    listed = set(re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text_of(DOCS / "architecture.md"), re.MULTILINE))
    there = {p.stem for p in (ROOT / "emukit").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert listed == there - {"__init__", "__main__"}
