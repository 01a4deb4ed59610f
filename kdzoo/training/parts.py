"""What an object is made of, as far as a step can see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_PLAIN = (Tensor, nn.Module, int, float, str, bytes, type(None))


def parts(thing: Any, name: str, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Find tensors, networks and plain values in a thing; in attributes too, as soft labels are whatever a
    source made them.

    Args:
        thing: anything.
        name: it is called so; its parts have their own names behind it.
        seen: what it is part of.

    Returns:
        Names and parts, a network as a whole, other objects by their type and what they hold.
    """
    if isinstance(thing, _PLAIN):
        yield name, thing
        return
    if id(thing) in seen:
        return
    if isinstance(thing, tuple) and hasattr(thing, "_asdict"):
        found = thing._asdict()
    elif isinstance(thing, (tuple, list)):
        found = dict(enumerate(thing))
    elif isinstance(thing, dict):
        found = thing
    else:
        yield name, type(thing)
        found = {key.lstrip("_"): value for key, value in getattr(thing, "__dict__", {}).items()}
    for key, value in found.items():
        yield from parts(value, f"{name}.{key}", seen | {id(thing)})
