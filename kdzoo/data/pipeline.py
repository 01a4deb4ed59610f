"""From a split to batches: a batch is a pure function of (epoch, step), wherever the images are kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdzoo.checks import usage
from kdzoo.data import views as view
from kdzoo.data.base import Images, Labels
from kdzoo.data.order import epoch_order
from kdzoo.outputs import Batch

F = TypeVar("F", bound="Feed")


class Feed(ABC):
    """The images of one split for one device: keyed batches with views for training, plain ones to look at.

    Args:
        labels: [N] class numbers.
        views: what is done to the images; all that is random in it applies to `batch` and `augmented` only.
        mean: of pixels / 255 of the training set, one for each channel.
        std: standard deviation, the same.
        batch_size: samples of a batch; the last of an epoch may have fewer.
        seed: of order and views.
        device: where labels and batches are.

    Attributes:
        size: height and width of its images in pixels.
        labels: [N] int64 on the device.
        views: what is done to the images.
        seed: of order and views.
        device: where labels and batches are.
        streams: whether it works ahead by itself, in the order of training.

    Raises:
        UsageError: an empty split, or a batch size below 1.
    """

    size: int
    streams = False

    def __init__(
        self, labels: Labels, *, views: view.Views, mean: Sequence[float], std: Sequence[float],
        batch_size: int, seed: int, device: torch.device | str,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise usage("data", "batch size", "an integer in [1, inf)", batch_size)
        if len(labels) == 0:
            raise usage("data", "images and labels", "as many, 1 or more", (0, 0))
        self.device = torch.device(device)
        self.views = views
        self.labels = torch.tensor(labels, dtype=torch.int64, device=device)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(std, dtype=torch.float32, device=device)
        self._batch_size = batch_size
        self.seed = seed
        self._orders = {0: epoch_order(seed, 0, len(labels))}

    def __len__(self) -> int:
        return len(self.labels)

    def __enter__(self: F) -> F:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027
        """End whatever works ahead for it; who asks for images again starts it again."""

    @property
    def steps(self) -> int:
        """Batches in an epoch, the last short one among them."""
        return math.ceil(len(self) / self._batch_size)

    def batch(self, epoch: int, step: int) -> Batch:
        """Give one batch of an epoch, the same whatever was asked for before.

        Args:
            epoch: counts from 0.
            step: 0 to `steps` - 1.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps}")
        chosen = self.chosen(epoch, step)
        images = self._normalise(self._batch_views(epoch, step, chosen))
        indices = self._on_device(chosen)
        return Batch(images, self.labels[indices], indices)

    def chosen(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """Give the samples of a batch, [n] positions in the split, on the host.

        Args:
            epoch: counts from 0.
            step: 0 to `steps` - 1.
        """
        orders = self._orders
        if epoch not in orders:
            # The newest two: who prepares batches ahead is in the next epoch already. Read and written as
            # one, so that a thread that does so finds both.
            newest = dict(list(orders.items())[-1:])
            orders = self._orders = newest | {epoch: epoch_order(self.seed, epoch, len(self))}
        order = orders[epoch]
        # A copy: who writes into the batch's indices must not change the order of the epoch.
        return order[step * self._batch_size : (step + 1) * self._batch_size].copy()

    def _batch_views(self, epoch: int, step: int, chosen: npt.NDArray[np.int64]) -> Tensor:
        """Give the views of a batch, [n, C, H, W] uint8 on the device."""
        return self._views_of(chosen, self.views.epoch(epoch), None)

    @abstractmethod
    def _views_of(self, indices: npt.ArrayLike, epoch: int, purpose: str | None) -> Tensor:
        """Give random views of chosen samples, [n, C, H, W] uint8 on the device."""

    @abstractmethod
    def _plain(self, indices: npt.ArrayLike) -> Tensor:
        """Give chosen samples without random views, [n, C, H, W] uint8 on the device."""

    @abstractmethod
    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give all samples in their own order, without random views.

        Args:
            size: samples of a chunk; the last may have fewer.

        Yields:
            Normalised images [n, C, H, W] float32 and labels [n] int64.
        """

    def augmented(self, indices: npt.ArrayLike, *, purpose: str, epoch: int) -> Tensor:
        """Give random views of chosen samples, other ones than training sees.

        Args:
            indices: [n] positions in the split, on the host.
            purpose: what they are for; each purpose has views of its own.
            epoch: counts from 0; each has other views.

        Returns:
            [n, C, H, W] float32, normalised.
        """
        return self._normalise(self._views_of(indices, epoch, purpose))

    def clean(self, indices: npt.ArrayLike) -> Tensor:
        """Give chosen samples without random views.

        Args:
            indices: [n] positions in the split, on the host.

        Returns:
            [n, C, H, W] float32, normalised.
        """
        return self._normalise(self._plain(indices))

    def _on_device(self, indices: npt.ArrayLike) -> Tensor:
        host = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
        return host.to(self.device, non_blocking=True)

    def _normalise(self, images: Tensor) -> Tensor:
        return view.normalise(images, self._mean, self._std)


class Pipeline(Feed):
    """Images in memory: uint8 arrays that are moved to the device once.

    Args:
        images: [N, C, H, W] uint8. On the CPU they are not copied where they need no resizing.
        labels: [N] class numbers.
        views: what is done to the images; all that is random in it applies to `batch` and `augmented` only.
        mean: of pixels / 255 of the training set, one for each channel.
        std: standard deviation, the same.
        batch_size: samples of a batch; the last of an epoch may have fewer.
        seed: of order and views.
        device: where images, labels and batches are.

    Attributes:
        images: [N, C, H, W] uint8, resized, on the device.
        labels: [N] int64 on the device.

    Raises:
        UsageError: an empty split, a batch size below 1, or numbers that do not fit together.
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        *,
        views: view.Views,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise usage("data", "images", "uint8 of shape [N, C, H, W]", f"{images.dtype} of {images.shape}")
        if not 0 < len(images) == len(labels):
            raise usage("data", "images and labels", "as many, 1 or more", (len(images), len(labels)))
        if not len(mean) == len(std) == images.shape[1]:
            raise usage("data", "mean and std", f"{images.shape[1]} numbers each", (mean, std))
        super().__init__(
            labels, views=views, mean=mean, std=std, batch_size=batch_size, seed=seed, device=device
        )
        # Resized on the host, so that the images are the same on every device.
        stored = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        stored = view.resize(stored, views.resize) if views.resize else stored
        self.images = stored.to(device)
        self.size = int(stored.shape[-1])

    def _views_of(self, indices: npt.ArrayLike, epoch: int, purpose: str | None) -> Tensor:
        parameters = view.draw_parameters(self.views, self.seed, epoch, indices, purpose=purpose)
        return view.apply_views(self._plain(indices), parameters)

    def _plain(self, indices: npt.ArrayLike) -> Tensor:
        return self.images[self._on_device(indices)]

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give all samples in their own order, without random views.

        Args:
            size: samples of a chunk; the last may have fewer.

        Yields:
            Normalised images [n, C, H, W] float32 and labels [n] int64.
        """
        for images, labels in zip(
            torch.split(self.images, size), torch.split(self.labels, size), strict=True
        ):
            yield self._normalise(images), labels
