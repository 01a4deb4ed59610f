"""How alike the classes of some embedded images are, and the soft labels that this makes.

Doshi and Kim 2024, "ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation",
https://arxiv.org/abs/2404.09886
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.checks import UsageError

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
            f"class_similarity: every class needs at least two images, classes {lonely} have fewer. "
            "Add images."
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
