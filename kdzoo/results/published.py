"""Published accuracies that stand beside our own, each with its protocol, which is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdzoo.methods import TABLE8


class Published(NamedTuple):
    """One row of a published table.

    Attributes:
        benchmark: of ours, for the same networks; its data set has the same name.
        images: training images that the data set has, validation images among them.
        teacher: network.
        student: network.
        table: where it stands.
        protocol: how it was obtained, as far as is known.
        accuracy: top-1 on the test images in percent, by method; "teacher" and "scratch" for the networks
            themselves.
    """

    benchmark: str
    images: int
    teacher: str
    student: str
    table: str
    protocol: str
    accuracy: Mapping[str, float]


_PAPER = "Doshi and Kim 2024 (arXiv 2404.09886)"
_TABLE7 = "200 epochs, batch size 256, T = 4 and alpha = 0.9 (their Table 7); the epoch is not named"


def _row(*accuracies: float) -> Mapping[str, float]:
    """Name the accuracies of a row of Table 8."""
    return dict(zip(("teacher", "scratch", *TABLE8), accuracies, strict=True))


PUBLISHED = (
    Published(
        "fashion_mnist", 60_000, "resnet18", "lenet5", f"{_PAPER}, Table 4",
        "200 epochs; kd and reffakd are the best cells of a grid of T and alpha (Table 10), chosen on the "
        "test set; as inferred from the authors' notebooks, batch size 128, the best epoch on the test set, "
        "a KL divergence that is divided by the number of classes as well, and a teacher trained at 28x28",
        {"teacher": 95.3, "scratch": 92.14, "kd": 92.3, "reffakd": 92.37},
    ),
    Published(
        "cifar100", 50_000, "resnet50", "resnet18", f"{_PAPER}, Table 8", _TABLE7,
        _row(76.28, 75.42, 75.16, 76.91, 73.08, 75.56, 76.47, 76.28, 77.49, 77.14, 77.03),
    ),
    Published(
        "tiny_imagenet", 100_000, "resnet50", "resnet18", f"{_PAPER}, Table 8", _TABLE7,
        _row(63.68, 62.66, 62.57, 63.4, 62.02, 63.54, 61.2, 62.51, 64.32, 64.75, 63.57),
    ),
)  # fmt: skip


def published(
    benchmark: str, student: str, teacher: str | None, data: Mapping[str, Any]
) -> tuple[Published, ...]:
    """Find the published rows of a benchmark with certain networks and data.

    Args:
        benchmark: name.
        student: network.
        teacher: network; None where no method has one, which any teacher's row fits.
        data: as records have it, so that nothing stands beside another or an incomplete data set.
    """
    seen = (benchmark, data["name"], data["train"] + data["validation"], student)
    return tuple(
        row
        for row in PUBLISHED
        if (row.benchmark, row.benchmark, row.images, row.student) == seen and teacher in (None, row.teacher)
    )
