"""Evaluation: one pass over the images for all members, and the numbers that are read off their logits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdzoo.data.pipeline import Feed
from kdzoo.functional.divergences import cross_entropy

if TYPE_CHECKING:
    from kdzoo.training.member import Member

# Fixed, because a different split of the images into batches may round differently.
CHUNK = 500
# Images of more pixels come in smaller portions: a network's maps of 500 of them would take many GB.
_CHUNK_SIDE = 64

ECE_BINS = 15


def chunk_of(size: int) -> int:
    """Give how many images are passed at once, a function of their size alone.

    Args:
        size: height and width of an image in pixels.
    """
    return CHUNK if size <= _CHUNK_SIDE else max(1, CHUNK * _CHUNK_SIDE**2 // size**2)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = ECE_BINS) -> Tensor:
    """Compute the expected calibration error: |accuracy - confidence| averaged over bins of equal width.

    Args:
        logits: [N, K].
        labels: [N].
        bins: of the interval (0, 1].

    Returns:
        Scalar in [0, 1].

    Source: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", ICML, eq. 3; 15
    bins as
    there.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    correct = (predicted == labels).double()
    # Bins are (low, high], so a confidence on a border belongs below it.
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(
        0, place, correct - confidence
    )
    return gaps.abs().sum() / len(labels)


def classification_metrics(logits: Tensor, labels: Tensor, reference: Tensor | None) -> dict[str, Any]:
    """Judge a classifier by its logits.

    Args:
        logits: [N, K].
        labels: [N].
        reference: [N, K] the teacher's logits for the same images, where the method uses a teacher.

    Returns:
        top1, top5 (of fewer than five classes: of all), ece and, with a reference, agreement (same predicted
        class) in percent; nll in nats. None where a number is not finite.
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = (ranked == labels[:, None]).double()
    found = {
        "top1": 100 * hits[:, 0].mean(),
        "top5": 100 * hits.sum(dim=1).mean(),
        "nll": cross_entropy(logits.double(), labels).mean(),
        "ece": 100 * calibration_error(logits, labels),
    }
    if reference is not None:
        found["agreement"] = 100 * (ranked[:, 0] == reference.argmax(dim=1)).double().mean()
    values = torch.stack(list(found.values())).tolist()
    return {name: value if math.isfinite(value) else None for name, value in zip(found, values, strict=True)}


@torch.no_grad()
def observe(members: list[Member], images: Feed) -> list[Tensor | None]:
    """Pass every image once through all members.

    Args:
        members: their networks are put into evaluation mode and back.
        images: the split to evaluate on.

    Returns:
        For each member what its objective keeps of all images, on the device; None for one that failed.
    """
    kept: list[list[Tensor]] = [[] for _ in members]
    for member in members:
        member.train_mode(False)
    for chunk, labels in images.chunks(chunk_of(images.size)):
        for member, own in zip(members, kept, strict=True):
            if member.fault is None:
                began = time.perf_counter()
                with member.setting_aside():
                    # Copies, because a network may write into its input.
                    own.append(member.objective.observe(member.network, chunk.clone(), labels.clone()))
                member.seconds += time.perf_counter() - began
    whole: list[Tensor | None] = [None] * len(members)
    for place, (member, own) in enumerate(zip(members, kept, strict=True)):
        member.train_mode(True)
        with member.setting_aside():
            whole[place] = None if member.fault else torch.cat(own)
    return whole


def evaluate(
    members: list[Member], splits: Mapping[str, Feed], references: Mapping[str, Tensor]
) -> list[dict[str, dict[str, Any]]]:
    """Judge all members on every split; one that raises has failed.

    Args:
        members: the ones still in training.
        splits: "test" and, where there is one, "validation".
        references: the teacher's logits by split; used for members whose method uses the teacher.

    Returns:
        For each member its metrics by split.
    """
    found: list[dict[str, dict[str, Any]]] = [{} for _ in members]
    for split, images in splits.items():
        for member, results, observed in zip(members, found, observe(members, images), strict=True):
            if observed is not None:
                reference = references.get(split) if member.uses_teacher else None
                with member.setting_aside():
                    results[split] = member.objective.metrics(observed, images.labels, reference)
    return found
