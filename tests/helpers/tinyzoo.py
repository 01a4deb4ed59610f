"""A zoo for tests: small enough to train in a blink, and with methods that misbehave on purpose.

Nothing is registered by importing it; `registered()` does so for a while.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdzoo import api
from kdzoo.checks import Count, Natural
from kdzoo.data import Dataset, Split
from kdzoo.distillers import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, SoftLabels, probabilities
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES
from kdzoo.results.record import Record
from kdzoo.sources.base import Source, Workshop

CONFIG = """
data = dict(type="tiny")
views = dict(rotation=15.0, flip=True)
student = dict(network=dict(type="tiny_student"))
teacher = dict(network=dict(type="resnet8"), recipe=dict(epochs=1))
autoencoder = dict(network=dict(type="autoencoder"), recipe=dict(epochs=1))
recipe = dict(
    epochs=2,
    batch_size=16,
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=5e-4),
    param_scheduler=[dict(type="MultiStepLR", milestones=[1], gamma=0.2)],
    schedule_epochs=2,
)
"""
# 40 images in batches of 16: the last batch is a short one.
EPOCHS, STEPS = 2, 3


def tiny_data(root: Path | None, *, classes: Count = 4, count: Count = 40) -> Dataset:
    """Load images whose brighter quarter tells the class."""
    draw = np.random.default_rng(5)

    def split(count: int) -> Split:
        labels = np.arange(count, dtype=np.int64) % classes
        images = draw.integers(0, 120, (count, 1, 32, 32), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 4 * label : 4 * label + 8] += 100
        return Split(images, labels)

    return Dataset("tiny", train=split(count), test=split(20), classes=tuple(f"c{i}" for i in range(classes)))


class TinyStudent(nn.Module):
    """Two stages, batch norm and dropout: all that a cohort has to keep apart."""

    masks: list[Tensor] | None = None

    def __init__(self, num_classes: int, channels: int, size: int, *, width: Count = 4) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(channels, width, 5, stride=4), nn.BatchNorm2d(width))
        self.coarse = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        fine = self.fine(images)
        coarse = self.coarse(fine.relu())
        embedding = self.dropout(coarse.relu().mean(dim=(2, 3)))
        if self.training and TinyStudent.masks is not None:
            TinyStudent.masks.append(self.dropout(torch.ones_like(embedding)))
        stages = (fine.relu(), coarse.relu())
        return ModelOutput(self.classifier(embedding), embedding, stages, (fine, coarse))


def untouchable(num_classes: int, channels: int, size: int) -> nn.Module:
    """Stand where no network may be built."""
    raise AssertionError("the teacher was built")


class Noisy(Distiller):
    """Draws at random and trains an adapter, as contrastive methods do."""

    needs = frozenset({"embedding", "indices"})

    def __init__(self, student: int, teacher: int, *, weight: Count = 1) -> None:
        super().__init__()
        self.adapter = nn.Linear(student, teacher)
        self.register_buffer("seen", torch.zeros(1000))

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        return cls(setting.student.embedding[0], setting.teacher.embedding[0], **options)

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        self.seen[batch.indices] += torch.rand(len(batch.indices), device=self.seen.device)
        noise = torch.randn_like(student.embedding)
        distance = self.adapter(student.embedding + noise) - guide.teacher["embedding"]
        return {"noisy": distance.square().mean() + self.seen.mean()}


class Spy(Distiller):
    """Keeps what it is given."""

    needs = frozenset({"indices"})
    seen: ClassVar[list[tuple[Progress, Batch, Tensor]]] = []

    def __init__(self, *, name: Natural = 0) -> None:
        super().__init__()

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        Spy.seen.append(
            (progress, Batch(*(t if t is None else t.clone() for t in batch)), student.logits.detach())
        )
        return {}


class Meddler(Distiller):
    """Sets every global generator back in each step."""

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        return {"noise": torch.rand(()) * student.logits.mean()}


class Diverging(Distiller):
    """Loses its numbers in one epoch."""

    def __init__(self, *, epoch: Natural = 0) -> None:
        super().__init__()
        self.epoch = epoch

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        factor = torch.nan if progress.epoch == self.epoch else 0.0
        return {"lost": factor * student.logits.mean()}


class Raising(Distiller):
    """Raises in one step of the first epoch, until it is mended."""

    broken = True

    def __init__(self, *, step: Natural = 1) -> None:
        super().__init__()
        self.step = step

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        if Raising.broken and progress.step == self.step:
            raise ZeroDivisionError("a fault of this method")
        return {}


class Writer(Distiller):
    """Writes into what it shares with others, in the last step of an epoch."""

    needs = frozenset({"embedding", "soft_labels"})

    def __init__(self, *, into: Literal["images", "labels", "digest", "soft_labels"] = "images") -> None:
        super().__init__()
        self.into = into

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        shared = {
            "images": batch.images, "labels": batch.labels, "digest": guide.teacher["embedding"],
            "soft_labels": guide.soft_labels.log_probs(4.0),
        }[self.into]  # fmt: skip
        if progress.step == STEPS - 1:
            shared.zero_()
        return {"writer": student.logits.square().mean()}


class Careless(Distiller):
    """Writes into the teacher's output, or draws, while its digest is made."""

    needs = frozenset({"embedding", "soft_labels"})
    digest_options = ("act",)

    def __init__(self, *, act: Literal["write", "draw"] = "write") -> None:
        super().__init__()
        self.act = act

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        if self.act == "write":
            teacher.embedding.mul_(0)
            return {}
        return {"noise": torch.rand_like(teacher.embedding)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        noise = guide.teacher.get("noise", torch.ones(1))
        return {"careless": student.logits.square().mean() * noise.mean()}


class Deployed(Distiller):
    """Its deployed network misbehaves when it is judged."""

    def __init__(self, *, act: Literal["write", "raise", "shape"] = "write") -> None:
        super().__init__()
        self.act = act

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        return {}

    def deployed(self, student: nn.Module) -> nn.Module:
        act = self.act

        class Judged(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.student = student

            def forward(self, images: Tensor) -> ModelOutput:
                if act == "raise":
                    raise ZeroDivisionError("a fault of what is judged")
                if act == "shape":
                    return ModelOutput(torch.zeros(()))
                output = self.student(images.clone())
                images.zero_()
                return output

        return Judged()


class Rough(Source):
    """A source that writes into the batch, draws unkeyed numbers, or fails."""

    def __init__(self, *, act: Literal["write", "draw", "fail", "inference"] = "write") -> None:
        self.act = act

    def fit(self, workshop: Workshop) -> None:
        if self.act == "fail":
            raise ZeroDivisionError("a fault of this source")
        self._classes, self._first = workshop.num_classes, torch.rand(())

    def __call__(self, batch: Batch) -> SoftLabels:
        if self.act == "write":
            batch.images.mul_(0.3)
        with torch.inference_mode(self.act == "inference"):
            values = torch.rand(len(batch.labels), self._classes) + self._first
            return probabilities(values / values.sum(dim=1, keepdim=True))


THINGS = (
    (SOURCES, "rough", Rough),
    (DATASETS, "tiny", tiny_data),
    (MODELS, "tiny_student", TinyStudent),
    (MODELS, "untouchable", untouchable),
    *((DISTILLERS, cls.__name__.lower(), cls) for cls in (Noisy, Spy, Meddler, Diverging, Raising, Writer)),
    (DISTILLERS, "careless", Careless),
    (DISTILLERS, "deployed", Deployed),
)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Register all of this for a while."""
    # Whoever registered first takes back: a session's fixture may be made inside a module's.
    mine = [entry for entry in THINGS if entry[1] not in entry[0].names()]
    for registry, name, thing in mine:
        registry.register(name)(thing)
    try:
        yield
    finally:
        for registry, name, _ in mine:
            registry._module_dict.pop(name)


class Bench:
    """The tiny benchmark in a folder of its own.

    Args:
        folder: for its config and its work directories.
        changes: lines that are added to the config.
    """

    def __init__(self, folder: Path, changes: str = "") -> None:
        self.folder = folder
        self.config = folder / "tiny.py"
        self.config.write_text(CONFIG + changes)

    def options(self, methods: str, work: str = "work", **options: Any) -> dict[str, Any]:
        """Give `kdzoo.run`'s options."""
        fixed = {"benchmark": str(self.config), "work_dir": self.folder / work, "device": "cpu"}
        return {**fixed, "methods": methods, **options}

    def run(self, methods: str, work: str = "work", **options: Any) -> api.Results:
        """Train in this process."""
        return api.run(threads=1, **self.options(methods, work, **options))

    def command(self, methods: str, *more: str, work: str = "work") -> list[str]:
        """Give the command line that does the same."""
        return ["bench", "--benchmark", str(self.config), "--work-dir", str(self.folder / work),
                "--device", "cpu", "--threads", "1", "--methods", methods, *more]  # fmt: skip

    def contents(self, work: str = "work") -> dict[tuple[str, int], tuple[dict[str, Any], bytes]]:
        """Give what must repeat of every finished member: its record's content and its weights."""
        return contents(self.folder / work)


def contents(work: Path) -> dict[tuple[str, int], tuple[dict[str, Any], bytes]]:
    """Give what must repeat of every finished member of a work directory, by method and seed."""
    found = {}
    for path in sorted(work.glob("runs/*/*/*/*/record.json")):
        record = Record.from_json(path.read_text(), str(path))
        weights = (path.parent / "student.safetensors").read_bytes()
        found[record.method, record.seed] = record.repeatable(), weights
    return found
