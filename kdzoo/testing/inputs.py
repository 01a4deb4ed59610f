"""Made-up outputs of two networks that distillers are checked on: ordinary, extreme and degenerate ones."""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdzoo.outputs import Batch, ModelOutput, Progress, Setting, mapped, shapes_of

# First and last epoch and one between them, where a warm-up or a second stage of training has begun; the
# second step of an epoch as well as the first.
POSITIONS = tuple(Progress(epoch, 40, step, 2) for epoch, step in ((0, 0), (0, 1), (10, 0), (39, 1)))
# Every epoch of short trainings and of a longer one, where schedules begin, end, and divide.
MOMENTS = tuple(
    Progress(epoch, epochs, 0, min(epochs, 2)) for epochs in (1, 2, 40) for epoch in range(epochs)
)

Sizes = tuple[tuple[int], tuple[tuple[int, int, int], ...]]
# An embedding is as wide as averages of the last stage would be, here of 2x2 cells, which classifiers may be
# given.
STUDENT: Sizes = ((40,), ((6, 8, 8), (10, 4, 4)))
TEACHER: Sizes = ((64,), ((8, 12, 12), (12, 6, 6), (16, 4, 4)))
# Maps that are not square, down to a single pixel.
NARROW_STUDENT: Sizes = ((20,), ((6, 8, 4), (10, 1, 1)))
NARROW_TEACHER: Sizes = ((16,), ((8, 6, 9), (12, 3, 2), (16, 1, 1)))


class Case(NamedTuple):
    """One batch as a distiller sees it.

    Attributes:
        name: what is special about it.
        student: all fields; leaves that take gradients.
        teacher: all fields.
        batch: images, labels and indices.
        head: the teacher's classifier, where it has one.
        classes: K.
        probabilities: [N, K] soft labels that no temperature touches; None takes the teacher's scores.
        norms: weight and bias of the batch norm that ends each of the teacher's stages, where it has them.
    """

    name: str
    student: ModelOutput
    teacher: ModelOutput
    batch: Batch
    head: nn.Module | None
    classes: int
    probabilities: Tensor | None = None
    norms: tuple[tuple[Tensor, Tensor], ...] | None = None

    @property
    def setting(self) -> Setting:
        """Describe the case as distillers are built for it."""
        labels = torch.arange(16 * self.classes) % self.classes
        return Setting(
            shapes_of(self.student), shapes_of(self.teacher), self.head, self.classes, labels,
            teacher_norms=self.norms,
        )  # fmt: skip

    def fresh(self) -> Case:
        """Copy it: tensors and classifier of its own, so that nothing of one check reaches the next."""
        return self._replace(
            student=ModelOutput(*mapped(self.student, lambda t: t.detach().clone().requires_grad_())),
            teacher=ModelOutput(*mapped(self.teacher, lambda t: t.detach().clone())),
            batch=Batch(*(None if t is None else t.clone() for t in self.batch)),  # type: ignore[arg-type]
            head=copy.deepcopy(self.head),
            probabilities=None if self.probabilities is None else self.probabilities.clone(),
        )

    def changed(self) -> Case:
        """Give a batch of the same shapes and other numbers throughout."""

        def other(tensor: Tensor) -> Tensor:
            return tensor.flip(0) + 0.5 * tensor.abs()

        images, labels, indices = self.batch
        return self._replace(
            name=f"another batch like {self.name!r}",
            student=ModelOutput(*mapped(self.student, other)),
            teacher=ModelOutput(*mapped(self.teacher, other)),
            # Samples of other positions, and the labels that the training set has there.
            batch=Batch(other(images), labels, None if indices is None else indices + self.classes),
            probabilities=None if self.probabilities is None else self.probabilities.flip(0),
        ).fresh()


