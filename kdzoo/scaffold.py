"""`kdzoo new`: a distiller, source, model or data set of the user's own to start from, with its test."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from kdzoo.checks import Problems, UsageError, usage
from kdzoo.files import write_atomic
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
        UsageError: the name cannot be or is taken, or a file is there already; nothing is overwritten.
        StorageError: the folder cannot be written.
    """
    who, problems = f"kdzoo new {kind}", Problems()
    registry, _ = KINDS[kind]
    with problems:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
            raise usage(who, "the name", "small letters, digits and '_', as in my_kd", name)
        if name in registry.names():
            raise UsageError(f"{who}: there is a {registry.name} {name!r} already. Choose another name.")
    texts = rendered(kind, name)
    for file in texts:
        with problems:
            if (folder / file).exists():
                raise UsageError(f"{who}: {folder / file} is there already. Choose another name or --output.")
    problems.raise_all()
    for file, text in texts.items():
        write_atomic(folder / file, text.encode())
    return [folder / file for file in texts]
