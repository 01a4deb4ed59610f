"""Which records may stand side by side: one protocol and one teacher, and with them what needs no teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdzoo.keys import fingerprint
from kdzoo.methods import TABLE8
from kdzoo.results.record import Record
from kdzoo.results.statistics import Difference, Summary, paired, summarise
from kdzoo.results.store import merge
from kdzoo.results.words import counted

PROTOCOL = (
    *("data", "student", "epochs", "batch_size", "optimizer"),
    *("param_scheduler", "views", "precision", "val_fraction"),
)

# Under this many test images one image moves a table's last shown digits by 0.1 points and more.
SMALL_TEST_SET = 1000

# What is said of a member; all but the selected ones are measured after the last epoch.
QUANTITIES: Mapping[str, Callable[[Record], float | None]] = {
    "last": lambda record: record.accuracy["last"],
    "best_on_test": lambda record: record.accuracy["best_on_test"],
    "validation_selected": lambda record: record.accuracy["validation_selected"],
    "top5": lambda record: _test(record).get("top5"),
    "nll": lambda record: _test(record).get("nll"),
    "ece": lambda record: _test(record).get("ece"),
    "agreement": lambda record: _test(record).get("agreement"),
    "parameters": lambda record: record.parameters,
    "flops": lambda record: record.flops,
    "seconds_per_epoch": lambda record: record.timing.get("seconds_per_epoch"),
}


def _test(record: Record) -> Mapping[str, float | None]:
    metrics: Mapping[str, float | None] = record.epochs[-1]["test"] if record.epochs else {}
    return metrics


@dataclass(frozen=True)
class Row:
    """One method of a group, over its seeds.

    Attributes:
        name: the method's canonical spelling; a bracket tells apart what shares a spelling but not settings.
        method: the canonical spelling alone.
        records: one a seed, in the order of the seeds.
        distinction: in words, what a bracket in the name stands for; else empty.
    """

    name: str
    method: str
    records: tuple[Record, ...]
    distinction: str = ""

    @property
    def done(self) -> tuple[Record, ...]:
        """The members that finished: only these are averaged."""
        return tuple(record for record in self.records if record.status == "done")

    @property
    def diverged(self) -> tuple[Record, ...]:
        """The members that did not."""
        return tuple(record for record in self.records if record.status != "done")

    def over_seeds(self, quantity: str) -> Summary:
        """Summarise a quantity over the finished members."""
        return summarise(QUANTITIES[quantity](record) for record in self.done)

    def accuracy(self) -> str:
        """Write the last accuracy; where members diverged, out of how many it is."""
        summary = self.over_seeds("last")
        if not self.done:
            return "diverged"
        if not self.diverged:
            return summary.format()
        return f"{summary.format().split(' (')[0]} ({len(self.done)} of {len(self.records)})"

    def status(self) -> str:
        """Say which members finished and which did not."""
        lost = [f"seed {r.seed} diverged at epoch {r.diverged_at}" for r in self.diverged]
        return "; ".join([f"{len(self.done)} done", *lost] if self.done and lost else lost or ["done"])


@dataclass(frozen=True)
class Group:
    """Records of one protocol and one teacher, whose answers were rounded to one type.

    Attributes:
        benchmark: the config's name.
        protocol: name and the first 8 digits of the hash.
        protocol_hash: the whole hash.
        settings: what the protocol fixes (`PROTOCOL`).
        teachers: the teacher; several for an ensemble; empty where no method has one.
        digests: to what the teacher's answers were rounded; "own" for not at all.
        records: in a fixed order.
    """

    benchmark: str
    protocol: str
    protocol_hash: str
    settings: Mapping[str, Any]
    teachers: tuple[Mapping[str, Any], ...]
    records: tuple[Record, ...]
    digests: str = "own"

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Scratch, then the methods in the order of Table 8, then all others by name."""
        by_method: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            by_method[record.method].append(record)
        order = ("scratch", *TABLE8)
        names = sorted(by_method, key=lambda name: (order.index(name) if name in order else len(order), name))
        return tuple(row for name in names for row in _variants(name, by_method[name]))

    @property
    def scratch(self) -> tuple[Row, ...]:
        """The student trained on hard labels alone."""
        return tuple(row for row in self.rows if row.method == "scratch")

    @property
    def methods(self) -> tuple[Row, ...]:
        """All rows but the bare student's."""
        return tuple(row for row in self.rows if row.method != "scratch")

    @property
    def test_images(self) -> int:
        """Images that accuracies are measured on."""
        return int(self.settings["data"]["test"])

    @cached_property
    def comparable(self) -> bool:
        """Whether a best one may be named at all: two methods or more, two seeds or more, enough images."""
        seeds = [len(row.done) for row in self.methods if row.done]
        return len(seeds) > 1 and min(seeds) > 1 and self.test_images >= SMALL_TEST_SET

    @cached_property
    def ahead(self) -> Row | None:
        """The method that beats all others and scratch beyond seed noise (paired by seed, 95 %), none that
        diverged."""
        finished = [row for row in self.rows if row.done]
        if not self.comparable:
            return None
        best = max(finished, key=lambda row: row.over_seeds("last").mean or 0.0)
        compared = [self.compare(best, other) for other in finished if other is not best]
        beaten = all(found is not None and found.verdict == "better" for found in compared)
        return best if best in self.methods and not best.diverged and beaten else None

    def compare(self, row: Row, other: Row) -> Difference | None:
        """Compare the last accuracies of two methods, paired by seed, to the accuracy of one test image.

        Args:
            row: what is compared.
            other: with what.

        Returns:
            In points; None where they have fewer than two seeds in common.
        """
        return paired(_differences(row, other), step=100 / self.test_images)


