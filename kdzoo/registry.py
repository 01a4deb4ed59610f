"""Where distillers, sources, models and data sets are found by name; a file that registers one is all it
takes."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmengine.registry import Registry as MMRegistry

from kdzoo.checks import UsageError, unknown, usage

T = TypeVar("T", bound=Callable[..., Any])


class Registry(MMRegistry):  # type: ignore[misc]
    """mmengine's registry with near-name hints, and an answer that names both places of a doubled name.

    Args:
        name: what is kept, in the singular, as messages call it: "distiller".
        location: the package whose modules register themselves when they are imported.
    """

    def __init__(self, name: str, location: str) -> None:
        super().__init__(name, scope="kdzoo", locations=[location])

    def register(self, name: str) -> Callable[[T], T]:
        """Register a class or function under a name.

        Raises:
            UsageError: the name is taken; both places are named.
        """

        def keep(thing: T) -> T:
            taken = self._module_dict.get(name)
            if taken is not None and _place(taken) != _place(thing):
                raise UsageError(
                    f"{self.name} {name!r} is registered twice: {_place(taken)} and {_place(thing)}. "
                    f"Rename one of them."
                )
            self._register_module(module=thing, module_name=name, force=taken is not None)
            return thing

        return keep

    def find(self, name: str, who: str = "kdzoo") -> Any:
        """Give what is registered under a name.

        Raises:
            UsageError: there is none; the message has the nearest names.
        """
        self.import_from_location()
        if not isinstance(name, str):
            raise usage(who, self.name, "a name", name)
        if name not in self._module_dict:
            raise unknown(who, self.name, name, self.names())
        return self._module_dict[name]

    def names(self) -> list[str]:
        """List the registered names in alphabetical order."""
        self.import_from_location()
        return sorted(self._module_dict)


def _place(thing: Any) -> str:
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return f"{thing.__module__}.{thing.__qualname__}"


def plug_in(thing: Any) -> str | None:
    """Hash the file that defines a thing from outside kdzoo: a changed plug-in must not pass for the old one.

    Args:
        thing: a registered class or function.

    Returns:
        SHA-256 in hexadecimal; None for what is kdzoo's own (it has versions) or has no file.
    """
    if thing.__module__.partition(".")[0] == "kdzoo":
        return None
    try:
        return hashlib.sha256(Path(inspect.getsourcefile(thing) or "").read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None


def import_modules(package: str, path: list[str]) -> None:
    """Import every module of a package, so that a new file registers itself without being named anywhere."""
    for module in sorted(m.name for m in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


DISTILLERS = Registry("distiller", "kdzoo.distillers")
SOURCES = Registry("source", "kdzoo.sources")
MODELS = Registry("model", "kdzoo.models")
DATASETS = Registry("data set", "kdzoo.data")
