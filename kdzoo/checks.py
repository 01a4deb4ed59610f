"""How mistakes are told: one exception family, one form of message, and options that know their range.

An option is a keyword-only argument. Its annotation says what it accepts, so a distiller declares it once:

    def __init__(self, *, temperature: Annotated[float, Interval(low=0, open_low=True)] = 4.0): ...
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union


class KdzooError(Exception):
    """What kdzoo raises on purpose; str() is the message for the user."""


class UsageError(KdzooError, ValueError):
    """A mistake in what the user asked for: found before training, exit status 2."""


class FormError(KdzooError, ValueError):
    """A method or a source gave something in another form than its contract says. Exit status 1."""


class StorageError(KdzooError, OSError):
    """A file could not be written or read; what was there before is kept. Exit status 1."""


def usage(who: str, what: str, expected: str, got: object, do: str = "") -> UsageError:
    """Build the message form of the project: who, what, what is accepted, what came, what to do."""
    return UsageError(f"{who}: {what} must be {expected}, got {got!r}." + (f" {do}" if do else ""))


def kind_of(thing: object) -> str:
    """Say what a thing is: "a Tensor", "an int", "None"."""
    name = type(thing).__name__
    return "None" if thing is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# A longer list says nothing in one line.
_MOST_NAMES = 60


def unknown(who: str, kind: str, name: str, known: Iterable[str], advice: str = "") -> UsageError:
    """Build the answer to an unknown name: its nearest matches, or all that there are if they fit a line."""
    names = list(known)
    lowered = {n.lower(): n for n in names}
    close = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    if close:
        hint = f"Did you mean {' or '.join(repr(c) for c in close)}?"
    elif len(names) > _MOST_NAMES:
        hint = f"There are {len(names):,}, and none is near."
    else:
        hint = f"There are: {', '.join(names)}."
    return UsageError(" ".join(filter(None, (f"{who}: there is no {kind} {name!r}.", hint, advice))))


@contextmanager
def told_by(who: str) -> Iterator[None]:
    """Put whose mistake it is before what is said of it.

    Args:
        who: for example "method 'kd'".
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{who}: {error}") from error


def option_parts(name: str) -> tuple[str, str]:
    """Part an option of what is made of others, such as "crd.weight", into the other's name and its option.

    Args:
        name: names of others may have dots, options have none.

    Returns:
        Both; the first is empty for an option without a dot.
    """
    owner, _, option = name.rpartition(".")
    return owner, option


class Problems:
    """Gathers mistakes so that a user hears of all of them at once."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Keep a mistake and go on; anything else passes through."""
        if isinstance(error, UsageError):
            self.messages.extend(m for m in str(error).splitlines() if m not in self.messages)
            return True
        return False

    def raise_all(self) -> None:
        """Raise one error that lists every mistake, a line each; do nothing if there was none."""
        if self.messages:
            raise UsageError("\n".join(self.messages))


@dataclass(frozen=True)
class Interval:
    """The numbers that an option accepts."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        left = "(" if self.open_low or math.isinf(self.low) else "["
        right = ")" if self.open_high or math.isinf(self.high) else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"


Positive = Annotated[float, Interval(low=0, open_low=True)]
NonNegative = Annotated[float, Interval(low=0)]
Fraction = Annotated[float, Interval(low=0, high=1)]
Count = Annotated[int, Interval(low=1)]
Natural = Annotated[int, Interval(low=0)]


_NAMES = {float: "a number", int: "an integer", bool: "true or false", str: "a text"}

# What a Literal may list.
Choice = str | int | bool


def spelled(value: object) -> str:
    """Write a value of an option as users do: true, 0.5, 2, mean."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Option:
    """A keyword argument that a user may set, or must where it is required: name, what it accepts, default
    (None where it is required, or may stay absent), and a line of documentation."""

    name: str
    kinds: tuple[type, ...]
    choices: tuple[Choice, ...]
    interval: Interval | None
    default: Any
    doc: str = ""
    required: bool = False
    absent: bool = False

    @property
    def accepted(self) -> str:
        """Say in words what is accepted."""
        words = [repr(c) if isinstance(c, str) else spelled(c) for c in self.choices]
        for kind in self.kinds:
            words.append(
                _NAMES[kind] + (f" {self.interval}" if self.interval and kind in (int, float) else "")
            )
        return " or ".join(words)

    def parse(self, who: str, given: object) -> Any:
        """Turn a text or a value into a value of the right type and range.

        Raises:
            UsageError: it is none that the option accepts.
        """
        for choice in self.choices:
            if _as(type(choice), given) == choice:
                return choice
        for kind in self.kinds:
            value = _as(kind, given)
            if value is not None and (self.interval is None or kind in (bool, str) or value in self.interval):
                return value
        raise usage(who, self.name, self.accepted, given)


