"""Settings: frozen, strict, and wrong ones reported all at once with their dotted paths.

Invariant: a settings object exists only if every value in it was checked. Nothing is coerced (`"3"` is not 3) and no
unknown key passes. What the settings of a component are is written next to that component; this module knows none.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from emukit.errors import RecipeError
from emukit.files import read_text

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, strict, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


# No settings are nested deeper.
MOST_DEEP = 32
# Of a value in a message, so many signs: it may be a whole file.
MOST_SIGNS = 200
MODEL_HINT = "fix the keys named above; `emukit models NAME` shows every setting with its default"


def check(kind: type[S], values: Mapping[str, Any], *, source: str, hint: str = MODEL_HINT) -> S:
    """Build settings from plain values.

    Args:
        kind: The settings class.
        values: Nested plain values, as read from TOML.
        source: Where they come from, for the message.
        hint: What to do about mistakes.

    Raises:
        RecipeError: Some keys are unknown, mistyped or contradictory; the message lists all of them.
    """
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as e:
        problems = describe(e)
        raise RecipeError(
            f"{source} has {len(problems)} wrong setting{'s' if len(problems) > 1 else ''}",
            found="\n            ".join(problems),
            hint=hint,
        ) from None


def describe(error: ValidationError) -> list[str]:
    """One line per mistake: dotted path, what is wrong, what was given."""
    lines = []
    for e in error.errors(include_url=False):
        # What is wrong between tables names them.
        path = ".".join(str(p) for p in e["loc"]) or "recipe"
        if e["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key (value {_shown(e['input'])})")
        elif e["type"] == "missing":
            lines.append(f"{path}: missing")
        else:
            message = e["msg"].removeprefix("Value error, ")
            # What is wrong between the settings of a table names them; the table itself would bury the sentence.
            value = (
                "" if e["type"] == "value_error" and isinstance(e["input"], dict) else f" (value {_shown(e['input'])})"
            )
            lines.append(f"{path}: {message[0].lower()}{message[1:]}{value}")
    return lines


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # A whole number of thousands of digits, or what is nested as deeply.
        return "too long to be shown"
    return text if len(text) <= MOST_SIGNS else f"{text[:MOST_SIGNS]}..."


def _tuples(value: Any) -> Any:
    # TOML and JSON know only lists; frozen settings hold tuples, and strict mode does not turn one into the other.
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(v) for v in value)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        RecipeError: It is missing or not TOML.
    """
    try:
        return toml_values(path)
    except OSError as e:
        raise RecipeError(f"cannot read {path}", found=e.strerror or str(e), hint="name an existing TOML file") from e
    except ValueError as e:
        raise RecipeError(f"{path} is not TOML", found=str(e), hint="fix the line named above") from e


def toml_values(path: Path) -> dict[str, Any]:
    """The values of a TOML file in UTF-8, with or without a byte-order mark.

    Raises:
        OSError: It cannot be read.
        ValueError: It is in another encoding, or is not TOML as `read_toml` takes it.
    """
    return parse_toml(read_text(path))


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        ValueError: It is not TOML, is nested deeper than settings are, or holds whole numbers beyond 64 bits.
    """
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _refuse_odd(values, MOST_DEEP)
    return values


def _refuse_odd(value: Any, depth: int) -> None:
    if not depth:
        raise ValueError("nested too deeply")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number beyond 64 bits")
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _refuse_odd(inner, depth - 1)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid on top, tables merged key by key."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `a.b=c` words into nested values; c is read as a TOML value, and as text where it is not one.

    Raises:
        RecipeError: A word has no `=` or an empty key, or two words contradict each other.
    """
    out: dict[str, Any] = {}
    for word in assignments:
        path, equals, text = word.partition("=")
        keys = [k.strip() for k in path.split(".")]
        if not equals or not all(keys):
            raise RecipeError(
                f"cannot read the setting {word!r}", expected="KEY.KEY=VALUE", hint="--set training.epochs=5"
            )
        try:
            parsed = parse_toml(f"v = {text}")
        except ValueError:
            parsed = {"v": text.strip()}
        if len(parsed) > 1:
            raise RecipeError(f"the setting {word!r} holds several lines", hint="one --set for each setting")
        value = parsed["v"]
        node = out
        for k in keys[:-1]:
            node = node.setdefault(k, {})
            if not isinstance(node, dict):
                raise RecipeError(f"{path} is set both as a value and as a table", hint="set it once")
        node[keys[-1]] = value
    return out


def options_of(function: Callable[..., Any], context: Iterable[str] = ()) -> type[Settings]:
    """The keyword options of a constructor or `fit` function as a settings class.

    A network is built from plain keyword arguments and knows no settings; its signature is what users may set.

    Args:
        function: A function or class whose keyword-only parameters have annotations and defaults.
        context: Parameters that emukit fills in and users cannot set.

    Raises:
        RecipeError: An option has no type or no default, as may be in somebody else's code.
    """
    target = function.__init__ if inspect.isclass(function) else function
    name = getattr(function, "__qualname__", repr(function))
    try:
        hints = get_type_hints(target)
    except (NameError, TypeError, AttributeError) as e:
        raise RecipeError(f"the types of the options of {name} cannot be read", found=str(e)) from e
    options = [
        p
        for p in inspect.signature(target).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in set(context)
    ]
    wrong = [p.name for p in options if p.name not in hints or p.default is p.empty]
    if wrong:
        raise RecipeError(
            f"options of {name} have no type or no default",
            found=", ".join(wrong),
            expected="width: int = 16",
            hint="every keyword after the star is a setting that users may leave out",
        )
    said = docstring_table(function, "Args") | docstring_table(target, "Args")
    fields: dict[str, Any] = {p.name: (hints[p.name], Field(p.default, description=said.get(p.name))) for p in options}
    try:
        return create_model("Options", __base__=Settings, **fields)
    except PydanticSchemaGenerationError as e:
        raise RecipeError(
            f"an option of {name} is of a type that no recipe can hold",
            found=str(e).splitlines()[0],
            expected="numbers, texts, truths, Literal choices, and tuples or tables of them",
        ) from e


def docstring_table(described: Any, section: str) -> dict[str, str]:
    """What a Google style docstring says of each name in a section.

    Args:
        described: A class or function.
        section: Such as ``Args`` or ``Attributes``.

    Returns:
        Name to description; a name that stands with others before one colon has theirs.
    """
    lines = (inspect.getdoc(described) or "").splitlines()
    if f"{section}:" not in lines:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index(f"{section}:") + 1 :]:
        if line and not line.startswith(" "):
            break
        head = re.match(r"    ([A-Za-z_][\w, ]*): (.*)", line)
        if head:
            names = [n.strip() for n in head[1].split(",")]
            found |= dict.fromkeys(names, head[2].strip())
        elif line.strip():
            found |= {n: f"{found[n]} {line.strip()}" for n in names}
    return found


def toml_value(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(k))}={toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quoted(key)


def _quoted(text: str) -> str:
    # TOML has JSON's escapes, but no pairs of surrogates, and wants one for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