def _differences(row: Row, other: Row) -> list[float]:
    """Subtract the last accuracies of two methods seed by seed: a seed's members saw the same batches."""
    theirs = {record.seed: record.accuracy["last"] for record in other.done}
    pairs = [(record.accuracy["last"], theirs.get(record.seed)) for record in row.done]
    return [mine - yours for mine, yours in pairs if mine is not None and yours is not None]


def repeated_views(found: Group) -> str:
    """Say for a heading that views repeat, where they do: ", views repeat after 4 epochs"."""
    views = found.settings["views"]
    repeat = views.get("repeat") if isinstance(views, Mapping) else None
    return f", views repeat after {counted(repeat, 'epochs')}" if isinstance(repeat, int) else ""


def teachers(record: Record) -> tuple[Mapping[str, Any], ...]:
    """Give the artifacts that are teachers: those whose names begin with "teacher"."""
    return tuple(record.artifacts[name] for name in sorted(record.artifacts) if name.startswith("teacher"))


def group(records: Iterable[Record]) -> list[Group]:
    """Sort records into groups that may share a table, in a fixed order.

    Protocols are told apart by hash and by recorded settings, so that not even a wrong hash mixes two. A
    record without a teacher stands in the group of every teacher of its protocol, or in one of its own where
    there is none.

    Raises:
        UsageError: two records tell the same member differently.
    """
    by_protocol: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in merge((f"record {r.key[:8]} ({r.method})", r) for r in records):
        by_protocol[record.benchmark, record.protocol["hash"], fingerprint(_protocol(record))].append(record)
    return [
        found
        for (benchmark, digits, _), members in sorted(by_protocol.items())
        for found in _by_teacher(benchmark, digits, members)
    ]


def _protocol(record: Record) -> dict[str, Any]:
    settings = {name: record.settings[name] for name in PROTOCOL}
    # Warnings are words about the data; its fingerprint is what it is.
    settings["data"] = {name: value for name, value in settings["data"].items() if name != "warnings"}
    return settings


def _by_teacher(benchmark: str, digits: str, members: Sequence[Record]) -> list[Group]:
    settings = _protocol(members[0])
    protocol = f"{members[0].protocol['name']}-{digits[:8]}"
    found: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    free: list[Record] = []
    for record in members:
        keys = tuple(artifact["key"] for artifact in teachers(record))
        if keys:
            found[(*keys, rounding(record))].append(record)
        else:
            free.append(record)
    groups = []
    for taught in found.values() or [[]]:
        together = tuple(r for r in members if r in taught or r in free)
        theirs = teachers(taught[0]) if taught else ()
        digests = rounding(taught[0]) if taught else "own"
        groups.append(Group(benchmark, protocol, digits, settings, theirs, together, digests))
    return sorted(
        groups, key=lambda g: ([(artifact["network"], artifact["key"]) for artifact in g.teachers], g.digests)
    )


def rounding(record: Record) -> str:
    """Say to what the teacher's answers were rounded for a record."""
    taught = record.settings["method"].get("teacher_pass")
    return str(taught.get("digests", "own")) if isinstance(taught, Mapping) else "own"


def _variants(method: str, records: Sequence[Record]) -> list[Row]:
    """Split the records of one spelling where their settings differ, so that no mean mixes two recipes."""
    recipes: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        recipes[fingerprint(_recipe(record))].append(record)
    parts: dict[str, list[Record]] = {}
    for digits, members in recipes.items():
        if len({record.seed for record in members}) == len(members):
            parts[digits] = members
        else:  # The same seed twice: nobody can tell which belong together.
            parts.update({record.key: [record] for record in members})
    ordered = {
        digits: tuple(sorted(parts[digits], key=lambda r: (r.seed, r.key))) for digits in sorted(parts)
    }
    if len(ordered) == 1:
        return [Row(method, method, members) for members in ordered.values()]
    flat = {digits: dict(_flat(_recipe(members[0]))) for digits, members in ordered.items()}
    places = sorted({place for recipe in flat.values() for place in recipe})
    differing = [p for p in places if len({repr(recipe.get(p)) for recipe in flat.values()}) > 1]
    return [
        Row(
            f"{method} [{digits[:8]}]",
            method,
            members,
            ", ".join(f"{place} {flat[digits].get(place)}" for place in differing) or f"key {members[0].key}",
        )
        for digits, members in ordered.items()
    ]


def _recipe(record: Record) -> dict[str, Any]:
    """Give what must be alike between the seeds of one row."""
    others = {name: a for name, a in record.artifacts.items() if not name.startswith("teacher")}
    return {
        **record.settings["method"],
        **{
            name: {
                "network": artifact["network"],
                "settings": {k: v for k, v in artifact["settings"].items() if k != "seed"},
                # A checkpoint is known by its content alone; what is trained may follow the run's seed.
                "checkpoint": artifact["key"] if artifact["origin"] == "checkpoint" else None,
            }
            for name, artifact in others.items()
        },
    }


def _flat(settings: Any, place: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _flat(value, f"{place}.{name}".lstrip("."))
    else:
        yield place, settings
