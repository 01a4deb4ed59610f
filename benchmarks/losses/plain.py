"""The losses of the zoo written plainly: the papers' formulas in torch's usual operations.

They are what the zoo's losses are measured against, for time and for values on ordinary batches. They lack
what the zoo's have beyond that: equal rows, zero maps, equal singular values, and large logits give NaN or
gradients without bound here, and everything of the teacher is computed again at every call. Options are the
public benchmarks'. No gradient reaches the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Compute T^2 KL(teacher || student), the mean over the batch."""
    log_probs = F.log_softmax(student_logits / temperature, dim=1)
    soft = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_probs, soft, reduction="batchmean")


def plain_dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Compute T^2 (alpha TCKD + beta NCKD), the mean over the batch; the target is lowered by a constant."""
    student, teacher = student_logits / temperature, teacher_logits.detach() / temperature
    target = F.one_hot(labels, student.shape[1]).to(student.dtype)

    def binary(logits: Tensor) -> Tensor:
        probs = F.softmax(logits, dim=1)
        return torch.stack([(probs * target).sum(dim=1), (probs * (1 - target)).sum(dim=1)], dim=1)

    tckd = F.kl_div(binary(student).log(), binary(teacher), reduction="batchmean")
    others = F.log_softmax(student - 1000 * target, dim=1)
    nckd = F.kl_div(others, F.softmax(teacher - 1000 * target, dim=1), reduction="batchmean")
    return temperature**2 * (alpha * tckd + beta * nckd)


def plain_at(student_stages: Sequence[Tensor], teacher_stages: Sequence[Tensor], *, p: float = 2.0) -> Tensor:
    """Compute the sum over stages of the mean squared difference of attention maps."""

    def attention(stage: Tensor) -> Tensor:
        return F.normalize(stage.abs().pow(p).mean(dim=1).flatten(1), dim=1)

    total = student_stages[0].new_zeros(())
    for student, teacher in zip(student_stages, teacher_stages, strict=True):
        student, teacher = _same_size(student, teacher.detach())
        total = total + (attention(student) - attention(teacher)).pow(2).mean()
    return total


def plain_fitnet(student_hint: Tensor, teacher_hint: Tensor) -> Tensor:
    """Compute the mean squared difference of the regressed hint and the teacher's."""
    return F.mse_loss(student_hint, teacher_hint.detach())


def plain_kdsvd(
    student_stages: Sequence[Tensor],
    teacher_stages: Sequence[Tensor],
    *,
    k: int = 1,
    layout: str = "width",
) -> Tensor:
    """Compute the squared difference of how the singular vectors correlate, by whole decompositions of both
    sides."""

    def decomposed(stage: Tensor) -> tuple[Tensor, Tensor]:
        matrices = stage.flatten(1, 2) if layout == "width" else stage.flatten(2).mT
        _, values, vectors = torch.linalg.svd(matrices, full_matrices=False)
        return values, vectors.mT

    found = []
    for student, teacher in zip(student_stages, teacher_stages, strict=True):
        if layout == "width":
            student, teacher = _same_size(student, teacher)
        with torch.no_grad():
            values, guide = (x[..., :k] for x in decomposed(teacher))
            largest = guide.gather(1, guide.abs().argmax(dim=1, keepdim=True))
            guide, weights = guide * largest.sign(), F.normalize(values, dim=1)[:, None]
        candidates = decomposed(student)[1][..., : k + 3]
        cosines = guide.mT @ candidates
        best = cosines.abs().argmax(dim=2)
        follower = candidates.gather(2, best[:, None].expand(-1, candidates.shape[1], -1))
        follower = follower * cosines.gather(2, best[..., None]).mT.sign().detach()
        found.append((follower * weights, guide * weights))

    def correlation(earlier: Tensor, later: Tensor) -> Tensor:
        return torch.exp(-(later[:, :, None] - earlier[:, None]).pow(2) / 8)

    total = student_stages[0].new_zeros(())
    for (student_a, teacher_a), (student_b, teacher_b) in pairwise(found):
        difference = correlation(student_a, student_b) - correlation(teacher_a, teacher_b)
        total = total + difference.pow(2).sum()
    return total / len(student_stages[0])


def plain_pkt(student_embedding: Tensor, teacher_embedding: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Compute the mean of p_t log((p_t + eps) / (p_s + eps)) over all pairs of the batch."""

    def shares(embedding: Tensor) -> Tensor:
        directions = embedding / (embedding.norm(dim=1, keepdim=True) + eps)
        affinities = (directions @ directions.T + 1) / 2
        return affinities / affinities.sum(dim=1, keepdim=True)

    student, teacher = shares(student_embedding), shares(teacher_embedding.detach())
    return (teacher * torch.log((teacher + eps) / (student + eps))).mean()


def plain_rkd_distance(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean Huber difference of distances, each over its mean."""

    def distances(embedding: Tensor) -> Tensor:
        squares = embedding.pow(2).sum(dim=1)
        found = squares[:, None] + squares[None] - 2 * embedding @ embedding.T
        off = 1 - torch.eye(len(embedding), dtype=found.dtype, device=found.device)
        found = found.clamp(min=1e-12).sqrt() * off
        return found / found[found > 0].mean()

    return F.smooth_l1_loss(distances(student_embedding), distances(teacher_embedding.detach()))


def plain_rkd_angle(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean Huber difference of the cosines of all triplets, from all differences at once."""

    def cosines(embedding: Tensor) -> Tensor:
        directions = F.normalize(embedding[None] - embedding[:, None], dim=2)
        return torch.bmm(directions, directions.mT)

    return F.smooth_l1_loss(cosines(student_embedding), cosines(teacher_embedding.detach()))


def plain_rkd(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Add both terms of RKD, weighted as in the public benchmarks."""
    distance = plain_rkd_distance(student_embedding, teacher_embedding)
    return distance_weight * distance + angle_weight * plain_rkd_angle(student_embedding, teacher_embedding)


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the larger of two maps to the smaller."""
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = (
        x if list(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)
    )
    return student, teacher
