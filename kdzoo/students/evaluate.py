"""A trained student measured again: on the test images of its data set, or on a folder of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from kdzoo.checks import UsageError
from kdzoo.data import Dataset, Split, load_dataset
from kdzoo.data.image_folder import labelled_pictures
from kdzoo.data.split import split_validation
from kdzoo.students.student import Student
from kdzoo.training.evaluation import classification_metrics

UNITS = {"top1": "%", "top5": "%", "nll": "nats", "ece": "%"}


@dataclass(frozen=True)
class Measurement:
    """What came of measuring a student; str() is a table.

    Attributes:
        data: what it was measured on.
        images: how many there were.
        metrics: top1, top5 and ece in percent, nll in nats.
        recorded: the same of the student's record, after the last epoch; None for other images.
        remarks: what a reader of the numbers must know.
    """

    data: str
    images: int
    metrics: Mapping[str, Any]
    recorded: Mapping[str, Any] | None
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        head = ["", "measured", *(["record"] if self.recorded else []), ""]
        rows = [
            [
                name,
                _told(self.metrics[name]),
                *([_told(self.recorded.get(name))] if self.recorded else []),
                unit,
            ]
            for name, unit in UNITS.items()
        ]
        table = tabulate(
            rows,
            headers=head,
            disable_numparse=True,
            colalign=["left"] + ["right"] * (len(head) - 2) + ["left"],
        )
        return "\n".join([f"{self.data}, {self.images:,} images", table, *self.remarks])


def _told(value: Any) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def evaluate_student(
    student: Student, *, folder: Path | None = None, data_root: Path | None = None
) -> Measurement:
    """Measure a student as training judged it: its test images give the recorded numbers.

    Args:
        student: trained.
        folder: class folders named like the student's classes, or some of them; None takes the test images
            of the data set that it was trained on.
        data_root: where that data set's files are; None looks where they were.

    Raises:
        UsageError: there are no such images, or their classes are not the student's.
    """
    remarks = [student.changed] if student.changed else []
    if folder is not None:
        if data_root is not None:
            raise UsageError(
                "evaluate: --folder is measured, or the data set in --data-root. Give one of them."
            )
        split = labelled_pictures(folder, student.sheet.classes, **student.fitting("evaluate"))
        return Measurement(str(folder), len(split), _metrics(student, split), None, tuple(remarks))
    data = _test_data(student, data_root)
    if data.fingerprint != student.record.settings["data"]["fingerprint"]:
        remarks.append("These are not the images that its record was measured on: the data set has changed.")
    recorded = student.record.epochs[-1]["test"]
    return Measurement(
        f"{data.name}, test", len(data.test), _metrics(student, data.test), recorded, tuple(remarks)
    )


def _metrics(student: Student, split: Split) -> dict[str, Any]:
    labels = torch.from_numpy(split.labels).to(student.device)
    return classification_metrics(student.logits(split), labels, None)


def _test_data(student: Student, data_root: Path | None) -> Dataset:
    data = student.sheet.data
    if data is None:
        raise UsageError(
            f"evaluate: {student.folder} was trained on arrays, which cannot be loaded again. Name --folder."
        )
    kept = student.record.environment.get("data_root")
    root = data_root if data_root is not None or not isinstance(kept, str) else Path(kept)
    found = load_dataset(data["type"], root, data["options"])
    if found.classes != student.sheet.classes:
        raise UsageError(
            f"evaluate: the classes of data set {found.name!r} are not the student's any more. Name the data "
            "that it was trained on by --data-root, or a --folder."
        )
    return split_validation(found, student.record.settings["val_fraction"])
