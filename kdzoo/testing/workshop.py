"""A workshop small enough for checks: it trains in a blink, and gives a source no more than it declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdzoo.distillers.base import declared
from kdzoo.keys import key
from kdzoo.models import build_model, output_shapes
from kdzoo.outputs import Batch, ModelOutput, Setting
from kdzoo.registry import MODELS
from kdzoo.sources.base import Source
from kdzoo.testing.contract import ContractError, Watch, seed
from kdzoo.testing.subject import named

SIZE, STEPS = 32, 3
Builders = Mapping[str, Callable[[], nn.Module]]


class CheckWorkshop:
    """The workshop of one source under check (see `kdzoo.sources.base.Workshop`).

    Args:
        source: its declarations bound what it gets.
        classes: K.
        count: training images.
        networks: how to build the networks that sources train or use untrained, by section.
        run: its seed.

    Attributes:
        asked: what the source asked for: "teacher", and the names that it trained or built.
        lent: the networks that it got, with their names.
        passes: how often the teacher ran.
        watch: all that it got and others get too.
    """

    def __init__(
        self,
        source: Source,
        *,
        classes: int,
        count: int,
        networks: Builders | None = None,
        run: int = 0,
    ) -> None:
        self.seed = run
        self.num_classes = classes
        self.labels: npt.NDArray[np.int64] = np.arange(count, dtype=np.int64) % classes
        self.positions: npt.NDArray[np.int64] | None = None
        self.loaded = count
        self.device = torch.device("cpu")
        self.mean, self.std = torch.full((1, 1, 1), 0.4), torch.full((1, 1, 1), 0.3)
        self.asked: set[str] = set()
        self.lent: list[tuple[str, nn.Module]] = []
        self.passes = 0
        self.watch = Watch()
        self._source = source
        usual = {"autoencoder": "autoencoder", "student": "resnet8"}
        self._networks = {name: partial(self._built, kind) for name, kind in usual.items()} | {
            **(networks or {})
        }
        draw = np.random.default_rng(7)
        brightness = (1 + self.labels.astype(np.float32))[:, None, None, None] / np.float32(classes)
        pixels = brightness * draw.random((count, 1, SIZE, SIZE), np.float32)
        self._images = (torch.from_numpy(pixels) - self.mean) / self.std
        with torch.random.fork_rng(devices=[]):
            seed(7)
            network = self._built("resnet8")
        self._teacher = self._lend("the teacher", network)
        self._shapes = output_shapes(network, 1, SIZE)
        self._seen: list[tuple[Tensor, ModelOutput]] = []
        self.watch.add({"workshop.mean": self.mean, "workshop.std": self.std})
        self.watch.add({"workshop.labels": torch.from_numpy(self.labels)})

    def _built(self, name: str) -> nn.Module:
        return build_model(name, num_classes=self.num_classes, channels=1, size=SIZE)

    def _lend(self, name: str, network: nn.Module) -> nn.Module:
        self.lent.append((name, network.eval().requires_grad_(False)))
        self.watch.add({f"{n} of {name}": v for n, v in network.state_dict().items()})
        return network

    def serve(self, source: Source) -> None:
        """Give from now on what a source declares.

        Args:
            source: of the same class as before, with other options.
        """
        self._source = source

    @property
    def setting(self) -> Setting:
        """Describe data and networks as a source's `check` gets them."""
        teacher = self._shapes if "teacher" in self._source.needs else None
        return Setting(self._shapes, teacher, None, self.num_classes, torch.from_numpy(self.labels))  # type: ignore[arg-type]

    def batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Give training images as a step has them; positions only where the source declares them."""
        positions = torch.from_numpy(indices)
        placed = "indices" in self._source.needs
        labels = torch.from_numpy(self.labels)[positions]
        return Batch(self._images[positions], labels, positions if placed else None)

    @torch.no_grad()
    def teacher(self, batch: Batch, fields: frozenset[str] | None = None) -> ModelOutput:
        """Run the teacher, if the source declares that it needs one; once for each batch, as in a run."""
        if "teacher" not in self._source.needs:
            raise ContractError('it asks for the teacher. Declare needs = frozenset({"teacher"}).')
        may = self._source.teacher_fields
        if fields is not None and may is not None and not fields <= may:
            raise ContractError(
                f"it reads the teacher's {', '.join(sorted(fields - may))}. Declare that in teacher_fields."
            )
        self.asked.add("teacher")
        output = next((known for images, known in self._seen if images is batch.images), None)
        if output is None:
            output = self._teacher(batch.images)
            self._seen.append((batch.images, output))
            self.passes += 1
            self.watch.add({f"the teacher's {n}": t for n, t in named(output).items()})
        return output if fields is None else declared(output, fields)

    def train(self, name: str, loss: Callable[[nn.Module, Batch], Tensor]) -> nn.Module:
        """Train a network for a few steps, if the source declares it."""
        if name not in self._source.trains:
            raise ContractError(f"it trains {name!r}. Declare it in trains, which has {self._source.trains}.")
        return self._trained(name, loss)

    def _trained(self, name: str, loss: Callable[[nn.Module, Batch], Tensor]) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            seed(7)
            network = self._network(name)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            for _ in range(STEPS):
                optimizer.zero_grad()
                torch.autograd.backward(loss(network, self.batch(np.arange(self.loaded))))
                optimizer.step()
        return self._lend(name, network)

    def classifier(self, name: str) -> Callable[[Batch], ModelOutput]:
        """Train a network on the labels for a few steps, if the source declares it."""
        if name not in self._source.classifiers:
            raise ContractError(
                f"it learns from classifier {name!r}. Declare it in classifiers, which has "
                f"{self._source.classifiers}."
            )
        network = self._trained(
            name, lambda net, batch: functional.cross_entropy(net(batch.images).logits, batch.labels)
        )

        @torch.no_grad()
        def run(batch: Batch) -> ModelOutput:
            output: ModelOutput = network(batch.images)
            return output

        return run

    def untrained(self, name: str, purpose: str) -> nn.Module:
        """Build a network, if the source declares it."""
        if name not in self._source.builds:
            raise ContractError(f"it builds {name!r}. Declare it in builds, which has {self._source.builds}.")
        with torch.random.fork_rng(devices=[]):
            seed(self.key(purpose))
            return self._lend(name, self._network(name))

    def _network(self, name: str) -> nn.Module:
        self.asked.add(name)
        if name in self._networks:
            return self._networks[name]()
        if name in self._source.classifiers and name in MODELS.names():
            return self._built(name)
        raise ContractError(f"there is no network for its section {name!r}. Give networks={{{name!r}: ...}}.")

    def key(self, purpose: str, *place: int) -> int:
        """Give the run's key for a draw."""
        return key(self.seed, purpose, *place)

    def images(self, indices: npt.NDArray[np.int64], *, purpose: str, draw: int, augmented: bool) -> Tensor:
        """Give training images; as views, mirrored and dimmed by purpose and draw."""
        images = self._images[torch.from_numpy(indices)]
        return images.flip(-1) * (0.5 + self.key(purpose, draw) % 8 / 16) if augmented else images

    @torch.no_grad()
    def embed(self, network: nn.Module, images: Tensor) -> Tensor:
        """Give the embeddings of images."""
        output: ModelOutput = network(images)
        return output.embedding
