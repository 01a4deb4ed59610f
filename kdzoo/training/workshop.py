"""The workshop of one run: what a source of soft labels may use to get ready (see
`kdzoo.sources.base.Workshop`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdzoo.data import Dataset
from kdzoo.data.pipeline import Feed
from kdzoo.keys import key
from kdzoo.outputs import Batch, ModelOutput
from kdzoo.training.artifacts import ArtifactPlan, Foundry
from kdzoo.training.evaluation import chunk_of
from kdzoo.training.execution import laid_out
from kdzoo.training.loop import seeded_network
from kdzoo.training.member import OwnLoss
from kdzoo.training.networks import SharedTeacher, run_network


class RunWorkshop:
    """The workshop of one source in one run.

    Args:
        images: the run's training images.
        data: the data set that they are of.
        statistics: channel means and standard deviations.
        seed: the run's.
        teacher: shared by the cohort, None where the source declares no need of one.
        teacher_fields: as the source declares them.
        plans: the artifacts that the source declares to train for losses of its own, by name.
        classifiers: what makes those that it declares to be trained on the labels, by name; the same ones for
            all sources.
        builders: of the networks that it declares to use untrained, by name.
        foundry: makes them.
        precisions: of the networks that it trains, or uses untrained, by name.
    """

    def __init__(
        self, images: Feed, data: Dataset, statistics: tuple[tuple[float, ...], tuple[float, ...]],
        seed: int, teacher: SharedTeacher | None, teacher_fields: frozenset[str] | None,
        plans: Mapping[str, ArtifactPlan], classifiers: Mapping[str, Callable[[], SharedTeacher]],
        builders: Mapping[str, Callable[[], nn.Module]], foundry: Foundry, precisions: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.seed = seed
        self.num_classes = len(data.classes)
        self.labels = data.train.labels
        self.positions = data.train.positions
        self.loaded = data.loaded
        self.device = images.device
        mean, std = (
            torch.tensor(s, dtype=torch.float32, device=self.device)[:, None, None] for s in statistics
        )
        self.mean, self.std = mean, std
        self._images = images
        self._teacher = teacher
        self._teacher_fields = teacher_fields
        self._plans = plans
        self._classifiers = classifiers
        self._builders = builders
        self._foundry = foundry
        self._precisions = precisions
        self._made: dict[nn.Module, str] = {}

    def teacher(self, batch: Batch, fields: frozenset[str] | None = None) -> ModelOutput:
        """Run the cohort's teacher on a batch, once however many ask."""
        if self._teacher is None:
            raise ValueError('a source that asks for the teacher must declare needs = frozenset({"teacher"})')
        may = self._teacher_fields
        if fields is not None and may is not None and not fields <= may:
            raise ValueError(
                f"a source that reads the teacher's {', '.join(sorted(fields - may))} must declare it in "
                f"teacher_fields, which has {sorted(may)}"
            )
        return self._teacher(batch, fields)

    def train(self, name: str, loss: Callable[[nn.Module, Batch], Tensor]) -> nn.Module:
        """Train a declared artifact, or fetch it if it was trained before."""
        if name not in self._plans:
            raise ValueError(
                f"a source that trains {name!r} must declare it in trains, which has {list(self._plans)}"
            )
        with self._forked():
            network = self._foundry.make(self._plans[name], OwnLoss(loss, self._precisions[name])).network
        self._made[network] = self._precisions[name]
        return network

    def classifier(self, name: str) -> Callable[[Batch], ModelOutput]:
        """Train a declared network on the labels, or fetch it, and run it as a teacher runs."""
        if name not in self._classifiers:
            raise ValueError(
                f"a source that learns from classifier {name!r} must declare it in classifiers, which has "
                f"{list(self._classifiers)}"
            )
        with self._forked():
            shared = self._classifiers[name]()
        # By its fields, which are rounded where a teacher's are.
        return partial(shared, fields=frozenset(ModelOutput._fields))

    def _forked(self) -> AbstractContextManager[None]:
        """Let what a source draws afterwards not depend on whether an artifact was trained or only read."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    def untrained(self, name: str, purpose: str) -> nn.Module:
        """Build a declared network with initial weights keyed by the run's seed; on the CPU, so that every
        device has the same ones."""
        if name not in self._builders:
            raise ValueError(
                f"a source that builds {name!r} must declare it in builds, which has {list(self._builders)}"
            )
        network = seeded_network(self._builders[name], self.key(purpose)).to(self.device).eval()
        self._made[network] = self._precisions[name]
        return laid_out(network, self._precisions[name])

    def key(self, purpose: str, *place: int) -> int:
        """Give the run's key for a draw."""
        return key(self.seed, purpose, *place)

    def images(self, indices: npt.NDArray[np.int64], *, purpose: str, draw: int, augmented: bool) -> Tensor:
        """Give normalised training images, as they are or as views keyed by purpose and draw."""
        if augmented:
            return self._images.augmented(indices, purpose=purpose, epoch=draw)
        return self._images.clean(indices)

    @torch.no_grad()
    def embed(self, network: nn.Module, images: Tensor) -> Tensor:
        """Give the embeddings of images, in portions and without gradients."""
        parts, precision = [], self._made.get(network, "float32")
        for chunk in torch.split(images, chunk_of(images.shape[-1])):
            embedding = run_network(network, chunk, precision).embedding
            if embedding is None:
                raise ValueError(f"{type(network).__name__} gives no embedding")
            parts.append(embedding)
        return torch.cat(parts)
