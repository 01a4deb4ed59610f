"""What a precision does to accuracy: protocols that differ in nothing else, paired by method and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdzoo.keys import fingerprint
from kdzoo.results.groups import SMALL_TEST_SET, Group, Row, rounding, teachers
from kdzoo.results.record import Record
from kdzoo.results.statistics import Difference
from kdzoo.results.words import github_table, markdown

REFERENCE = "float32"


@dataclass(frozen=True)
class Pair:
    """One method in two precisions, under the same teacher where it has one.

    Attributes:
        reference: the method in `REFERENCE`.
        other: the same in the other precision, whose teacher has a key of its own.
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
        precision: of the other, in one word.
        pairs: methods that both have, in the order of leaderboards; never empty.
    """

    reference: Group
    other: Group
    precision: str
    pairs: tuple[Pair, ...]

    def sections(self) -> list[str]:
        """Write a heading, a table and how to read it, in markdown."""
        return [self._heading(), self._table(), self._reading()]

    def _heading(self) -> str:
        reference, other = self.reference, self.other
        student = reference.settings["student"]["name"]
        return "## " + markdown(
            f"{reference.benchmark}: {student} in {self.precision} and in {REFERENCE} "
            f"(protocols {other.protocol} and {reference.protocol})"
        )

    def _table(self) -> str:
        headers = ["method", "teacher", REFERENCE, markdown(self.precision)]
        headers += [f"points over {REFERENCE}, paired: mean [95 % interval] (seeds)", f"than {REFERENCE}"]
        lines = []
        for pair in self.pairs:
            lines.append(
                [
                    *(markdown(pair.reference.method), markdown(_teacher(pair.reference)) or "-"),
                    *(pair.reference.accuracy(), pair.other.accuracy()),
                    *((str(pair.difference), pair.difference.verdict) if pair.difference else "--"),
                ]
            )
        return github_table(headers, lines)

    def _reading(self) -> str:
        lines = (
            "Top-1 of the last epoch in percent. Paired by seed: the same initial weights, batches and "
            "views; the protocols differ in their precision alone. Teachers and autoencoders are asked, and "
            "where they are trained here also trained, in the precision of their protocol.",
            "Not resolved: 0 lies in the interval (Student's t over seeds, at least as wide as one image "
            "more or less makes it). That does not say that there is no difference: the interval says how "
            "large one may be. A method that diverged on a seed, in either precision, is not compared.",
        )
        return "\n".join(f"- {line}" for line in lines)


def compare_precisions(groups: Iterable[Group]) -> list[Comparison]:
    """Find the protocols that differ in precision alone, and compare the methods that they share.

    Args:
        groups: in the order of a leaderboard, which that of the comparisons follows.
    """
    protocols: dict[tuple[str, str], dict[str, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for found in groups:
        # "bf16, compiled" is compared with "float32, compiled": one thing that differs, not two.
        precision, _, compiled = found.settings["precision"].partition(",")
        shared = fingerprint({**found.settings, "precision": compiled})
        protocols[found.benchmark, shared][precision].append(found)
    return [
        Comparison(by_precision[REFERENCE][0], others[0], precision, pairs)
        for by_precision in protocols.values()
        for precision, others in sorted(by_precision.items())
        if REFERENCE in by_precision and precision != REFERENCE
        if (pairs := _pairs(by_precision[REFERENCE], others))
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
    """Give the rows by their recipe, apart from precision; what two rows share is no row's."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in (row for group in groups for row in group.rows):
        # What needs no teacher stands in the group of each.
        if row not in (known := found[_recipe(row.records[0])]):
            known.append(row)
    return {recipe: rows[0] for recipe, rows in found.items() if len(rows) == 1}


def _teacher(row: Row) -> str:
    record = row.records[0]
    taught = " + ".join(f"{artifact['network']} ({artifact['key'][:8]})" for artifact in teachers(record))
    return taught + ("" if rounding(record) == "own" else f", its answers in {rounding(record)}")


def _recipe(record: Record) -> str:
    # How a teacher's pass is laid out follows its precision; to what its answers are rounded is a choice.
    method = {name: value for name, value in record.settings["method"].items() if name != "teacher_pass"}
    artifacts = {name: _apart_from_precision(artifact) for name, artifact in record.artifacts.items()}
    return fingerprint({"method": method, "rounding": rounding(record), "artifacts": artifacts})


def _apart_from_precision(artifact: Mapping[str, Any]) -> dict[str, Any]:
    # What is trained may follow the run's seed, of which a row has several.
    settings = {k: value for k, value in artifact["settings"].items() if k not in ("precision", "seed")}
    return {"network": artifact["network"], "origin": artifact["origin"], "settings": settings}
