"""Help with examples that do not work, flags that seem to want a value, and options that are spelled in two ways."""

import io
import json
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer
from rich.console import Console

from emukit.cli import app
from emukit.competitions.cse151b import cse151b
from emukit.runs.score_tables import ScoreTable

ROOT = typer.main.get_command(app)


def commands(command=ROOT, path=()):
    """Every command with its words, without the spellings of earlier versions."""
    for name, below in getattr(command, "commands", {}).items():
        if below.hidden:
            continue
        yield from commands(below, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = dict(commands())
EXAMPLES = [
    (path, line.strip().replace("\\[", "["))
    for path, command in COMMANDS.items()
    for line in (command.epilog or "").splitlines()
    if line.strip().startswith("emukit ")
]


def options(command):
    return {o: p for p in command.params for o in p.opts if o.startswith("-")}


def test_every_command_has_an_example():
    assert {path for path, _ in EXAMPLES} == set(COMMANDS)


@pytest.mark.parametrize(("path", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_example_is_understood_by_its_command(path, line):
    words = shlex.split(line)[1:]
    assert "--data demo" in line or not {"--data"} & set(words)
    # `emukit runs FOLDER` lists without the word.
    own = words[len(path) :] if words[: len(path)] == [*path] else words[1:]
    COMMANDS[path].make_context(line, own)


def test_examples_are_the_end_of_the_help(emukit):
    shown = emukit("train", "--help").out.rstrip().splitlines()
    assert shown[-1].strip() == "emukit train cnn-gru --data demo --set training.epochs=2 --out runs/mine"


def test_flags_are_shown_without_a_type(emukit):
    for words in ((), ("train",), ("runs", "rm"), ("data", "demo")):
        assert "<bool>" not in emukit(*words, "--help").out


def test_commands_stand_in_groups(emukit):
    shown = emukit("--help").out
    places = [shown.index(f"─ {group} ─") for group in ("Train and select", "Look and compare", "Submit")]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown
    assert "--install-completion" in shown


def test_one_spelling_for_all_commands():
    for path, command in COMMANDS.items():
        own = options(command)
        assert {"--quiet", "-q"} <= set(own), path
        assert "--markdown" not in own or own["--markdown"].hidden, path
        assert not any(p.metavar == "STORE" and p.param_type_name == "argument" for p in command.params), path
    scored = [("evaluate",), ("score",), ("crossval",), ("ablate",), ("leaderboard",), ("runs", "list")]
    for path in (*scored, ("models",), ("check-submission",)):
        assert "--format" in options(COMMANDS[path]), path


def test_completion_of_the_shell_names_commands(emukit, monkeypatch):
    monkeypatch.setenv("_EMUKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "emukit eval")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert emukit().out.split() == ["evaluate"]


@pytest.mark.parametrize("words", ["data check STORE", "data check --data STORE"])
def test_store_is_named_by_the_option_as_by_the_earlier_spelling(emukit, demo_store, words):
    answer = emukit(*(str(demo_store) if w == "STORE" else w for w in words.split()))
    assert answer.code == 0
    assert answer.out.startswith(str(demo_store))


def test_store_that_is_named_twice_is_refused(emukit, demo_store):
    answer = emukit("data", "windows", demo_store, "--data", demo_store)
    assert answer.code == 2
    assert "the store is named twice" in answer.err


def test_formats_hold_what_the_table_shows(emukit, linear_run):
    table = emukit("evaluate", linear_run, "-q").out
    plain = json.loads(emukit("evaluate", linear_run, "-q", "--format", "json").out)
    assert f"{plain['score']:.4f}" in table
    csv = emukit("evaluate", linear_run, "-q", "--format", "csv").out.splitlines()
    assert csv[0].startswith("table,line,score,tas.monthly_rmse")
    assert float(csv[1].split(",")[-7]) == plain["score"]
    md = emukit("evaluate", linear_run, "-q", "--format", "md").out
    assert "| tas RMSE of the time mean, K |" in md
    assert f"| {plain['score']:.4f} |" in md


def test_terminal_table_says_measures_and_units_in_eighty_columns(emukit, linear_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = emukit("evaluate", linear_run, "-q").out
    assert max(map(len, shown.splitlines())) <= 80
    heads = [line.split() for line in shown.splitlines()]
    first = heads.index(["RMSE", "RMSE", "MAE", "RMSE", "RMSE", "MAE"])
    assert heads[first : first + 2] == [
        ["RMSE", "RMSE", "MAE", "RMSE", "RMSE", "MAE"],
        ["score", "K", "K", "K", *["mm/day"] * 3],
    ]
    assert "reference: climatology" in " ".join(shown.split())
    assert "floor" not in shown
    assert "MAE of their standard deviation" in " ".join(shown.split())


def test_lone_score_has_references_next_to_it(emukit, demo_store, linear_run):
    assert emukit("data", "demo", "open.zarr", "--grid", "8x12", "--members", "2", "--reveal", "-q").code == 0
    assert emukit("submit", linear_run, "--out", "entry", "-q").code == 0
    scored = emukit("score", "entry/submission.csv", "--data", "open.zarr", "-q", "--format", "json")
    assert scored.code == 0, scored.err
    scores = json.loads(scored.out)["scores"]
    assert list(scores) == ["submission.csv", "reference: another run", "noise ceiling"]
    assert scores["noise ceiling"]["score"] < scores["reference: another run"]["score"]


def test_rows_in_another_order_are_a_note(emukit, demo_store, linear_run):
    assert emukit("submit", linear_run, "--out", "entry", "-q").code == 0
    path = Path("entry/submission.csv")
    head, *rows = path.read_text().splitlines(keepends=True)
    # Elsewhere: an entry's digest is that of the file it was written with.
    path = Path("shuffled.csv")
    path.write_text("".join([head, *reversed(rows)]))
    answer = emukit("check-submission", path, "--data", demo_store)
    assert answer.code == 0, answer.out
    assert "note: misordered: " in answer.err
    assert "is good" in answer.out
    path.write_text("".join([head, *reversed(rows[1:])]))
    answer = emukit("check-submission", path, "--data", demo_store, "--format", "json")
    assert answer.code == 1
    assert [(p["what"], p["kind"]) for p in json.loads(answer.out)] == [("problem", "missing"), ("note", "misordered")]


def test_reading_the_first_line_of_a_table_alone_is_an_error(monkeypatch):
    """As `head -1` does: it is gone before a second piece is written."""

    class Head(io.StringIO):
        def write(self, text):
            if self.getvalue():
                raise BrokenPipeError
            return super().write(text)

    read = Head()
    monkeypatch.setattr(import_module("emukit.cli.options"), "open_console", lambda: Console(file=read, width=80))
    block = ScoreTable("months", cse151b(), {"a": {"score": 0.5}})
    import_module("emukit.cli.options").print_blocks([block, block], "table", None)
    assert read.getvalue().startswith("months")
