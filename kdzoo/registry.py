"""Where distillers, sources, models and data sets are found by name; a file that registers one is all it
takes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mmengine.registry import Registry as MMRegistry

from kdzoo.checks import UsageError, check_positional, told_by, unknown, usage
from kdzoo.methods import GROUPS, JOINT, MOST_JOINED, NAME
from kdzoo.provenance import remember

T = TypeVar("T", bound=Callable[..., Any])
BY_PLUGIN = "If a plug-in brings it, name its file by --plugin."


class Registry(MMRegistry):  # type: ignore[misc]
    """mmengine's registry with near-name hints, and an answer that names both places of a doubled name.

    Args:
        name: what is kept, in the singular, as messages call it: "distiller".
        location: the package whose modules register themselves when they are imported.
        places: how many arguments what is registered gets by place, all others being options; None for
            classes that check that themselves.
    """

    def __init__(self, name: str, location: str, places: int | None = None) -> None:
        super().__init__(name, scope="kdzoo", locations=[location])
        self._places = places
        self._join: Callable[[Mapping[str, Any]], Any] | None = None
        self._joined: dict[Any, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Register a class or function under a name.

        Raises:
            UsageError: the name is taken (both places are named) or cannot be spelled, or an option is not
                keyword-only.
        """

        def keep(thing: T) -> T:
            _check_name(self, name, thing)
            if self._places is not None:
                check_positional(f"{self.name} {name!r}", thing, self._places)
            taken = self._module_dict.get(name)
            if taken is not None and _place(taken) != _place(thing):
                raise UsageError(
                    f"{self.name} {name!r} is registered twice: {_place(taken)} and {_place(thing)}. "
                    f"Rename one of them."
                )
            self._register_module(module=thing, module_name=name, force=taken is not None)
            if str(thing.__module__).partition(".")[0] != "kdzoo":
                remember(thing)
            return thing

        return keep

    def import_from_location(self) -> None:
        """Import what the zoo brings, and what installed packages bring."""
        from kdzoo.plugins import load_installed

        super().import_from_location()
        load_installed()

    def join(self, make: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
        """Let names joined by `~` stand for what is made of the things that they name.

        Args:
            make: from what is registered, by name, to what they are together.
        """
        self._join = make
        return make

    def has(self, name: str) -> bool:
        """Say whether a name, or each of several that are joined, is registered."""
        names = set(self.names())
        return set(name.split(JOINT) if self._join else [name]) <= names

    def find(self, name: str, who: str = "kdzoo") -> Any:
        """Give what is registered under a name, or made of what several names joined by `~` stand for.

        Raises:
            UsageError: there is none; the message has the nearest names.
        """
        self.import_from_location()
        if not isinstance(name, str):
            raise usage(who, self.name, "a name", name)
        if self._join and JOINT in name:
            parts = name.split(JOINT)
            if len(set(parts)) < len(parts) or len(parts) > MOST_JOINED or not all(parts):
                raise usage(who, f"a sum of {self.name}s", f"at most {MOST_JOINED}, each once", name)
            things = {part: self.find(part, who) for part in sorted(parts)}
            found = tuple(things.items())
            # Whoever asks gets the same one, as long as its parts are the same.
            if found not in self._joined:
                with told_by(who):
                    self._joined[found] = self._join(things)
            return self._joined[found]
        if name not in self._module_dict:
            raise unknown(who, self.name, name, self.names(), BY_PLUGIN)
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


def _check_name(registry: Registry, name: object, thing: Any) -> None:
    """Refuse a name that users could not write, or that would take the place of another word of theirs."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        accepted = "letters, digits, '_', '-' and '.', the first a letter or '_'"
        raise usage(f"{registry.name} of {_place(thing)}", "its name", accepted, name, "Rename it.")
    if registry is DISTILLERS and name in GROUPS:
        raise UsageError(
            f"distiller {name!r} of {_place(thing)}: {' and '.join(GROUPS)} stand for several methods. "
            "Rename it."
        )
    if registry not in (DISTILLERS, SOURCES):
        return
    # kd+reffakd is written reffakd, so no distiller can be called so.
    other = SOURCES if registry is DISTILLERS else DISTILLERS
    taken = other.module_dict.get(name)
    if taken is not None and (taken if registry is DISTILLERS else thing).shorthand:
        raise UsageError(
            f"{registry.name} {name!r} of {_place(thing)}: there is a {other.name} of that name, at "
            f"{_place(taken)}. Rename one of them."
        )


def import_modules(package: str, path: list[str]) -> None:
    """Import every module of a package, so that a new file registers itself without being named anywhere."""
    for module in sorted(m.name for m in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


DISTILLERS = Registry("distiller", "kdzoo.distillers")
SOURCES = Registry("source", "kdzoo.sources")
MODELS = Registry("model", "kdzoo.models", places=3)
DATASETS = Registry("data set", "kdzoo.data", places=1)
