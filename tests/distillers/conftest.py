"""What every test of a logit method needs: logits, soft labels, and a step as a member makes it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdzoo.distillers import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, Shapes, SoftLabels


def drawn(count: int, classes: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.fixture
def logits() -> Callable[..., Tensor]:
    return drawn


@pytest.fixture
def setting() -> Setting:
    shapes = Shapes((5,), (4,), ((2, 3, 3),), None)
    return Setting(shapes, shapes, None, 5, torch.arange(10) % 5)


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
