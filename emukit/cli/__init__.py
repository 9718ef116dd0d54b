"""The command line: parse, call, print.

Invariant: nothing heavy is imported before a command runs, so `emukit --help` stays instant; a user's mistake ends in
one clear message and exit code 2, never in a traceback.
"""

from __future__ import annotations

import signal
import sys
import time
import warnings
from typing import Annotated, NoReturn

import typer

from emukit.cli import (
    ablate,
    crossval,
    data,
    downscale,
    report,
    results,
    runs,
    submissions,
    train,
)
from emukit.cli import options as o
from emukit.distribution import VERSION
from emukit.errors import EmukitError, shortage
from emukit.parallel.launch import PeerLostError, ReportedByMainError, follow_parent, is_main
from emukit.parallel.threads import spare_threads
from emukit.terminal import echo

# Longer than torchrun takes to see that a process has ended: a fraction of a second, and more on a busy machine.
SPEAK_AFTER_SECONDS = 15.0

app = o.App(
    name="emukit",
    help="Climate emulation from emission forcings to a scored submission.",
    no_args_is_help=True,
    cls=o.CommandGroup,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for register in (train, crossval, ablate, results, report, submissions, downscale):
    register.add_commands(app)
app.add_typer(runs.app, name="runs", rich_help_panel=o.LOOK)
app.add_typer(data.app, name="data", rich_help_panel=o.DATA)


def _version(show: bool) -> None:
    if show:
        echo(f"emukit {VERSION}")
        raise typer.Exit


@app.callback()
def common_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error; may stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Climate emulation from emission forcings to a scored submission."""


def main() -> None:
    """Entry point of the `emukit` command."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    # A stop request by the system cleans up like Ctrl-C; training takes the signal itself, and saves first.
    for request in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup a closed terminal is to be ignored.
        if signal.getsignal(request) != signal.SIG_IGN:
            signal.signal(request, lambda number, frame: sys.exit(128 + number))
    follow_parent()
    spare_threads()
    if not (debug or sys.warnoptions):
        # Warnings are for who writes Python: what users should know is said by errors and notes.
        warnings.simplefilter("ignore")
    try:
        app(args=arguments, prog_name="emukit")
    except EmukitError as e:
        if debug:
            raise
        _refuse(e)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone: that is not an error, and Python must not complain on exit either.
        sys.stderr.close()
        sys.exit(0)
    except OSError as e:
        # A full disk or a forbidden place, met outside the atomic writers: appending to a log, say.
        if debug:
            raise
        if short := shortage(e):
            _refuse(short)
        place = f" {e.filename}" if e.filename else ""
        echo(
            f"error: cannot use{place or ' a file'}\n  found:    {e.strerror or e}\n  do:       fix it and try again",
            err=True,
        )
        sys.exit(2)
    except Exception as e:
        if debug:
            raise
        if short := shortage(e):
            _refuse(short)
        _let_the_first_speak()
        # The edge of the program: whatever is not an EmukitError is a mistake of emukit, and is said to be one.
        echo(f"internal error: {type(e).__name__}: {e}\n--debug shows where.", err=True)
        sys.exit(1)
    finally:
        # Nothing is left to clean up; raising in what Python itself does at its end would only make a noise.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _refuse(error: EmukitError) -> NoReturn:
    """Say what is wrong, and end as after a user's mistake."""
    _let_the_first_speak(first=not isinstance(error, PeerLostError))
    if not isinstance(error, ReportedByMainError):
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        echo(error.text(), err=True)
    sys.exit(2)


def _let_the_first_speak(first: bool = True) -> None:
    """Among several processes, an error that all of them met is printed by the first alone.

    It ends at once, and torchrun then ends the others while they wait here; one that failed by itself goes on to say
    so, before those that it left alone would.

    Args:
        first: Whether the first may speak at once; where another has ended, torchrun ends the first too as it waits.
    """
    if not (first and is_main()):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SPEAK_AFTER_SECONDS * (1 if first else 2))
