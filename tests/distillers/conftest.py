"""What every test of a method needs: outputs of two networks, and a step as a member makes it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kdzoo.distillers import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, SoftLabels, shapes_of

Stages = tuple[tuple[int, int, int], ...]
TWO_STAGES: Stages = ((2, 3, 3), (4, 2, 2))


def drawn(count: int, classes: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Adapters start from weights that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def logits() -> Callable[..., Tensor]:
    return drawn


class Pair(NamedTuple):
    """Outputs of two networks; the student's take gradients."""

    student: ModelOutput
    teacher: ModelOutput

    @property
    def setting(self) -> Setting:
        return Setting(*map(shapes_of, self), None, 5, torch.arange(10) % 5)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.student.logits, self.student.embedding, *self.student.stages]


def paired(
    student: Stages = TWO_STAGES,
    teacher: Stages = TWO_STAGES,
    *,
    widths: tuple[int, int] = (4, 4),
    samples: int = 6,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Pair:
    generator = torch.Generator().manual_seed(seed)

    def output(width: int, stages: Stages) -> ModelOutput:
        tensors = [
            torch.randn(samples, *shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in ((5,), (width,), *stages)
        ]
        return ModelOutput(tensors[0], tensors[1], tuple(tensors[2:]))

    made = Pair(output(widths[0], student), output(widths[1], teacher))
    for leaf in made.leaves:
        leaf.requires_grad_()
    return made


@pytest.fixture
def pair() -> Callable[..., Pair]:
    """A function that makes outputs of two networks from shapes of stages."""
    return paired


@pytest.fixture
def setting() -> Setting:
    return paired().setting


@pytest.fixture
def learn() -> Callable[..., dict[str, Tensor]]:
    """A function that asks a distiller for its terms under a teacher."""

    def run(distiller: Distiller, outputs: Pair, *, epoch: int = 0, epochs: int = 200) -> dict[str, Tensor]:
        guide = Guide(None, distiller.detached_digest(outputs.teacher))
        labels = torch.arange(len(outputs.student.logits)) % 5
        batch = Batch(torch.empty(len(labels), 0), labels, None)
        return distiller(outputs.student, guide, batch, Progress(epoch, epochs, 0, 1))

    return run


@pytest.fixture
def step() -> Callable[..., dict[str, Tensor]]:
    """A function that asks a distiller for its terms."""

    def run(
        distiller: Distiller,
        student: Tensor,
        soft: SoftLabels,
        labels: Tensor,
        *,
        epoch: int = 0,
        epochs: int = 200,
    ) -> dict[str, Tensor]:
        batch = Batch(torch.empty(len(labels), 0), labels, None)
        return distiller(ModelOutput(student), Guide(soft, {}), batch, Progress(epoch, epochs, 0, 1))

    return run
