"""Recorded texts and settings, put into words that can break neither a page, a terminal nor a spreadsheet."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate


def printable(text: str) -> str:
    """Put a space for each run of line breaks and control or invisible characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown(text: str) -> str:
    """Escape a text so that markdown (GitHub's, in a table or not) shows it as it is, on one line."""
    escaped = re.sub(r"([\\`*\[\]<|~&])", r"\\\1", printable(text))
    # Inside a word an underscore is no mark, and most names have some.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)


def github_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out texts, escaped before, as a table of GitHub's markdown: the first column left, others right."""
    alignment = ["left", *["right"] * (len(headers) - 1)]
    table: str = tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=alignment)
    return table


def ascii_only(text: str, longest: int) -> str:
    """Write a text in characters that are one column wide everywhere, cut to a length."""
    return crop(printable(text).encode("ascii", "backslashreplace").decode(), longest)


def crop(text: str, longest: int) -> str:
    """Cut a text that is too long, and show that it was."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def spreadsheet(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would run as a formula."""
    return "'" + text if text.lstrip()[:1] in ("=", "+", "-", "@") or text[:1] in ("\t", "\r") else text


def listed(settings: Mapping[str, Any]) -> str:
    """Say settings in words, one after the other: "lr 0.1, momentum 0.9"."""
    return ", ".join(f"{name} {words(value)}" for name, value in settings.items())


def words(settings: Any) -> str:
    """Say settings in words: {"type": "SGD", "lr": 0.1} is "SGD (lr 0.1)".

    Args:
        settings: nested mappings, lists, texts, numbers, booleans and None.
    """
    if isinstance(settings, Mapping):
        rest = dict(settings)
        head = next((str(rest.pop(name)) for name in ("type", "name") if isinstance(rest.get(name), str)), "")
        inner = listed(rest)
        if head and inner:
            return f"{head} ({inner})"
        return head or (f"({inner})" if inner else "none")
    if isinstance(settings, (list, tuple)):
        nested = any(isinstance(item, (Mapping, list, tuple)) for item in settings)
        return ("; " if nested else "/").join(words(item) for item in settings) or "none"
    return settings if isinstance(settings, str) else "none" if settings is None else json.dumps(settings)


def counted(number: int, things: str) -> str:
    """Write a count: "1 epoch", "2 epochs", "1 teacher pass".

    Args:
        number: of them.
        things: in the plural; in the singular they are an s, or the es of passes, shorter.
    """
    one = things[:-2] if things.endswith("sses") else things[:-1]
    return f"{number} {one if number == 1 else things}"


def sized(count: int) -> str:
    """Write a number of bytes in units of a thousand: "812 bytes", "44.8 MB"."""
    if count < 1000:
        return counted(count, "bytes")
    size, units = count / 1000, iter(("kB", "MB", "GB"))
    unit = next(units)
    while size >= 999.95 and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}"
