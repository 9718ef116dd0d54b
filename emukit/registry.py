"""Components by name: built-in ones, those of installed packages, and classes that a user names in full.

A registry is a mapping from name to entry. A name means, in this order:

1. a component of emukit itself;
2. an entry point of the registry's group, such as ``emukit.networks``, of any installed package;
3. ``module:Name``, the object itself, where the user has named it.

Invariant: what a file says never decides alone which code is imported. Run folders and submissions come from strangers,
so ``module:Name`` in one of them is refused unless the user names the same object: in a command, in a recipe file that
the command names, or in the environment variable `EMUKIT_TRUST`. Installing a package is trust enough for its entry
points. No module is imported before an entry is loaded, and listing names imports none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from emukit.errors import EmukitError, RecipeError, RunError

# ``module:Name``; further dots in the name are not needed by anybody.
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
# Names become parts of the names of folders, and of commands.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
# Targets or modules, with commas, whose code run folders may name.
TRUST = "EMUKIT_TRUST"


@dataclass(frozen=True)
class Entry:
    """Where a component is, and what it is good for.

    Attributes:
        target: ``module:Name``.
        summary: One line for lists.
        distribution: The package that it came with; empty where it is emukit's own.
        version: Of that package.
        problem: Why it cannot be loaded, where its name alone tells.
    """

    target: str
    summary: str = ""
    distribution: str = ""
    version: str = ""
    problem: str = ""

    @property
    def built_in(self) -> bool:
        """Whether it is emukit's own."""
        return self.target.startswith("emukit.")

    @property
    def origin(self) -> str:
        """Where it came from, in words."""
        package = f"{self.distribution} {self.version}".strip()
        return "emukit" if self.built_in else f"{self.target} of {package}" if package else self.target

    def load(self) -> Any:
        """The object itself.

        Raises:
            RecipeError: It is not emukit's own, and cannot be imported.
        """
        if self.problem:
            raise RecipeError(self.problem, hint="uninstall one of them, or name the class in full as module:Name")
        module, _, name = self.target.partition(":")
        if self.built_in:
            return getattr(import_module(module), name)
        try:
            return getattr(import_module(module), name)
        # A module of somebody else may fail in any way while it is imported.
        except Exception as e:
            raise RecipeError(
                f"cannot import {self.origin}",
                found=f"{type(e).__name__}: {e}".splitlines()[0],
                expected=f"a module {module} with {name} in it",
                hint=f"python -c 'import {module}' shows where it fails",
            ) from e


