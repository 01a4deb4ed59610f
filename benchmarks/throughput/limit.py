"""The limit: one bare pass of the teacher, and a bare step of each student with its method's own loss.

Networks, distillers, teacher, precision and layout are those of a kdzoo cohort; nothing else of it is there:
random batches lie ready on the device, and torch's own optimizer moves the weights.
"""

from __future__ import annotations

import copy
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.distillers import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, probabilities, scores, widened
from kdzoo.training.cohort import Cohort
from kdzoo.training.evaluation import chunk_of

from .clock import Marks
from .pair import EPOCHS, Pair

BATCHES = 4


class Limit:
    """What the arithmetic of a cohort alone costs.

    Args:
        pair: networks and shapes.
        cohort: of kdzoo; its teacher is used, its students are copied.
        precisions: of teacher and student, "float32" or "bf16" each.

    Attributes:
        bare: the students, by method.
        size: height and width of the images in pixels.
    """

    def __init__(self, pair: Pair, cohort: Cohort, precisions: tuple[str, str]) -> None:
        self._precisions = precisions
        self._teacher = None if cohort.teacher is None else cohort.teacher.network
        self.bare = {member.name: _Bare(member, pair.optimizer) for member in cohort.members}
        draw = torch.Generator().manual_seed(0)
        self.size = cohort.images.size
        shape = pair.batch_size, pair.data.channels, self.size, self.size
        classes = len(pair.data.classes)
        rows = torch.rand(classes, classes, generator=draw) + 0.5
        self._rows = (rows / rows.sum(dim=1, keepdim=True)).to(pair.device)
        self._kept: list[tuple[Batch, Any, dict[str, Any]]] = []
        made = []
        for _ in range(BATCHES):
            images = torch.randn(shape, generator=draw).to(pair.device)
            labels = torch.randint(classes, shape[:1], generator=draw).to(pair.device)
            # Each network finds them in its layout, which kdzoo brings them to.
            last = images.contiguous(memory_format=torch.channels_last)
            made.append((last, Batch(last if precisions[1] == "bf16" else images, labels, None)))
        self._made, self._batches = made, cycle(made)

    def step(self, marks: Marks, methods: tuple[str, ...]) -> None:
        """Take one step of some methods.

        Args:
            marks: where time is spent.
            methods: of the cohort's.
        """
        for_teacher, batch = next(self._batches)
        marks("teacher")
        output = self._taught(for_teacher)
        for method in methods:
            marks(method)
            bare = self.bare[method]
            digest = bare.distiller.detached_digest(output) if bare.distiller.needs_teacher() else {}
            self._student(bare, batch, output, digest)

    def epoch(self, samples: int, judged: Tensor) -> None:
        """Take an epoch's steps of all methods and judge them, while the teacher's answers lie ready, but for
        digests of a whole batch, which belong to the loss.

        Args:
            samples: of the epoch.
            judged: [M, C, H, W] test images.
        """
        batches = cycle(self._kept)
        while samples > 0:
            batch, output, digests = next(batches)
            if samples < len(batch.labels):
                batch, output = _first(batch, samples), _first(output, samples)
                digests = {m: {n: t[:samples] for n, t in kept.items()} for m, kept in digests.items()}
            for method, bare in self.bare.items():
                digest = digests[method]
                if bare.distiller.needs_teacher() and bare.distiller.digest_scope == "batch":
                    digest = bare.distiller.detached_digest(output)
                self._student(bare, batch, output, digest)
            samples -= len(batch.labels)
        for bare in self.bare.values():
            bare.network.eval()
            with torch.no_grad():
                for chunk in judged.split(chunk_of(self.size)):
                    _run(bare.network, chunk, self._precisions[1]).logits.argmax(dim=1)
            bare.network.train()

    def ask(self) -> None:
        """Let the teacher answer once for every batch, for `epoch`."""
        self._kept = [self._answered(*made) for made in self._made]

    def _answered(self, for_teacher: Tensor, batch: Batch) -> tuple[Batch, Any, dict[str, Any]]:
        output = self._taught(for_teacher)
        digests = {method: _kept_of(bare, output) for method, bare in self.bare.items()}
        return batch, output and output._replace(stages=None, preactivations=None), digests

    def _taught(self, images: Tensor) -> Any:
        if self._teacher is None:
            return None
        with torch.no_grad():
            return _run(self._teacher, images, self._precisions[0])

    def _student(self, bare: _Bare, batch: Batch, teacher: ModelOutput, digest: dict[str, Tensor]) -> None:
        distiller, soft = bare.distiller, None
        if "soft_labels" in distiller.needs:
            soft = probabilities(self._rows[batch.labels]) if bare.by_class else scores(teacher.logits)
        bare.optimizer.zero_grad()
        output = _run(bare.network, batch.images, self._precisions[1])
        guide = Guide(soft, digest)  # type: ignore[arg-type]
        terms = distiller.terms(output, guide, batch, Progress(EPOCHS // 2, EPOCHS, 0, 1))
        torch.stack(list(terms.values())).sum().backward()
        bare.optimizer.step()


def _kept_of(bare: _Bare, output: ModelOutput) -> dict[str, Tensor]:
    kept = bare.distiller.needs_teacher() and bare.distiller.digest_scope == "sample"
    return bare.distiller.detached_digest(output) if kept else {}


def _first(rows: Any, samples: int) -> Any:
    """Take the first samples of a batch, or of an output's logits and embedding."""
    fields = {n: getattr(rows, n) for n in rows._fields if isinstance(getattr(rows, n), Tensor)}
    return rows._replace(**{n: tensor[:samples] for n, tensor in fields.items()})


def _run(network: nn.Module, images: Tensor, precision: str) -> ModelOutput:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output: ModelOutput = network(images)
    return widened(output)


class _Bare:
    """A student with its distiller and torch's own optimizer, all it takes for a step."""

    def __init__(self, member: Any, optimizer: dict[str, Any]) -> None:
        self.network: nn.Module = copy.deepcopy(member.network)
        self.distiller: Distiller = copy.deepcopy(member.distiller)
        # Soft labels of a class are looked up; a teacher's are made of its logits.
        self.by_class = member.source not in (None, "teacher")
        parameters = [*self.network.parameters(), *self.distiller.parameters()]
        options = {name: value for name, value in optimizer.items() if name != "type"}
        self.optimizer = getattr(torch.optim, optimizer["type"])(parameters, **options)

    @property
    def resident(self) -> int:
        """Bytes of what a member keeps while others train: weights, momentum and buffers. Its gradients are
        let go of after each step."""
        modules = (self.network, self.distiller)
        weights = sum(p.numel() * p.element_size() for m in modules for p in m.parameters())
        return 2 * weights + sum(b.numel() * b.element_size() for m in modules for b in m.buffers())
