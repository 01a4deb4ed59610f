"""What is said of a fault in somebody's code: one line that names the place, and the frames from there on."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import kdzoo
from kdzoo.checks import KdzooError
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES

# Folders of nobody's own code: kdzoo's, Python's and that of installed packages.
_INSTALLED = tuple(
    folder.resolve()
    for folder in (
        Path(kdzoo.__file__).parent,
        *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")),
    )
)


def told(fault: BaseException) -> str:
    """Say in a line what was raised, and where in the user's code.

    Args:
        fault: what a method, a source or a network raised; the message alone of what kdzoo raises on purpose.
    """
    if isinstance(fault, KdzooError):
        return str(fault)
    *_, last = [None, *_own_frames(fault)]
    where = f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last else ""
    return " ".join(f"{type(fault).__name__}: {fault}".split()) + where


def traceback_of(fault: BaseException) -> str:
    """Write the traceback from the user's code on, or all of it where none of that is in it.

    Args:
        fault: what was raised; of what kdzoo raises on purpose there is nothing to show.
    """
    if isinstance(fault, KdzooError):
        return ""
    first = next(_own_frames(fault), fault.__traceback__)
    return "".join(traceback.format_exception(type(fault), fault, first)).rstrip()


def _own_frames(fault: BaseException) -> Iterator[TracebackType]:
    things = [thing for r in (DISTILLERS, SOURCES, MODELS, DATASETS) for thing in r.module_dict.values()]
    # Plug-ins of installed packages are somebody's own, too.
    packages = {str(thing.__module__).partition(".")[0] for thing in things} - {"kdzoo"}
    frame = fault.__traceback__
    while frame is not None:
        package = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
        file = frame.tb_frame.f_code.co_filename
        # What was compiled from a text, as <frozen importlib> and notebooks are, is known by its module.
        installed = file[:1] == "<" or any(Path(file).resolve().is_relative_to(f) for f in _INSTALLED)
        if package in packages or not installed:
            yield frame
        frame = frame.tb_next