def _as(kind: type, given: object) -> Any:
    if kind is bool:
        words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        return (
            given if isinstance(given, bool) else words.get(given.lower()) if isinstance(given, str) else None
        )
    if kind is str:
        return given if isinstance(given, str) else None
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    try:
        number = float(given)
    except (ValueError, OverflowError):
        return None
    if kind is float:
        # -0.0 is 0.0, in its name and key too.
        return number + 0.0
    return int(number) if math.isfinite(number) and number == int(number) else None


def options_of(target: type | Callable[..., Any]) -> dict[str, Option]:
    """Read the options off a signature: keyword-only arguments, their annotations and their docstring's Args.

    Args:
        target: a class (its `__init__`, documented there or at the class, or at one that it inherits from) or
            a function.

    Returns:
        The options by name, in declared order; those of a class that is made of others are stated there.
    """
    stated = getattr(target, "stated_options", None)
    if isinstance(target, type) and stated is not None:
        return dict(stated())
    function: Any = vars(target).get("__init__") or target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    # Each distiller that is built asks for those of its class, a search over options thousands of times.
    read = _options_known if isinstance(target, type) else _options_read
    return dict(read(target, inspect.unwrap(function)))


def _options_read(target: type | Callable[..., Any], function: Any) -> dict[str, Option]:
    hints = typing.get_type_hints(function, include_extras=True)
    things: list[Any] = [function]
    if isinstance(target, type):
        things = [thing for cls in reversed(target.__mro__) for thing in (cls, vars(cls).get("__init__"))]
    documented: dict[str, str] = {}
    for thing in things:
        documented |= _documented(inspect.cleandoc(thing.__doc__ or ""))
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            kinds, choices, interval = _accepts(hints.get(name, _like(parameter.default)))
            odd = [k for k in kinds if k not in _NAMES] + [c for c in choices if not isinstance(c, Choice)]
            if odd:
                raise UsageError(
                    f"{getattr(target, '__name__', target)}: option {name!r} must be annotated with float, "
                    f"int, bool, str, a Literal of texts, integers or truth values, or a union of them, got "
                    f"{odd[0]}."
                )
            _check_apart(f"{getattr(target, '__name__', target)}: option {name!r}", choices)
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            found[name] = Option(name, kinds, choices, interval, default, documented.get(name, ""), required)
    return found


_options_known = functools.lru_cache(maxsize=1024)(_options_read)


def _check_apart(who: str, choices: tuple[Choice, ...]) -> None:
    """Refuse choices that one spelling stands for, such as 1, "1" and True."""
    for choice in choices:
        alike = [c for c in choices if _as(type(c), spelled(choice)) == c]
        if len(alike) > 1:
            raise UsageError(
                f"{who} must have choices that are written apart, got {alike[0]!r} and {alike[1]!r}."
            )


def _like(default: object) -> type:
    """Give the type of a default, for an option that nobody annotated."""
    return type(default) if type(default) in _NAMES else str


