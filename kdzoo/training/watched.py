"""What a step reads and changes in Python, which a graph of it could not repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdzoo.outputs import Progress


class Watched(Progress):
    """Progress that notes which of its fields are read.

    Attributes:
        read: their names.
    """

    read: set[str]

    def __new__(cls, progress: Progress) -> Watched:
        """Copy where training stands."""
        made = super().__new__(cls, *progress)
        made.read = set()
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in Progress._fields:
            self.read.add(name)
        return super().__getattribute__(name)

    def __getitem__(self, index: Any) -> Any:
        self.read.update(Progress._fields[index] if isinstance(index, slice) else (Progress._fields[index],))
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self.read.update(Progress._fields)
        return super().__iter__()


def state_of(modules: Sequence[nn.Module]) -> dict[str, Any]:
    """Note what Python keeps in modules: the objects themselves, of containers and numbers what they hold.

    Args:
        modules: with all that they are made of.

    Returns:
        By the names of attributes; two that are equal hold the same.
    """
    return {
        ".".join(part for part in (type(root).__name__, place, name) if part): _noted(value)
        for root in modules
        for place, module in root.named_modules()
        for name, value in vars(module).items()
    }


def _noted(value: Any) -> Any:
    if isinstance(value, (int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, dict):
        return {name: _noted(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [type(value), *map(_noted, value)]
    return _Same(value)


@dataclass(frozen=True, eq=False)
class _Same:
    """An object that equals itself alone; it is held, so that no other gets its place in memory."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)
