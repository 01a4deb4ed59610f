"""Where data sets are kept if the user names no folder, and how file names are told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# What a message advises where the cache cannot be written.
ELSEWHERE = "set KDZOO_DATA to a folder elsewhere"


def cache() -> Path:
    """Give kdzoo's folder of data: `$KDZOO_DATA`, else kdzoo/data in `$XDG_CACHE_HOME` or ~/.cache."""
    if place := os.environ.get("KDZOO_DATA"):
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kdzoo" / "data"


def places(root: Path | None) -> list[Path]:
    """List where to look for a data set: in the user's folder alone, or in the cache."""
    return [cache() if root is None else Path(root).expanduser()]


def shown(name: str | Path) -> str:
    r"""Write a file's name so that it fits one line and any encoding: line breaks and bytes that are no text
    become \n and \udc80."""
    text = str(name)
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= 300 else f"{plain[:200]}...{plain[-80:]}"


def few(names: Sequence[str], count: int = 3) -> str:
    """Name the first of many, and say how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more:,} more" if more > 0 else "")
