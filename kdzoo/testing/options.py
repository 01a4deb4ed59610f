"""Whether options do anything: other values that an option accepts, and a search for those that are idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from kdzoo.checks import Option, UsageError

# All numbers that options may change, for each batch; None where the batch or the options are refused.
Numbers = Sequence[Any]


def alternatives(option: Option) -> Iterator[Any]:
    """Give values other than the default that an option accepts, nothing for a free text.

    Args:
        option: of `kdzoo.checks.options_of`.

    Yields:
        All choices; both of a bool; of numbers some around the default and the ends of their range.
    """
    seen = [] if option.required else [option.default]
    for candidate in (*option.choices, *(v for kind in option.kinds for v in _candidates(kind, option))):
        try:
            value = option.parse("", candidate)
        except UsageError:
            continue
        if not any(value == s and isinstance(value, bool) == isinstance(s, bool) for s in seen):
            seen.append(value)
            yield value


def _candidates(kind: type, option: Option) -> list[Any]:
    if kind is bool:
        return [True, False]
    if kind not in (int, float):
        return []
    start = option.default if _is_number(option.default) else 1
    low, high = (option.interval.low, option.interval.high) if option.interval else (start, start)
    found = [start + 1, start - 1, 2 * start, 0.5 * start, start + 3, 1, 2, 3, 5, 0.25, 0.75]
    return [*found, low, high, (start + low) / 2, (start + high) / 2]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def idle_option(
    options: Mapping[str, Option], given: Mapping[str, Any], numbers: Callable[[Mapping[str, Any]], Numbers]
) -> str | None:
    """Find an option that changes no number, alone or beside another choice of one other option.

    An option also has to do something else at each of its choices. A number that only ever acts in one way is
    a switch: where three values are accepted, three must differ.

    Args:
        options: of the subject.
        given: those that are set for the check, which are taken as they are.
        numbers: from options to all numbers that they may change.

    Returns:
        What is wrong with the first such option, to be continued by what to do; None if all options act.
    """
    for name, option in options.items():
        if name in given or option.required:
            continue
        values = [option.default, *alternatives(option)]
        if len(values) > 1 and (fault := _Search(name, values, options, given, numbers).fault()):
            return fault
    return None


class _Search:
    """Compares the values of one option in ever other surroundings until every pair that must differ has."""

    def __init__(
        self, name: str, values: list[Any], options: Mapping[str, Option], given: Mapping[str, Any],
        numbers: Callable[[Mapping[str, Any]], Numbers],
    ) -> None:  # fmt: skip
        self.name = name
        self.values = values
        self.options = options
        self.given = given
        self.numbers = numbers
        self.named = [i for i, value in enumerate(values) if not _is_number(value)]
        self.plain = [i for i, value in enumerate(values) if _is_number(value)]
        self.compared: set[tuple[int, int]] = set()
        self.different: set[tuple[int, int]] = set()

    def fault(self) -> str | None:
        for beside in self._surroundings():
            found: list[Numbers] = []
            for value in self.values:
                found.append(self.numbers({**self.given, **beside, self.name: value}))
                self._compare(found)
                # Most options act on their own, and a few values show it.
                if self._settled(len(found)):
                    return None
            if self.compared and self._missing() is None:
                return None
        return self._missing() if self.compared else None

    def _surroundings(self) -> Iterator[dict[str, Any]]:
        yield {}
        for other, option in self.options.items():
            if other != self.name and other not in self.given:
                yield from ({other: value} for value in alternatives(option))

    def _compare(self, found: list[Numbers]) -> None:
        last = len(found) - 1
        for place in range(last):
            for one, other in zip(found[place], found[last], strict=True):
                if one is not None and other is not None:
                    self.compared.add((place, last))
                    if one != other:
                        self.different.add((place, last))

    def _settled(self, count: int) -> bool:
        return all(i < count for i in self.named) and self._triple(self.different) and not self._missing()

    def _triple(self, pairs: set[tuple[int, int]]) -> bool:
        return any(all(p in pairs for p in combinations(t, 2)) for t in combinations(self.plain, 3))

    def _missing(self) -> str | None:
        """Say which difference has not been seen so far."""
        if not self.different:
            return f"option {self.name!r} changes nothing"
        for pair in combinations(self.named, 2):
            if pair in self.compared and pair not in self.different:
                one, other = (self.values[i] for i in pair)
                return f"option {self.name!r} does the same at {one!r} as at {other!r}"
        if self._triple(self.compared) and not self._triple(self.different):
            return f"option {self.name!r} knows no more than two kinds of numbers, as a switch does"
        return None
