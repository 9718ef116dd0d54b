"""The command lines that train a run again.

Invariant: each line says everything that decided the numbers (recipe, protocol, members, seed, what was trained
before) and where its run goes, so that the lines, one after the other, make the run again. Where the data is they say
as far as the training was told: what `$EMUKIT_DATA` named is not written down.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from emukit.errors import EmukitError
from emukit.recipes.catalogue import identity_digest
from emukit.recipes.schema import FinishedRun, Recipe, WrapperRecipe
from emukit.runs.record import RunRecord, checked_command, read_record
from emukit.runs.run import FINAL, Run, checked_recipe

# How a training ran, which decides no number; and what the lines say anew.
_HOW = ("--devices", "--strategy", "--track", "--out")
_FLAGS = ("-q", "--quiet", "--resume", "--compile", "--channels-last")
# Where the recipe is kept of a run that no command of `emukit train` is known of.
RECIPE_FILE = "recipe.toml"


def training_commands(record: RunRecord, folder: Path, recipe: Recipe) -> list[str]:
    """What trains a run again, in order, each line once.

    Args:
        record: Of the run.
        folder: Where it lies.
        recipe: What it trained.

    Returns:
        First the runs that its recipe takes as they are, and the one that selected for a final fit; the run itself
        last. Of a run that was not trained by `emukit train`, the line trains ``recipe.toml``, the file that an
        entry holds the text of.
    """
    return list(dict.fromkeys(_lines(record, folder, recipe)))


def _lines(record: RunRecord, folder: Path, recipe: Recipe) -> Iterator[str]:
    for finished in _finished(recipe):
        yield from _lines_of(Path(finished.folder), finished.identity)
    words = _words(record.command)
    own, refitted = place(folder), record.identity.final is not None and "--refit" in words
    identity = record.identity
    selected = _value(words, "--final")
    if identity.final and not refitted and selected:
        yield from _lines_of(Path(selected), identity.final)
    known = {
        "--protocol": identity.protocol,
        "--members": None if identity.members is None else ",".join(map(str, identity.members)),
        "--seed": str(identity.seed),
    }
    for option, value in known.items():
        if value is not None and _value(words, option) is None:
            words += [option, value]
    # The second training of --refit lies beside the first.
    words += ["--out", own.removesuffix(FINAL) if refitted else own]
    yield shlex.join(words)


def _words(command: str) -> list[str]:
    """The words of a command that decide the numbers."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word in _FLAGS:
            skip = False
        elif word.partition("=")[0] in _HOW:
            skip = "=" not in word
        else:
            kept.append(word)
    return shlex.split(checked_command(shlex.join(kept))) or ["emukit", "train", RECIPE_FILE]


def _value(words: Sequence[str], option: str) -> str | None:
    """What an option is set to last; None where it is not."""
    found = None
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else words[i + 1] if i + 1 < len(words) else None
    return found


def _lines_of(folder: Path, identity: str) -> Iterator[str]:
    """What trains another run again, if it is where it was; else nothing is known of it."""
    with suppress(EmukitError):
        record = read_record(folder)
        if identity in (record.identity.digest, identity_digest(record.identity.model_dump(mode="json"))):
            yield from _lines(record, folder, checked_recipe(folder, record))


def _finished(recipe: Recipe) -> Iterator[FinishedRun]:
    if isinstance(recipe, WrapperRecipe):
        for base in recipe.bases:
            if base.run:
                yield base.run
            else:
                yield from _finished(base.recipe)


def submit_command(run: Run, folder: Path, options: Sequence[str] = ()) -> str:
    """What writes the submission of a run again.

    Args:
        run: The run.
        folder: Of the submission.
        options: Further words.
    """
    own = place(run.folder)
    refitted = run.record.identity.final is not None and "--refit" in _words(run.record.command)
    if refitted:
        own = own.removesuffix(FINAL) + FINAL
    return shlex.join(["emukit", "submit", own, "--out", place(folder), *options])


def place(folder: Path | str) -> str:
    """A folder as a command names it: from the working folder, if it lies there."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith(os.pardir) else relative
