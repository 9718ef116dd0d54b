"""Options that another option has taken the effect of.

Invariant: what is refused was set away from its default; whoever leaves such an option alone is let by.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from emukit.errors import RecipeError


def refuse_unused(fit: Callable[..., Any], why: str, hint: str, **options: Any) -> None:
    """Refuse options that would do nothing.

    Args:
        fit: Whose keywords they are, with their defaults.
        why: What leaves them without effect, such as ``model.warming names no series``.
        hint: What gives them one.
        options: Their values.

    Raises:
        RecipeError: Some of them are not at their defaults.
    """
    parameters = inspect.signature(fit).parameters
    changed = {name: value for name, value in options.items() if value != parameters[name].default}
    if changed:
        raise RecipeError(
            f"{' and '.join(f'model.{name}' for name in changed)} would do nothing",
            found=f"{', '.join(f'model.{n} = {v!r}' for n, v in changed.items())}, where {why}",
            expected=", ".join(f"{n} at its default, {parameters[n].default!r}" for n in changed),
            hint=f"leave {'it' if len(changed) == 1 else 'them'} out, or {hint}",
        )
