"""Reading JSON that nobody vouches for: bounded, never executed, and checked against a declared shape.

A `Shape` is a function that takes a value and its place ("epochs[3].test.top1") and raises `Mismatch` where
it does not fit.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any, str], None]

LARGEST_FILE = 32 * 2**20  # bytes; 10,000 epochs with twenty terms each are half of it
LARGEST_COUNT = 100_000  # entries of one list or mapping
LONGEST_TEXT = 10_000  # characters
DEEPEST = 24  # mappings and lists inside each other
LONGEST_NUMBER = 40  # characters of one literal; a float64 prints in 24


class Mismatch(Exception):
    """What does not fit: its place, what is accepted there, and what was found."""

    def __init__(self, place: str, expected: str, got: object) -> None:
        super().__init__(place, expected, got)
        self.place, self.expected, self.got = place, expected, Short(got)


class Short:
    """Shows a value in a message without its length getting out of hand."""

    def __init__(self, value: object) -> None:
        self.text = reprlib.repr(value)

    def __repr__(self) -> str:
        return self.text


def parse(content: str | bytes) -> Any:
    """Parse JSON within bounds; doubled keys, NaN, Infinity and numbers that overflow are refused.

    Args:
        content: a file's text or bytes (UTF-8).

    Returns:
        Mappings, lists, texts, numbers, booleans and None, nested at most `DEEPEST` deep.

    Raises:
        Mismatch: the content is not such JSON.
    """
    if len(content) > LARGEST_FILE:
        raise Mismatch("size", f"at most {LARGEST_FILE} bytes", len(content))
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
    except UnicodeDecodeError:
        raise Mismatch("content", "JSON in UTF-8", content[:40]) from None
    try:
        value = json.loads(
            text, object_pairs_hook=_mapping, parse_constant=_constant, parse_int=_integer, parse_float=_real
        )
    except RecursionError:
        raise Mismatch("content", f"nested at most {DEEPEST} deep", text[:40]) from None
    except json.JSONDecodeError as error:
        raise Mismatch("content", f"JSON (line {error.lineno}: {error.msg})", text[:40]) from None
    _bounded(value)
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise Mismatch(
            "content", "a mapping without doubled names", next(n for n in names if names.count(n) > 1)
        )
    return found


def _constant(literal: str) -> Any:
    raise Mismatch("content", "JSON, where a number that is not finite is null", literal)


def _integer(literal: str) -> int:
    if len(literal) > LONGEST_NUMBER:
        raise Mismatch("content", f"numbers of at most {LONGEST_NUMBER} characters", literal)
    return int(literal)


def _real(literal: str) -> float:
    if len(literal) > LONGEST_NUMBER or not math.isfinite(float(literal)):
        raise Mismatch("content", f"finite numbers of at most {LONGEST_NUMBER} characters", literal)
    return float(literal)


def _bounded(value: Any) -> None:
    """Hold what no shape asks for again: depth, counts, and texts that can be written as UTF-8."""
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                raise Mismatch("content", f"texts of at most {LONGEST_TEXT} characters", value)
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise Mismatch("content", "text without lone surrogates", value)
        elif isinstance(value, (dict, list)):
            if depth >= DEEPEST:
                raise Mismatch("content", f"nested at most {DEEPEST} deep", value)
            if len(value) > LARGEST_COUNT:
                raise Mismatch("content", f"at most {LARGEST_COUNT} entries in a list or mapping", len(value))
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            waiting.extend((item, depth + 1) for item in inner)


def anything(value: Any, place: str) -> None:
    """Accept every value."""


def text(limit: int = 200, pattern: str = "") -> Shape:
    """Accept a text that is not empty, of at most `limit` characters, that matches the whole of `pattern`."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise Mismatch(place, f"a text of 1 to {limit} characters", value)
        if pattern and not re.fullmatch(pattern, value):
            raise Mismatch(place, f"a text of the form {pattern}", value)

    return check


def choice(*values: str | int) -> Shape:
    """Accept one of some values."""

    def check(value: Any, place: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in values:
            raise Mismatch(place, " or ".join(repr(v) for v in values), value)

    return check


def number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False) -> Shape:
    """Accept a finite number (or an integer, `whole`) in [low, high]; true and false are none."""
    words = f"{'an integer' if whole else 'a number'} in [{low:g}, {high:g}]"

    def check(value: Any, place: str) -> None:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise Mismatch(place, words, value)
        if not math.isfinite(value):
            raise Mismatch(place, "finite (null where it is not)", value)

    return check


def nullable(shape: Shape) -> Shape:
    """Accept null too."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            try:
                shape(value, place)
            except Mismatch as wrong:
                if wrong.place == place:
                    raise Mismatch(place, f"{wrong.expected} or null", value) from None
                raise

    return check


def listing(item: Shape, limit: int) -> Shape:
    """Accept a list of at most `limit` items of one shape."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) > limit:
            raise Mismatch(place, f"a list of at most {limit} entries", value)
        for index, entry in enumerate(value):
            item(entry, f"{place}[{index}]")

    return check


def fields(
    required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None, others: Shape | None = None
) -> Shape:
    """Accept a mapping.

    Args:
        required: fields that must be there, and their shapes.
        optional: fields that may be there.
        others: the shape of any further field; None accepts no further field.
    """
    known = {**required, **(optional or {})}

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise Mismatch(place, "a mapping", value)
        for name in required:
            if name not in value:
                raise Mismatch(f"{place}.{name}".lstrip("."), "there", "nothing")
        for name, entry in value.items():
            shape = known.get(name, others)
            if shape is None:
                raise Mismatch(place or "the record", f"made of {', '.join(known)}", name)
            shape(entry, f"{place}.{name}".lstrip("."))

    return check
