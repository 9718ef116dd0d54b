"""A folder that is called ``~``, which people remove with ``rm -r ~``; and outputs over what is not theirs."""

import functools
import inspect
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from emukit.cli import app
from emukit.cli.options import App, expanded
from tests.cli.conftest import TINY


def commands(typer_app, prefix=()):
    for command in typer_app.registered_commands:
        yield (*prefix, command.name or command.callback.__name__), command
    for group in typer_app.registered_groups:
        yield from commands(group.typer_instance, (*prefix, group.name))


COMMANDS = dict(commands(app))


def values_of(command):
    """What a command is called with where every word that may be a path begins with ``~``."""
    seen = {}

    @functools.wraps(command.callback.__wrapped__)
    def stub(**values):
        seen.update(values)

    alone = App()
    alone.command("alone", cls=command.cls)(stub)
    words, asked = [], []
    hints = get_type_hints(stub, include_extras=True)
    for name in inspect.signature(stub).parameters:
        kind, (info, *_) = hints[name].__origin__, hints[name].__metadata__
        text = str(kind)
        if "Path" not in text and not (kind is str or text in ("str | None", "list[str] | None", "list[str]")):
            continue
        asked.append(name)
        if isinstance(info, typer.models.ArgumentInfo):
            words.append("~/x")
        else:
            # In an annotation the first name stands where a default would.
            names = [d for d in (info.default, *(info.param_decls or ())) if str(d).startswith("--")]
            option = names[0] if names else f"--{name.replace('_', '-')}"
            words.append(f"{option}=~/x")
    result = CliRunner().invoke(alone, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {name: seen[name] for name in asked}


def test_all_commands_are_looked_at():
    assert {("train",), ("data", "demo"), ("runs", "rm"), ("score",)} <= COMMANDS.keys()
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("name", COMMANDS, ids="-".join)
def test_a_path_of_a_command_keeps_its_tilde(name, monkeypatch, tmp_path):
    """Every word of every command, so that a new option cannot be forgotten."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in values_of(COMMANDS[name]).values():
        for one in value if isinstance(value, list | tuple) else [value]:
            assert str(one) == str(tmp_path / "x")


def test_a_tilde_of_nobody_is_a_name():
    assert expanded(Path("~nobody-of-this-name/x")) == Path("~nobody-of-this-name/x")
    assert expanded("a=~/x") == "a=~/x"


def test_a_run_is_made_in_a_folder_called_tilde(emukit, demo_store, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "s.zarr").symlink_to(demo_store)
    (home / "r.toml").write_text('emulator = "linear"\n')
    words = ("train", "linear", "--data=~/s.zarr", "--recipe=~/r.toml", "--out=~/runs/a", "-q")
    assert emukit(*words).code == 0
    assert (home / "runs" / "a" / "run.json").is_file()
    assert not Path("~").exists()
    predict = emukit("predict", "~/runs/a", "--scenario", "ssp245", "--out=~/p.nc", "-q")
    assert (predict.code, (home / "p.nc").is_file()) == (0, True), predict.err


@pytest.mark.parametrize("out", ["own.nc", "own.zarr"])
def test_a_prediction_replaces_what_it_is_trained_on(emukit, linear_run, demo_store, out):
    import xarray as xr

    words = ("predict", linear_run, "--scenario", "ssp245", "--out", out, "-q")
    with xr.open_zarr(demo_store, chunks=None) as ds:
        small = ds[["CO2"]].load()
    small.to_netcdf(out) if out.endswith(".nc") else small.to_zarr(out, zarr_format=2)
    for more in ((), ("--overwrite",)):
        answer = emukit(*words, *more)
        assert (answer.code, "is not a prediction" in answer.err) == (2, True), answer.err
    with xr.open_dataset(out, engine=None) as ds:
        assert list(ds) == ["CO2"]
    Path(out).rename("aside")
    assert emukit(*words).code == 0
    assert "--overwrite replaces it" in emukit(*words).err
    assert emukit(*words, "--overwrite").code == 0


def test_a_log_of_a_finished_run_has_a_hole_and_nobody_says_so(emukit, demo_store, undrawn):
    words = ("train", "cnn-gru", *TINY, "--data", demo_store, "--out", "net")
    assert emukit(*words, "-q").code == 0
    log = Path("net/metrics.jsonl")
    whole = log.read_text()
    log.write_text(whole.splitlines()[1] + "\n")
    told = "metrics.jsonl: 1 of 2 epochs missing: 1"
    assert told in emukit("evaluate", "net").err
    assert told in emukit("runs", "net").err
    assert emukit("report", "net", "-q").code == 0
    (page,) = Path("report/entries").iterdir()
    assert told in page.read_text()
    log.unlink()
    assert "2 of 2 epochs missing" in emukit("runs", "net").err
    again = emukit(*words, "--resume")
    assert (again.code, "written again from last.pt" in again.err) == (0, True), again.err
    assert log.read_text() == whole
    assert "missing" not in emukit("runs", "net").err
