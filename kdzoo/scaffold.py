"""`kdzoo new`: a distiller, source, model or data set of the user's own to start from, with its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template

from kdzoo.checks import Problems, UsageError, usage
from kdzoo.files import OUTPUT, write_atomic
from kdzoo.methods import GROUPS
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES

# What is written, where it is registered, and how it is tried out.
KINDS = {
    "distiller": (DISTILLERS, "--methods scratch,{name}"),
    "source": (SOURCES, "--methods scratch,kd+{name}"),
    "model": (MODELS, "--methods scratch,kd --student {name}"),
    "dataset": (DATASETS, "--methods scratch --data {name} --data-root DIR"),
}


def rendered(kind: str, name: str) -> dict[str, str]:
    """Give the texts of a plug-in and of its test, by file name.

    Args:
        kind: "distiller", "source", "model" or "dataset".
        name: as it is registered; the class is called alike, in capitals.
    """
    words = {"name": name, "Class": "".join(part.capitalize() for part in name.split("_")) or "Mine"}
    folder = files("kdzoo") / "templates"
    texts = {f"{name}.py": f"{kind}.txt", f"test_{name}.py": f"test_{kind}.txt"}
    return {
        file: Template((folder / template).read_text(encoding="utf-8")).substitute(words)
        for file, template in texts.items()
    }


def write_new(kind: str, name: str, folder: Path) -> list[Path]:
    """Write a plug-in and its test.

    Args:
        kind: "distiller", "source", "model" or "dataset".
        name: as it shall be registered.
        folder: where to; it is made.

    Returns:
        The two files.

    Raises:
        UsageError: the name cannot be, is taken or would hide something else, or a file is there already;
            nothing is overwritten.
        StorageError: the folder cannot be written.
    """
    who, problems = f"kdzoo new {kind}", Problems()
    with problems:
        _check_name(who, kind, name, folder)
    texts = rendered(kind, name)
    for file in texts:
        with problems:
            if (folder / file).exists():
                raise UsageError(f"{who}: {folder / file} is there already. Choose another name or --output.")
    problems.raise_all()
    for file, text in texts.items():
        write_atomic(folder / file, text.encode(), OUTPUT)
    return [folder / file for file in texts]


def _check_name(who: str, kind: str, name: str, folder: Path) -> None:
    """Refuse a name that the file, its test or the commands that use it could not have."""
    if keyword.iskeyword(name):
        raise UsageError(f"{who}: {name!r} is a word of Python's own. Choose another name.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise usage(who, "the name", "small letters, digits and '_', as in my_kd", name)
    methods = (DISTILLERS, SOURCES)
    own = KINDS[kind][0]
    for registry in methods if own in methods else (own,):
        if name in registry.names():
            raise UsageError(f"{who}: there is a {registry.name} {name!r} already. Choose another name.")
    if own in methods and name in GROUPS:
        words = " and ".join(GROUPS)
        raise UsageError(f"{who}: {words} stand for several methods. Choose another name.")
    if name.startswith("test_") or name.endswith("_test") or name == "conftest":
        raise UsageError(
            f"{who}: pytest would take {name}.py for a file of tests. Choose a name that neither begins with "
            "'test_' nor ends with '_test', nor is 'conftest'."
        )
    if name in sys.stdlib_module_names or _is_importable(name, folder):
        raise UsageError(
            f"{who}: {name}.py would hide the module {name!r}, which can be imported here. Choose a name "
            "that no module has."
        )


def _is_importable(name: str, folder: Path) -> bool:
    """Say whether there is a module of that name outside of the current folder and the one to write to."""
    here = {Path.cwd().resolve(), folder.resolve()}
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent not in here
