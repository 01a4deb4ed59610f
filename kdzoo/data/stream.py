"""Data that does not fit in memory: pictures stay in their files, and workers decode ahead of the steps.

A picture's view is torchvision's v2 transforms, drawn from (seed, epoch, sample): it depends neither on the
worker that makes it nor on how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdzoo.checks import KdzooError, usage
from kdzoo.data.base import Labels, Split
from kdzoo.data.picture_files import PictureFiles
from kdzoo.data.picture_views import draw_view, random_view
from kdzoo.data.pictures import fitted, opened, reason, strict
from kdzoo.data.pipeline import Feed, Pipeline
from kdzoo.data.places import few, shown
from kdzoo.data.views import Views
from kdzoo.data.workers import Loading

# Stands for "as it is", without random views.
_PLAIN = -1


class _Item(NamedTuple):
    """A picture, and what its view is drawn for: an epoch, `_PLAIN` for none, and a purpose."""

    place: int
    epoch: int = _PLAIN
    purpose: str | None = None


class _Decoder(torch.utils.data.Dataset[Any]):
    """What a worker does: from an item to uint8 [C, size, size], or to words that say why it cannot.

    Args:
        files: the pictures.
        views: what is done to them at random.
        seed: of the views.
    """

    def __init__(self, files: PictureFiles, views: Views, seed: int) -> None:
        self._files, self._views, self._seed = files, views, seed

    def __getitem__(self, item: _Item) -> Tensor | str:
        files, views = self._files, self._views
        how: dict[str, Any] = dict(size=files.size, channels=files.channels, short_side=files.short_side)
        try:
            with strict(), files.open(item.place) as file, opened(file) as picture:
                if item.epoch == _PLAIN:
                    return torch.from_numpy(fitted(picture, **how))
                drawn = draw_view(views, self._seed, item.epoch, item.place, item.purpose)
                return random_view(picture, views, drawn, **how)
        except MemoryError:
            # No fault of the picture.
            raise
        except Exception as error:
            return f"{shown(os.fsdecode(files.path(item.place)))} {reason(error)}"


def _collated(items: list[Tensor | str]) -> Tensor | list[str]:
    faults = [item for item in items if isinstance(item, str)]
    if faults:
        return faults
    images = torch.stack([item for item in items if isinstance(item, Tensor)])
    if torch.utils.data.get_worker_info() is not None:
        # Already here, where a full /dev/shm raises: later nobody would hear of it, and wait for ever.
        images.share_memory_()  # type: ignore[no-untyped-call]
    return images


class Stream(Feed):
    """Images that workers decode: the next batches are made while this one is trained on.

    Args:
        files: the pictures.
        labels: [N] class numbers.
        views: what is done to them; all that is random in it applies to `batch` and `augmented` only.
        mean: of pixels / 255, one for each channel.
        std: standard deviation, the same.
        batch_size: samples of a batch; the last of an epoch may have fewer.
        seed: of order and views.
        device: where batches are.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UsageError: no pictures, or other numbers of labels.
    """

    streams = True

    def __init__(
        self, files: PictureFiles, labels: Labels, *, views: Views, mean: Sequence[float],
        std: Sequence[float], batch_size: int, seed: int, device: torch.device | str, workers: int,
    ) -> None:  # fmt: skip
        if len(files) != len(labels):
            raise usage("data", "images and labels", "as many, 1 or more", (len(files), len(labels)))
        super().__init__(
            labels, views=views, mean=mean, std=std, batch_size=batch_size, seed=seed, device=device
        )
        self.size = files.size
        self._decoder = _Decoder(files, views, seed)
        self._workers = workers
        self._ahead: Generator[Tensor, None, None] | None = None
        self._open: list[Loading[_Item, Tensor | list[str]]] = []
        self._next = (-1, -1)
        self._given = (-1, -1)

    def _batch_views(self, epoch: int, step: int, chosen: npt.NDArray[np.int64]) -> Tensor:
        place = (epoch, step)
        if place == self._given:
            # Somebody wrote into the batch, and it is made again; what was prepared meanwhile is kept.
            return self._views_of(chosen, self.views.epoch(epoch), None)
        if place != self._next or self._ahead is None:
            if self._ahead is not None:
                self._ahead.close()
            self._ahead = self._loaded(self._batches_from(epoch, step))
        images = next(self._ahead)
        self._given = place
        self._next = (epoch, step + 1) if step + 1 < self.steps else (epoch + 1, 0)
        return images

    def _batches_from(self, epoch: int, step: int) -> Iterator[list[_Item]]:
        """List the batches from a position on, without an end: who trains stops asking."""
        while True:
            yield self._items(self.chosen(epoch, step), self.views.epoch(epoch), None)
            epoch, step = (epoch, step + 1) if step + 1 < self.steps else (epoch + 1, 0)

    def _items(self, indices: npt.ArrayLike, epoch: int, purpose: str | None) -> list[_Item]:
        return [_Item(index, epoch, purpose) for index in np.asarray(indices).tolist()]

    def _loaded(self, batches: Iterator[list[_Item]]) -> Generator[Tensor, None, None]:
        pinned = self.device.type == "cuda"
        loading = Loading(self._decoder, _collated, batches, workers=self._workers, pinned=pinned)
        self._open.append(loading)
        try:
            for found in loading:
                if isinstance(found, list):
                    raise KdzooError(
                        f"data: cannot use {few(found)}. Replace what is damaged and run the same command "
                        "again; taking it away makes other data of it."
                    )
                yield found.to(self.device, non_blocking=pinned)
        finally:
            loading.close()
            self._open.remove(loading)

    def close(self) -> None:
        """End the processes that decode."""
        for loading in list(self._open):
            loading.close()
        self._ahead, self._next, self._given = None, (-1, -1), (-1, -1)

    def _views_of(self, indices: npt.ArrayLike, epoch: int, purpose: str | None) -> Tensor:
        return self._all(self._items(indices, epoch, purpose))

    def _plain(self, indices: npt.ArrayLike) -> Tensor:
        return self._all([_Item(index) for index in np.asarray(indices).tolist()])

    def _all(self, items: list[_Item]) -> Tensor:
        size = self._batch_size
        parts = (items[start : start + size] for start in range(0, len(items), size))
        return torch.cat(list(self._loaded(parts)))

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give all samples in their own order, without random views.

        Args:
            size: samples of a chunk; the last may have fewer.

        Yields:
            Normalised images [n, C, H, W] float32 and labels [n] int64.
        """
        starts = range(0, len(self), size)
        parts = ([_Item(i) for i in range(s, min(s + size, len(self)))] for s in starts)
        for images, labels in zip(self._loaded(parts), torch.split(self.labels, size), strict=True):
            yield self._normalise(images), labels


def feed_of(split: Split, *, views: Views, workers: int = 0, **common: Any) -> Feed:
    """Give the images of a split for one device, wherever they are kept.

    Args:
        split: images in memory, or pictures in their files.
        views: what is done to them.
        workers: processes that decode pictures in files.
        common: as `Feed` takes them.
    """
    if isinstance(split.images, PictureFiles):
        return Stream(split.images, split.labels, views=views, workers=workers, **common)
    return Pipeline(split.images, split.labels, views=views, **common)
