"""A member: one network, what it is trained for, and its own optimizer. It knows nothing of the others."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from kdzoo.checks import FormError, StorageError
from kdzoo.distillers.base import Distiller
from kdzoo.keys import key
from kdzoo.outputs import Batch, Guide, Progress
from kdzoo.training.evaluation import classification_metrics
from kdzoo.training.graphs import GraphedStep, Sums
from kdzoo.training.networks import run_network
from kdzoo.training.recording import Recorder
from kdzoo.training.runtime import seed_generators
from kdzoo.training.stills import Stills

Metrics = dict[str, Any]


class Objective(Protocol):
    """What a network is trained for, and how it is judged."""

    @property
    def distiller(self) -> Distiller | None:
        """Give the method, None for an artifact that is trained for a loss of its own."""
        ...

    def terms(self, network: nn.Module, batch: Batch, guide: Guide, progress: Progress) -> dict[str, Tensor]:
        """Give the weighted terms of the loss, which are added up."""
        ...

    def observe(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Give what evaluation keeps of a chunk of images: [n, ...]."""
        ...

    def metrics(self, observed: Tensor, labels: Tensor, reference: Tensor | None) -> Metrics:
        """Turn what was kept of all images into numbers."""
        ...


class Distillation:
    """Training on labels and under a distiller; judged as a classifier.

    Args:
        distiller: the method.
        precision: of the network's passes.
    """

    def __init__(self, distiller: Distiller, precision: str) -> None:
        self.distiller = distiller
        self._precision = precision

    def terms(self, network: nn.Module, batch: Batch, guide: Guide, progress: Progress) -> dict[str, Tensor]:
        """Give the label's term, as far as the method leaves it weight, and the method's own."""
        return self.distiller.terms(
            run_network(network, batch.images, self._precision), guide, batch, progress
        )

    def observe(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Keep the logits of the network that the method deploys."""
        return run_network(self.distiller.deployed(network), images, self._precision).logits

    def metrics(self, observed: Tensor, labels: Tensor, reference: Tensor | None) -> Metrics:
        """Judge logits as a classifier's; agreement where there is a teacher's reference."""
        return classification_metrics(observed, labels, reference)


class OwnLoss:
    """Training for a loss of a source's own, such as reconstruction; judged by that loss.

    Args:
        loss: from network and batch to a scalar.
        precision: of the network's passes.
    """

    distiller: Distiller | None = None

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor], precision: str) -> None:
        self._loss = loss
        self._precision = precision

    def _value(self, network: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            return self._loss(network, batch).float()

    def terms(self, network: nn.Module, batch: Batch, guide: Guide, progress: Progress) -> dict[str, Tensor]:
        """Give the loss as the only term."""
        return {"own": self._value(network, batch)}

    def observe(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Keep the chunk's loss, once for each image."""
        return self._value(network, Batch(images, labels, None)).expand(len(images))

    def metrics(self, observed: Tensor, labels: Tensor, reference: Tensor | None) -> Metrics:
        """Average the loss over the images."""
        return {"loss": observed.double().mean().item()}


class Member:
    """One network in training.

    Args:
        name: the method's canonical spelling, or the artifact's name.
        network: on its device, with its initial weights.
        objective: what it is trained for.
        optimizer: over the parameters of the network and of the distiller.
        seed: of dropout masks and of draws inside the distiller.
        source: which shared source of soft labels it reads, None for none.
        uses_teacher: whether its agreement with the teacher is of interest.

    Attributes:
        epochs: the metrics of every finished epoch.
        status: "training", "diverged" or "failed".
        fault: what was raised, if it failed.
        seconds: time spent in its own steps and evaluations, over all starts.
        graphed: takes its steps where the device repeats them (`repeat_by`).
    """

    def __init__(
        self, name: str, network: nn.Module, objective: Objective, optimizer: OptimWrapper, seed: int,
        source: str | None = None, uses_teacher: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.network = network
        self.objective = objective
        self.optimizer = optimizer
        self.source = source
        self.uses_teacher = uses_teacher
        self.epochs: list[Metrics] = []
        self.status = "training"
        self.fault: BaseException | None = None
        self.seconds = 0.0
        self.names: tuple[str, ...] = ()
        self.sums: Tensor | None = None
        self.samples = 0
        self.graphed: GraphedStep | None = None
        self._seed = seed

    @property
    def distiller(self) -> Distiller | None:
        """The method that the member trains under; None for an artifact with a loss of its own."""
        return self.objective.distiller

    @contextmanager
    def setting_aside(self) -> Iterator[None]:
        """Note what is raised as this member's fault, and let the others go on; a full disk ends all."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            # Its frames would keep the step's tensors for as long as the fault is told of.
            traceback.clear_frames(error.__traceback__)
            self.status, self.fault = "failed", self.fault or error

    def train_mode(self, training: bool) -> None:
        """Switch network and distiller between training and evaluation."""
        self.network.train(training)
        if self.distiller is not None:
            self.distiller.train(training)

    def step(self, batch: Batch, guide: Guide, progress: Progress) -> None:
        """Train on one batch: forward, terms, backward, optimizer. Nothing here waits for the device.

        Dropout and whatever the distiller draws come from the default generators, which are seeded for this
        very step, so they are the same for every method of a seed and do not depend on who was trained
        before.
        """
        began = time.perf_counter()
        seed = key(self._seed, "forward", progress.epoch, progress.step)
        if self.graphed is not None:
            names, sums = self.graphed(batch, guide, progress, seed)
        else:
            seed_generators(seed, batch.images.device)
            names, sums = self._gradients(batch, guide, progress)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self._add(names, sums, len(batch.labels))
        self.seconds += time.perf_counter() - began

    def repeat_by(self, stills: Stills, recorder: Recorder) -> None:
        """Let the device repeat steps by itself, as far as that changes no number.

        Args:
            stills: of the cohort.
            recorder: of the device.
        """
        modules = [self.network] if self.distiller is None else [self.network, self.distiller]
        self.graphed = GraphedStep(self._gradients, self.optimizer, modules, stills, recorder)

    def _gradients(self, batch: Batch, guide: Guide, progress: Progress) -> Sums:
        """Take a step but for the optimizer's part."""
        terms = self.objective.terms(self.network, batch, guide, progress)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.backward(loss)
        values = torch.stack([t.detach() for t in (loss, *terms.values())])
        return ("loss", *terms), values.double() * len(batch.labels)

    def _add(self, names: tuple[str, ...], values: Tensor, samples: int) -> None:
        if self.sums is None or self.names != names:
            if self.samples:
                raise FormError(
                    f"{type(self.distiller).__name__}.forward must return the same terms in all steps of an "
                    f"epoch, got {list(names)[1:]} after {list(self.names)[1:]}. Let an idle one be 0."
                )
            self.names, self.sums = names, torch.zeros_like(values)
        self.sums += values
        self.samples += samples

    def training_means(self) -> Metrics:
        """Give the mean of the loss and of each term over the epoch so far, and begin anew; None if not
        finite.

        This is the one place where a member's losses leave the device.
        """
        sums = [] if self.sums is None else (self.sums / max(self.samples, 1)).tolist()
        self.sums, self.samples = None, 0
        return {
            name: value if math.isfinite(value) else None
            for name, value in zip(self.names, sums, strict=False)
        }
