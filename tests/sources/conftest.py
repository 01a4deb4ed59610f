"""A workshop without a trainer: it hands out made-up images and remembers what it was asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdzoo.keys import key, uniforms
from kdzoo.outputs import Batch, ModelOutput


class Encoder(nn.Module):
    """Its embedding is the image itself; its reconstruction is a half of it."""

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(None, images.flatten(1))

    def reconstruct(self, embedding: Tensor) -> Tensor:
        return (embedding / 2).reshape(-1, 1, 2, 3)


class Random(nn.Module):
    """Its embedding is drawn from the image; its weights are a function of a key."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.weights = torch.tensor(uniforms(stream, range(6), 5), dtype=torch.float32)

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(None, images.flatten(1) @ self.weights)


class FakeWorkshop:
    def __init__(self, labels: list[int], seed: int = 0) -> None:
        self.seed = seed
        self.num_classes = max(labels) + 1
        self.labels = np.asarray(labels, dtype=np.int64)
        self.positions, self.loaded = None, len(labels)
        self.mean, self.std = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.25)
        self.device = torch.device("cpu")
        self.asked: list[dict[str, Any]] = []
        self.losses: dict[str, Callable[[nn.Module, Batch], Tensor]] = {}
        self.built: list[tuple[str, str]] = []
        self.judges: list[str] = []

    def pixels(self, index: int, *place: int) -> list[float]:
        """Images of a class lie near each other; a view is another image nearby."""
        own, shared = uniforms(key(9, "image", *place), [index, 10**6 + int(self.labels[index])], 6)
        return (0.4 * own + shared).tolist()

    def teacher(self, batch: Batch, fields: frozenset[str] | None = None) -> ModelOutput:
        return ModelOutput(batch.images.flatten(1)[:, : self.num_classes])

    def train(self, name: str, loss: Callable[[nn.Module, Batch], Tensor]) -> nn.Module:
        self.losses[name] = loss
        return Encoder()

    def classifier(self, name: str) -> Callable[[Batch], ModelOutput]:
        """Each has an opinion of its own."""
        self.judges.append(name)
        factor = torch.tensor(uniforms(key(3, name), range(1), self.num_classes)[0], dtype=torch.float32)
        return lambda batch: ModelOutput(batch.images.flatten(1)[:, : self.num_classes] * factor)

    def untrained(self, name: str, purpose: str) -> nn.Module:
        self.built.append((name, purpose))
        return Random(self.key(purpose))

    def key(self, purpose: str, *place: int) -> int:
        return key(self.seed, purpose, *place)

    def images(self, indices: np.ndarray, *, purpose: str, draw: int, augmented: bool) -> Tensor:
        self.asked.append({"indices": indices, "purpose": purpose, "draw": draw, "augmented": augmented})
        place = (self.seed, draw) if augmented else ()
        return torch.tensor([self.pixels(int(i), *place) for i in indices]).reshape(-1, 1, 2, 3)

    def embed(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images).embedding


@pytest.fixture
def workshop() -> Callable[..., FakeWorkshop]:
    return FakeWorkshop
