"""The record of one finished member: all that its numbers depend on, and all that is ever shown of it.

docs/records.md describes every field for readers; `SHAPE` below is the same in code. Percentages lie in [0,
100]; a number that was not finite is null. `timing` and `environment` are what may differ between two runs of
the same member; all else must repeat.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kdzoo.checks import UsageError, usage
from kdzoo.results.schema import Mismatch, anything, choice, fields, listing, nullable, number, parse, text

SCHEMA = 1

_HASH = text(64, "[0-9a-f]{64}")
_PERCENT = nullable(number(0, 100))
_NATURAL = number(0, 2**63 - 1, whole=True)
_COUNT = number(1, 2**63 - 1, whole=True)
_MEASURED = nullable(number())
_OPEN = fields({}, others=anything)
_NATS = nullable(number(0, 1e100))  # sums and squares over seeds stay finite
_SCORES = {"top1": _PERCENT, "top5": _PERCENT, "nll": _NATS, "ece": _PERCENT}
_METRICS = fields(_SCORES, {"agreement": _PERCENT})
_SETTINGS = fields(
    {
        "data": fields(
            {
                "name": text(),
                "fingerprint": text(),
                "classes": _COUNT,
                "train": _COUNT,
                "validation": _NATURAL,
                "test": _COUNT,
                "mean": listing(number(), 1000),
                "std": listing(number(), 1000),
            },
            {"warnings": listing(text(2000), 100)},
            others=anything,
        ),
        "student": fields({"name": text()}, others=anything),
        "epochs": number(1, 100_000, whole=True),
        "batch_size": _COUNT,
        "optimizer": _OPEN,
        "param_scheduler": anything,
        "views": anything,
        "precision": text(),
        "val_fraction": number(0, 1),
        "method": fields(
            {
                "distiller": text(),
                "options": _OPEN,
                "version": _NATURAL,
                "source": nullable(text()),
                "source_options": nullable(_OPEN),
                "source_version": nullable(_NATURAL),
            },
            others=anything,
        ),
    },
    others=anything,
)
_ARTIFACT = fields(
    {
        "key": _HASH,
        "network": text(),
        "origin": choice("trained", "checkpoint", "pretrained"),
        "seed": nullable(_NATURAL),
        "score": fields({}, _SCORES, others=_MEASURED),
        "settings": _OPEN,
    }
)
_EPOCH = fields(
    {
        "epoch": number(1, 100_000, whole=True),
        "lr": nullable(number(0)),
        "train": fields({"loss": _MEASURED}, others=_MEASURED),
        "test": _METRICS,
    },
    {"validation": _METRICS},
)
_ACCURACY = fields(
    {
        "last": _PERCENT,
        "best_on_test": _PERCENT,
        "best_on_test_epoch": nullable(_COUNT),
        "validation_selected": _PERCENT,
        "validation_selected_epoch": nullable(_COUNT),
    }
)
SHAPE = fields(
    {
        "schema": choice(SCHEMA),
        "key": _HASH,
        "benchmark": text(),
        "protocol": fields({"name": text(), "hash": text(64, "[0-9a-f]{8,64}")}),
        "seed": _NATURAL,
        "method": text(1000),
        "status": choice("done", "diverged"),
        "settings": _SETTINGS,
        "artifacts": fields({}, others=_ARTIFACT),
        "epochs": listing(_EPOCH, 100_000),
        "accuracy": _ACCURACY,
        "parameters": _NATURAL,
        "flops": _NATURAL,
        "notes": listing(text(2000), 1000),
        "timing": fields({}, {"seconds_per_epoch": nullable(number(0, 1e9))}, others=anything),
        "environment": _OPEN,
    }
)


@dataclass(frozen=True)
class Record:
    """One finished member. Field by field the JSON object of record.json.

    Attributes:
        schema: version of this layout.
        key: hash of all that the numbers depend on, 64 hexadecimal digits.
        benchmark: the config's name.
        protocol: `name`, readable, and `hash`, of data, student, schedule, batch, views, precision and
            validation split.
        seed: of order, views, initial weights and draws.
        method: canonical spelling.
        status: "done", or "diverged": a loss was not finite, and what follows was not run.
        settings: resolved settings; `method` holds the distiller's and source's, the rest is the protocol's.
            They are the same for all seeds of a method.
        artifacts: by name ("teacher", "autoencoder"): key, network, origin, seed, score, settings.
        epochs: one entry an epoch, from 1: lr, train (loss and the weighted terms), test and validation
            (top1, top5, ece, agreement with the teacher in percent; nll in nats).
        accuracy: what `accuracy_of` makes of the epochs, in percent.
        parameters: trainable numbers of the deployed student.
        flops: multiply-adds of the deployed student for one image.
        notes: what a reader of the numbers must know.
        timing: seconds; `seconds_per_epoch` is shown in tables.
        environment: versions, device, threads, command line, paths.
    """

    schema: int
    key: str
    benchmark: str
    protocol: Mapping[str, str]
    seed: int
    method: str
    status: str
    settings: Mapping[str, Any]
    artifacts: Mapping[str, Mapping[str, Any]]
    epochs: Sequence[Mapping[str, Any]]
    accuracy: Mapping[str, float | int | None]
    parameters: int
    flops: int
    notes: Sequence[str]
    timing: Mapping[str, Any]
    environment: Mapping[str, Any]

    @staticmethod
    def from_json(content: str | bytes, where: str) -> Record:
        """Read a record, trusting nothing: what is not exactly one is refused, and nothing in it is executed.

        Args:
            content: the file's text or bytes.
            where: the file's name, for the message.

        Raises:
            UsageError: what is wrong, where, and what to do.
        """
        try:
            value = parse(content)
            _refuse_newer(value, where)
            SHAPE(value, "")
            record = Record(**value)
            _consistent(record)
        except Mismatch as wrong:
            advice = "This is no sound record: leave it out, or delete it and run the same command again."
            raise usage(where, wrong.place or "the content", wrong.expected, wrong.got, advice) from None
        return record

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON object: tuples as lists, numbers that are not finite as null."""
        names = [field.name for field in dataclasses.fields(self)]
        content: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        return content

    def to_json(self) -> str:
        """Give the text of record.json; the same record always gives the same text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def repeatable(self) -> dict[str, Any]:
        """Give all that must repeat when the member is trained again: all but timing and environment."""
        return {
            name: value for name, value in self.to_dict().items() if name not in ("timing", "environment")
        }

    @property
    def diverged_at(self) -> int | None:
        """The epoch whose loss was not finite, or else the one that was not finished; None if done."""
        if self.status == "done":
            return None
        parts = ("train", "test", "validation")
        lost = (
            epoch["epoch"]
            for epoch in plain(self.epochs)
            if any(value is None for part in parts for value in epoch.get(part, {}).values())
        )
        return next(lost, self.epochs[-1]["epoch"] + 1 if self.epochs else 1)


def plain(value: Any) -> Any:
    """Copy nested mappings and sequences into what JSON can hold: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def accuracy_of(epochs: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Name the accuracies of a training course, each by how its epoch was selected.

    Args:
        epochs: a record's epochs.

    Returns:
        `last`: top-1 test accuracy (percent) after the last epoch, where nothing is selected. `best_on_test`:
        the highest, in the first epoch that has it: selected on the test set. `validation_selected`: that of
        the first epoch with the highest top-1 validation accuracy. None where there is no such number.
    """
    epochs = plain(epochs)
    best = _highest(epochs, "test")
    selected = _highest(epochs, "validation")
    return {
        "last": epochs[-1]["test"]["top1"] if epochs else None,
        "best_on_test": best["test"]["top1"] if best else None,
        "best_on_test_epoch": best["epoch"] if best else None,
        "validation_selected": selected["test"]["top1"] if selected else None,
        "validation_selected_epoch": selected["epoch"] if selected else None,
    }


def _highest(epochs: Sequence[Mapping[str, Any]], split: str) -> Mapping[str, Any] | None:
    measured = [e for e in epochs if e.get(split, {}).get("top1") is not None]
    return max(measured, key=lambda e: (e[split]["top1"], -e["epoch"]), default=None)


def _refuse_newer(value: Any, where: str) -> None:
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UsageError(
            f"{where}: schema must be {SCHEMA}, got {schema}. A newer kdzoo wrote it: update kdzoo to read "
            f"it."
        )


def _consistent(record: Record) -> None:
    """Hold what ties the fields of a record to each other."""
    planned = record.settings["epochs"]
    numbers = [epoch["epoch"] for epoch in record.epochs]
    done = record.status == "done"
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise Mismatch("epochs", "numbered upwards, each epoch once", numbers)
    if numbers and numbers[-1] > planned:
        raise Mismatch("epochs", f"numbered up to settings.epochs = {planned}", numbers[-1])
    if done and (not numbers or numbers[-1] != planned):
        raise Mismatch("epochs", f"complete up to {planned}, as the status is 'done'", numbers[-1:])
    fraction = record.settings["val_fraction"]
    split = fraction > 0
    for index, epoch in enumerate(record.epochs):
        if split != ("validation" in epoch):
            expected = (
                "there, as settings.val_fraction > 0" if split else "left out, as settings.val_fraction = 0"
            )
            raise Mismatch(f"epochs[{index}].validation", expected, epoch.get("validation"))
    made = accuracy_of(record.epochs)
    for name, value in made.items():
        if record.accuracy[name] != value:
            raise Mismatch(f"accuracy.{name}", f"{value!r}, which the epochs give", record.accuracy[name])
    if done and made["last"] is None:
        raise Mismatch("accuracy.last", "a number, as the status is 'done'", None)
