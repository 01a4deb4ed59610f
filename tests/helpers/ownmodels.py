"""The zoo's own networks, by name: families of networks from elsewhere have files of tests of their own."""

from kdzoo.models.base import Family
from kdzoo.registry import MODELS


def is_family(name: str) -> bool:
    """Say whether a registered name is that of a family."""
    thing = MODELS.find(name)
    return isinstance(thing, type) and issubclass(thing, Family)


OWN = [name for name in MODELS.names() if not is_family(name)]
