"""ReffAKD's soft labels: how similar the classes are in the eyes of a tiny autoencoder, without any teacher.

Doshi and Kim 2024, "ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation",
https://arxiv.org/abs/2404.09886
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from kdzoo.checks import Count, Interval, NonNegative, UsageError
from kdzoo.data.order import draw_per_class
from kdzoo.outputs import Batch, Setting, SoftLabels, probabilities
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop

# At the smallest gamma itself the diagonal only ties with another entry; this much more makes it the largest.
TIE_BREAK = 1e-6


def class_similarity(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average the cosine similarity over all pairs of images from two classes.

    Args:
        embeddings: [M, D]; a zero row has cosine 0 with all others.
        labels: [M] class numbers; every class has at least two images.
        num_classes: K.

    Returns:
        [K, K], symmetric; its diagonal averages over pairs of *different* images.

    Raises:
        UsageError: a class has fewer than two images, so that its diagonal entry means nothing.

    Source: Doshi and Kim 2024, eq. 1. Paper: sums over all pairs; notebooks and here: different images only.
    """
    member = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(embeddings.dtype)
    counts = member.sum(dim=0)
    if (counts < 2).any():
        lonely = (counts < 2).nonzero().flatten().tolist()
        raise UsageError(
            f"reffakd: every class needs at least two images, classes {lonely} have fewer. Add images."
        )
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    sums = member.T @ unit
    pairs = torch.outer(counts, counts)
    # The sum over pairs is the product of the sums; inside a class an image's pair with itself is taken off
    # again.
    itself = member.T @ unit.square().sum(dim=1)
    return (sums @ sums.T - torch.diag(itself)) / (pairs - torch.diag(counts))


def smallest_gamma(similarity: Tensor) -> float:
    """Find the gamma at which every row's diagonal entry reaches the row's largest other entry (may be
    negative).

    Args:
        similarity: [K, K], K at least 2.
    """
    diagonal = similarity.diagonal()
    others = similarity.masked_fill(
        torch.eye(len(similarity), dtype=torch.bool, device=similarity.device), -torch.inf
    )
    return float((others.amax(dim=1) - diagonal).max())


def soft_label_matrix(similarity: Tensor, gamma: float) -> Tensor:
    """Turn class similarities into soft labels: gamma onto the diagonal, then a softmax over each row.

    Args:
        similarity: [K, K].
        gamma: added to the averaged diagonal. Paper, eq. 1: inside the sum; notebooks and here: to the
            average.

    Returns:
        [K, K]; row i is the soft label of class i.
    """
    eye = torch.eye(len(similarity), dtype=similarity.dtype, device=similarity.device)
    return torch.softmax(similarity + gamma * eye, dim=1)


@SOURCES.register("reffakd")
class ReffAKD(Source):
    """One soft label per class, from the similarities of autoencoder embeddings.

    Args:
        gamma: added to the diagonal; auto takes the smallest that makes it each row's largest entry.
            Default: auto, unless a benchmark sets the paper's value for its data.
        per_class: images drawn from each class (all of them where a class has fewer); at least two, a pair.
            Default: the paper's.
        draws: independent draws whose similarities are averaged. Default: the paper's.
        views: whether augmented views of the drawn images are embedded, as in the notebooks, or the images
            as they are.
        target: what the autoencoder reproduces: normalised images, as in the notebooks (a sigmoid cannot
            reach all of their values), or pixels from 0 to 1.
    """

    trains = ("autoencoder",)
    train_options = ("target",)
    shorthand = "kd"
    paper = "Doshi and Kim 2024, ReffAKD, https://arxiv.org/abs/2404.09886"

    def __init__(
        self,
        *,
        gamma: NonNegative | Literal["auto"] = "auto",
        per_class: Annotated[int, Interval(low=2)] = 40,
        draws: Count = 1,
        views: Literal["augmented", "clean"] = "augmented",
        target: Literal["normalised", "pixels"] = "normalised",
    ) -> None:
        self.gamma = gamma
        self.per_class = per_class
        self.draws = draws
        self.views = views
        self.target = target

    def check(self, setting: Setting) -> None:
        """Refuse classes with fewer than two training images: similarity inside a class takes a pair."""
        counts = torch.bincount(setting.labels, minlength=setting.classes)
        if int(counts.min()) < 2:
            lonely = (counts < 2).nonzero().flatten().tolist()
            raise UsageError(
                f"reffakd: every class needs two training images or more, classes {lonely} have fewer. "
                "Add images, or lower --val-fraction."
            )

    def fit(self, workshop: Workshop) -> None:
        """Train the autoencoder, or fetch it, and turn its embeddings into one row of soft labels per
        class."""

        def reconstruction(network: nn.Module, batch: Batch) -> Tensor:
            wanted = batch.images * workshop.std + workshop.mean if self.target == "pixels" else batch.images
            decode: Callable[[Tensor], Tensor] = network.reconstruct  # type: ignore[assignment]
            return torch.nn.functional.mse_loss(decode(network(batch.images).embedding), wanted)

        encoder = workshop.train("autoencoder", reconstruction)
        similarities = []
        for draw in range(self.draws):
            chosen = draw_per_class(workshop.labels, self.per_class, workshop.key("reffakd", draw))
            images = workshop.images(
                chosen, purpose="reffakd", draw=draw, augmented=self.views == "augmented"
            )
            # float64 on the CPU: the same soft labels on every device, for a matrix that is made once.
            embeddings = workshop.embed(encoder, images).double().cpu()
            labels = torch.from_numpy(workshop.labels[chosen])
            similarities.append(class_similarity(embeddings, labels, workshop.num_classes))
        similarity = torch.stack(similarities).mean(dim=0)
        gamma = max(0.0, smallest_gamma(similarity) + TIE_BREAK) if self.gamma == "auto" else self.gamma
        self._matrix = soft_label_matrix(similarity, gamma).float().to(workshop.device)

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give each sample the row of its class; no temperature touches it (eq. 2)."""
        return probabilities(self._matrix[batch.labels])
