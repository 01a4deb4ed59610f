"""What a precision does to accuracy: protocols that differ in nothing else, paired by method and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdzoo.keys import fingerprint
from kdzoo.results.groups import SMALL_TEST_SET, Group, Row, repeated_views, rounding, teachers
from kdzoo.results.record import Record
from kdzoo.results.statistics import Difference
from kdzoo.results.words import github_table, markdown

REFERENCE = "float32"


@dataclass(frozen=True)
class Pair:
    """One method in two precisions.

    Attributes:
        reference: the method in `REFERENCE`.
        other: the same in the other precision.
        difference: of the last accuracies, other - reference, in points, paired by seed; None where a member
            diverged, for those that are left would be a choice, and for fewer than two common seeds.
    """

    reference: Row
    other: Row
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Two protocols that differ in their precision alone.

    Attributes:
        reference: a group of the protocol in `REFERENCE`.
        other: a group of the other one.
        pairs: methods that both have, in the order of leaderboards; never empty.
    """

    reference: Group
    other: Group
    pairs: tuple[Pair, ...]

    def sections(self) -> list[str]:
        """Write a heading, a table and how to read it, in markdown."""
        return [self._heading(), self._table(), self._reading()]

    def _heading(self) -> str:
        reference, other = self.reference, self.other
        student = reference.settings["student"]["name"]
        return "## " + markdown(
            f"{reference.benchmark}: {student} in {_precision(other)} and in {_precision(reference)} "
            f"(protocols {other.protocol} and {reference.protocol}{repeated_views(reference)})"
        )

    def _table(self) -> str:
        reference, other = markdown(_precision(self.reference)), markdown(_precision(self.other))
        headers = ["method", f"teacher: top-1 (key) in {reference}; in {other}", reference, other]
        headers += [f"points over {reference}, paired: mean [95 % interval] (seeds)", f"than {reference}"]
        lines = []
        for pair in self.pairs:
            told = (str(pair.difference), pair.difference.verdict) if pair.difference else ("-", "-")
            accuracies = pair.reference.accuracy(), pair.other.accuracy()
            lines.append([markdown(pair.reference.name), _teachers(pair), *accuracies, *told])
        return github_table(headers, lines)

    def _reading(self) -> str:
        lines = (
            "Top-1 of the last epoch in percent; differences over the seeds that both have, paired: the "
            "same initial weights, batches and views.",
            "Teachers and autoencoders compute in the precision of their student. One that is trained here "
            "is trained once in each precision: what its own training happens to give is part of the "
            "difference, and the interval, which is over seeds of the student, does not cover it.",
            "Better and worse: the whole interval (Student's t, at least as wide as one image more or less "
            "makes it) lies on that side of 0. Not resolved: 0 lies in it, which does not say that there is "
            "no difference; the interval says how large one may be. Seeds are few, so a verdict by itself "
            "is no proof.",
            "Not compared (-): a method that diverged on a seed, in either precision, and one with fewer "
            "than two seeds in common.",
        )
        return "\n".join(f"- {line}" for line in lines)


def compare_precisions(groups: Iterable[Group]) -> list[Comparison]:
    """Find the protocols that differ from one in `REFERENCE` in precision alone, and pair their methods.

    Left out are members whose teacher or autoencoder computed in another precision than their student: with
    them two things would differ.

    Args:
        groups: in the order of a leaderboard, which that of the comparisons follows.
    """
    protocols: dict[tuple[str, str], dict[tuple[str, str], list[Group]]]
    protocols = defaultdict(lambda: defaultdict(list))
    for found in groups:
        # "bf16, compiled" is compared with "float32, compiled".
        precision, _, compiled = found.settings["precision"].partition(",")
        shared = fingerprint({**found.settings, "precision": compiled})
        protocols[found.benchmark, shared][precision, found.protocol_hash].append(found)
    return [
        Comparison(references[0], others[0], pairs)
        for of_both in protocols.values()
        for (reference, _), references in sorted(of_both.items())
        for (precision, _), others in sorted(of_both.items())
        if reference == REFERENCE != precision
        if (pairs := _pairs(references, others))
    ]


def _pairs(references: list[Group], others: list[Group]) -> tuple[Pair, ...]:
    if references[0].test_images < SMALL_TEST_SET:
        return ()
    theirs = _rows(others)
    return tuple(
        _pair(references[0], row, theirs[recipe])
        for recipe, row in _rows(references).items()
        if recipe in theirs
    )


def _pair(found: Group, reference: Row, other: Row) -> Pair:
    lost = reference.diverged or other.diverged
    return Pair(reference, other, None if lost else found.compare(other, reference))


def _rows(groups: list[Group]) -> dict[str, Row]:
    """Give the rows by their recipe; of a recipe that several have, nobody can tell which is whose pair."""
    found: dict[str, dict[tuple[str, ...], Row]] = defaultdict(dict)
    for row in (row for group in groups for row in group.rows):
        # What needs no teacher stands in the group of each.
        found[_recipe(row.records[0])][tuple(record.key for record in row.records)] = row
    return {recipe: next(iter(rows.values())) for recipe, rows in found.items() if len(rows) == 1}


def _recipe(record: Record) -> str:
    """Tell members apart by all but the precision of their protocol."""
    artifacts = {name: _identity(artifact) for name, artifact in record.artifacts.items()}
    precision = record.settings["precision"].partition(",")[0]
    recipe = {"method": record.settings["method"], "artifacts": artifacts}
    return fingerprint(_without(recipe, "precision", precision))


def _identity(artifact: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: artifact[name] for name in ("network", "origin", "seed", "settings")}
    # A checkpoint is known by its content alone. Its key is not that: it depends on the precision too.
    told = artifact["origin"] != "checkpoint" or "checkpoint" in artifact["settings"]
    return found if told else {**found, "key": artifact["key"]}


def _without(settings: Any, name: str, value: str) -> Any:
    """Leave out an entry of nested mappings wherever it has a certain value."""
    if isinstance(settings, Mapping):
        return {k: _without(v, name, value) for k, v in settings.items() if (k, v) != (name, value)}
    return settings


def _precision(found: Group) -> str:
    precision: str = found.settings["precision"]
    return precision


def _teachers(pair: Pair) -> str:
    """Say which networks taught in the two precisions, how good each was, and their keys."""
    reference, other = pair.reference.records[0], pair.other.records[0]
    both = [
        f"{markdown(mine['network'])} {_score(mine)}; {_score(theirs)}"
        for mine, theirs in zip(teachers(reference), teachers(other), strict=True)
    ]
    rounded = "" if rounding(reference) == "own" else f", answers in {markdown(rounding(reference))}"
    return " + ".join(both) + rounded if both else "-"


def _score(artifact: Mapping[str, Any]) -> str:
    top1 = artifact["score"].get("top1")
    return f"{'-' if top1 is None else format(top1, '.2f')} ({artifact['key'][:8]})"