def make_case(
    name: str,
    *,
    samples: int = 8,
    classes: int = 10,
    student: Sizes = STUDENT,
    teacher: Sizes = TEACHER,
    scale: float = 1.0,
    kind: str = "drawn",
    soft_labels: str = "scores",
    labels: str = "in turn",
) -> Case:
    """Make a case from numbers that are always the same.

    Args:
        name: what is special about it.
        samples: N.
        classes: K.
        student: sizes of its embedding, (D,), and of its stages, (C, H, W) each.
        teacher: the same of the teacher.
        scale: multiplies all outputs.
        kind: "drawn"; "constant" (all samples and pixels alike); "sign" (plus or minus the scale); "twins"
            (the last sample equals the first); or "equal" (the teacher's outputs are the student's).
        soft_labels: "scores", the teacher's; or "zeros", probabilities of which many are zero: a sample may
            have but one class, its own or another.
        labels: "in turn"; or "one", all samples of the same class.

    Returns:
        The case, with a batch norm in the teacher's classifier, whose statistics must stand still.
    """
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(samples, *shape, generator=generator)
        if kind == "constant":
            values = values.flatten()[:1].reshape(1, *[1] * len(shape)).expand(samples, *shape).clone()
        elif kind == "sign":
            values = values.sign()
        elif kind == "twins":
            values[-1] = values[0]
        return scale * values

    def output(sizes: Sizes) -> ModelOutput:
        (width,), stages = sizes
        before = tuple(drawn(*shape) for shape in stages)
        return ModelOutput(drawn(classes), drawn(width).relu(), tuple(b.relu() for b in before), before)

    of_student = output(student)
    of_teacher = output(teacher) if kind != "equal" else of_student
    width = of_teacher.embedding.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, classes)).requires_grad_(False).eval()
    images = torch.randn(samples, 1, 32, 32, generator=generator)
    # The first sample is not of class 0: what takes one number for the other shall show.
    indices = torch.arange(1, samples + 1) if labels == "in turn" else 1 + classes * torch.arange(samples)
    batch = Batch(images, indices % classes, indices)
    probabilities = _with_zeros(samples, classes) if soft_labels == "zeros" else None
    norms = tuple(_norm(stage.shape[1]) for stage in of_teacher.stages)
    return Case(name, of_student, of_teacher, batch, head, classes, probabilities, norms).fresh()


def _norm(channels: int) -> tuple[Tensor, Tensor]:
    """Give weight and bias of a batch norm: some channels are mostly negative, and some hardly ever."""
    return torch.linspace(0.2, 1.5, channels), torch.linspace(-1.0, 2.0, channels)


def _with_zeros(samples: int, classes: int) -> Tensor:
    """Share each row among as many classes as its place, from its own class on; those of every other row
    leave that class out."""
    rows = torch.zeros(samples, classes)
    for row in range(samples):
        some = [(row + 1 + row % 2 + i) % classes for i in range(min(1 + row // 2, classes - 1))]
        rows[row, some] = 1 / len(some)
    return rows


@functools.cache
def cases() -> tuple[Case, ...]:
    """Give the batches that a distiller is checked on when nobody names others; the first is the ordinary
    one. They are made once, so leave them as they are."""
    return (
        make_case("ordinary"),
        make_case("two classes", classes=2),
        make_case("one sample", samples=1),
        make_case("outputs of +-1e4", scale=1e4, kind="sign"),
        make_case("outputs of 1e4 and less", scale=1e4),
        make_case("constant features", kind="constant"),
        make_case("zero features", scale=0.0),
        make_case("two equal samples", kind="twins"),
        make_case("networks of one shape", teacher=STUDENT),
        make_case("equal student and teacher", teacher=STUDENT, kind="equal"),
        make_case("a teacher of fewer stages", student=TEACHER, teacher=STUDENT),
        make_case("soft labels with zeros", soft_labels="zeros"),
        make_case("samples of one class", labels="one"),
        make_case("narrow maps", student=NARROW_STUDENT, teacher=NARROW_TEACHER),
    )