def _accepts(hint: Any) -> tuple[tuple[type, ...], tuple[Choice, ...], Interval | None]:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *notes = typing.get_args(hint)
        kinds, choices, interval = _accepts(inner)
        return kinds, choices, next((n for n in notes if isinstance(n, Interval)), interval)
    if origin is Literal:
        return (), tuple(choice for choice in typing.get_args(hint) if choice is not None), None
    if origin in (Union, types.UnionType):
        parts = [_accepts(part) for part in typing.get_args(hint) if part is not type(None)]
        return (
            tuple(kind for part in parts for kind in part[0]),
            tuple(choice for part in parts for choice in part[1]),
            next((part[2] for part in parts if part[2]), None),
        )
    return (hint,), (), None


def _documented(docstring: str) -> dict[str, str]:
    section = re.search(r"^(?:Args|Options):\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section.group(1), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def checked(
    who: str, options: Mapping[str, Option], given: Mapping[str, object], *, partly: bool = False
) -> dict[str, Any]:
    """Check given options and fill in the defaults.

    Args:
        who: whose options they are, for the message.
        options: what there is (`options_of`).
        given: names and values; values may be texts.
        partly: whether required options may still be missing, as in the defaults of a benchmark.

    Returns:
        A value for every option, in declared order; what is missing is left out.

    Raises:
        UsageError: an unknown name (with its nearest matches), a value out of range, or none for a required
            option; all of them at once.
    """
    problems = Problems()
    for name in given:
        if name not in options:
            with problems:
                if not options:
                    raise UsageError(f"{who}: it has no options, got {name!r}.")
                raise unknown(who, "option", name, options)
    values = {}
    for name, option in options.items():
        with problems:
            # A default of None is no value that could be parsed; what it means is its class's matter.
            silent = not option.required and option.default is None and given.get(name) is None
            if name in given and not silent:
                values[name] = option.parse(who, given[name])
            elif not option.required:
                values[name] = option.default
            elif not partly:
                raise UsageError(f"{who}: option {name!r} must be given: {option.accepted}.")
    problems.raise_all()
    return values


def as_names(who: str, what: str, given: Iterable[str]) -> frozenset[str]:
    """Take a collection of names; a text alone would be taken for its letters.

    Args:
        who: whose names they are, for the message.
        what: what they are called.
        given: a set, tuple or list.

    Raises:
        UsageError: it is a text.
    """
    if isinstance(given, str):
        raise UsageError(f"{who}: {what} must be a set of names, got the text {given!r}.")
    return frozenset(given)


def check_positional(who: str, function: Callable[..., Any], count: int, where: str = "") -> None:
    """Refuse an argument that has a default and is not keyword-only: no option of that name would be known.

    Args:
        who: whose argument it is, for the message.
        function: what is called, or a class.
        count: of the first arguments, which are given by place and may have a default.
        where: the argument stands, for the message.

    Raises:
        UsageError: there is such an argument.
    """
    for name, parameter in list(inspect.signature(function).parameters.items())[count:]:
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty:
            raise UsageError(f"{who}: {name!r} has a default, so it is an option: put it behind '*'{where}.")


def check_options_of(cls: type) -> None:
    """Let a class check its options: wrap the `__init__` that it declares, if it declares one.

    Keyword-only arguments are options: checked before the body runs, and kept as `self.options`. Positional
    ones, such as sizes, are passed on as they are.

    Args:
        cls: a class that is just being made (`__init_subclass__`).
    """
    if "__init__" not in vars(cls):
        return
    declared: Any = vars(cls)["__init__"]
    check_positional(cls.__name__, declared, 0, " in __init__")

    @functools.wraps(declared)
    def checked_init(self: Any, *sized: Any, **given: Any) -> None:
        # Those of the class that declares them: one that inherits it may pass on a part of its own.
        values = checked(type(self).__name__, options_of(cls), given)
        declared(self, *sized, **values)
        self.options = cls.resolved(values) if hasattr(cls, "resolved") else values

    cls.__init__ = checked_init  # type: ignore[misc]