@dataclass(frozen=True)
class Plugin:
    """A component of somebody else that a run or an emulator needs, as its files keep it.

    Attributes:
        kind: Of which registry, such as ``network``.
        name: As the recipe names it.
        target: ``module:Name``.
        distribution: The package it came from; empty where the class was named in full.
        version: Of that package.
    """

    kind: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def package(self) -> str:
        """Its package with the version; the module where it is of none."""
        return f"{self.distribution} {self.version}" if self.distribution else self.target.partition(":")[0]


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """Components of one kind by name.

    Iteration gives the built-in names and then those of installed packages; a name ``module:Name`` is found by lookup
    alone. Installed packages are looked through only when a name is not built in, or when names are listed.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, E],
        *,
        entry: type[E],
        accepts: Callable[[Any], bool],
        expected: str,
        error: type[EmukitError] = RecipeError,
    ) -> None:
        """A registry of emukit's own components, to which packages may add.

        Args:
            kind: What its components are, for people, such as ``network``.
            group: Of the entry points that add to it.
            built_in: emukit's own components.
            entry: Of what class the entries of other packages are.
            accepts: Whether a loaded object is one.
            expected: What objects must be, for the message where one is not.
            error: Raised for a name that is not found.
        """
        self.kind, self.group, self.built_in = kind, group, dict(built_in)
        self._accepts, self._expected, self._error = accepts, expected, error
        self._entry = entry
        self._named: set[str] = set()

    def __getitem__(self, name: str) -> E:
        if name in self.built_in:
            return self.built_in[name]
        if (found := self._plugins().get(name)) is not None:
            return found
        if name in self:
            return self._named_entry(name)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in self.built_in
            or name in self._plugins()
            # Networks and emulators are named in one place: what the class is decides.
            or (self.may_import(name) and self._accepts(self._named_entry(name).load()))
        )

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._plugins()

    def __len__(self) -> int:
        return len(self.built_in) + len(self._plugins())

    @property
    def plugins(self) -> Mapping[str, E]:
        """Components of installed packages by name, none of them imported."""
        return self._plugins()

    @property
    def ignored(self) -> list[str]:
        """What is installed and cannot be used by its name, a sentence each."""
        lines = []
        for point in installed(self.group):
            package = _package(point)
            if point.name in self.built_in:
                lines.append(f"the {self.kind} {point.name} of {package} is ignored: emukit has one of that name")
            elif not NAME.fullmatch(point.name) or not TARGET.fullmatch(point.value):
                lines.append(f"the {self.kind} {point.name} of {package} is ignored: NAME = module:Name is wanted")
        return lines

    def admit(self, name: str) -> None:
        """Let ``module:Name`` be imported from now on, because the user names it; other names need no leave."""
        self._named.add(name)

    def find(self, name: str) -> E:
        """The entry of a name.

        Raises:
            EmukitError: Of the registry's own kind: there is none of that name, or it may not be imported.
        """
        if name in self:
            return self[name]
        raise self.refusal(name)

    def refusal(self, name: str) -> EmukitError:
        """What is to be said of a name that is not found."""
        if self.may_import(name):
            return self._error(f"{name} is not a {self.kind}", expected=self._expected)
        if TARGET.fullmatch(name):
            return self._error(
                f"{name} is code outside emukit, and only a file names it",
                expected=f"a {self.kind} of emukit or of an installed package, or one that the command names itself",
                hint=f"if you trust it: export {TRUST}={name}",
            )
        return self._error(f"unknown {self.kind} {name!r}", expected=", ".join(self))

    def load(self, name: str) -> Any:
        """The object of a name.

        Raises:
            EmukitError: It is not found, may not be imported, or is something else than the registry holds.
        """
        entry = self.find(name)
        found = entry.load()
        if not self._accepts(found):
            raise self._error(
                f"{name} is not a {self.kind}", found=f"{entry.origin}: {found!r}"[:200], expected=self._expected
            )
        return found

    def used(self, names: Iterable[str]) -> list[Plugin]:
        """Those of some names that are not emukit's own, as files keep them.

        Raises:
            EmukitError: One is not found.
        """
        entries = {name: self.find(name) for name in names}
        return [
            Plugin(self.kind, name, e.target, e.distribution, e.version)
            for name, e in entries.items()
            if not e.built_in
        ]

    def check(self, needed: Plugin, where: str) -> None:
        """Refuse to continue where a component that a file needs is missing, or another one has its name.

        Args:
            needed: What the file says.
            where: The file or folder, for the message.

        Raises:
            RunError: It is not installed, is not trusted, or is of another package.
        """
        entry = self.get(needed.name)
        if entry and (entry.target, entry.distribution) == (needed.target, needed.distribution):
            return
        expected = f"{needed.target} of the package {needed.package}" if needed.distribution else needed.target
        if entry:
            raise RunError(
                f"{where} needs the {self.kind} {needed.name} of another package than the one installed here",
                found=entry.origin,
                expected=expected,
                hint=f"install {needed.package}, and uninstall the other",
            )
        if not needed.distribution:
            raise RunError(
                f"{where} needs the {self.kind} {needed.name}, code outside emukit that no installed package registers",
                expected="your word that it may be imported",
                hint=f"put the module where Python finds it; if you trust it: export {TRUST}={needed.target}",
            )
        raise RunError(
            f"{where} needs the {self.kind} {needed.name}, which is not installed",
            expected=expected,
            hint=f"install the package, if you trust it: pip install '{needed.distribution}=={needed.version}'",
        )

    def _plugins(self) -> dict[str, E]:
        found: dict[str, E] = {}
        for point in installed(self.group):
            name = point.name
            if name in self.built_in or not NAME.fullmatch(name) or not TARGET.fullmatch(point.value):
                continue
            distribution, version = _distribution(point)
            problem = ""
            if name in found:
                before = found[name]
                problem = (
                    f"several packages have a {self.kind} {name}: {before.distribution} {before.version}, "
                    f"{distribution} {version}"
                )
            summary = problem or f"of the package {distribution} {version}"
            found[name] = self._entry(point.value, summary, distribution, version, problem)
        return found

    def may_import(self, target: str) -> bool:
        """Whether a name is a ``module:Name`` that the user named, or that emukit or an installed package registers."""
        if not TARGET.fullmatch(target):
            return False
        trusted = [word.strip() for word in os.environ.get(TRUST, "").split(",")]
        return (
            target in self._named
            or target in trusted
            or target.partition(":")[0] in trusted
            or any(point.value == target for point in installed(self.group))
            or any(entry.target == target for entry in self.built_in.values())
        )

    def _named_entry(self, target: str) -> E:
        origin = next((_distribution(p) for p in installed(self.group) if p.value == target), ("", ""))
        return self._entry(target, "", *origin)


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group of all installed packages, in the order of `sys.path`; nothing is imported."""
    return tuple(point for point in _installed(tuple(sys.path)) if point.group == group)


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of all groups of emukit, read once for a search path."""
    return tuple(point for point in _all() if point.group.startswith("emukit."))


def _all() -> Iterable[EntryPoint]:
    found = entry_points()
    return (point for group in found.groups for point in found.select(group=group))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("", "")


def _package(point: EntryPoint) -> str:
    return " ".join(_distribution(point))
