"""CRD: recognise what the other network makes of the same sample, among what it made of many others.

Tian, Krishnan and Isola 2020, "Contrastive Representation Distillation", ICLR,
https://arxiv.org/abs/1910.10699
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from kdzoo.checks import Count, Fraction, NonNegative, Positive, UsageError, checked, options_of
from kdzoo.distillers.base import Distiller
from kdzoo.functional.memories import drawn_rows, scores_of, sums_of
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS

Negatives = Literal["other_classes", "other_samples"]


def log_odds(scores: Tensor, *, k: int, samples: int, temperature: float, log_z: Tensor | float) -> Tensor:
    """Compute log(h / (1 - h)) of h = e / (e + k / M), where e = exp(score / temperature) / Z.

    Args:
        scores: [...], cosines of what two networks make of two samples.
        k: negatives of each anchor.
        samples: M, of the training set.
        temperature: positive.
        log_z: the logarithm of Z, a scalar [].

    Returns:
        [...], whose sigmoid is h, the belief that both samples are the same.

    Source: Tian et al. 2020, the critic h. Paper: without Z, which is a log_z of 0; authors' code: with Z,
        and 1e-7 added to the denominator; here: with Z, in log space.
    """
    return scores / temperature - (log_z + math.log(k / samples))


def log_normaliser(scores: Tensor, *, samples: int, temperature: float) -> Tensor:
    """Estimate log Z, of Z = M times the mean of exp(score / temperature).

    Args:
        scores: [N, J], of all anchors with their positives and negatives.
        samples: M, of the training set.
        temperature: positive.

    Returns:
        A scalar.

    Source: the authors' code, which keeps the first batch's.
    """
    return (scores / temperature).flatten().logsumexp(dim=0) + math.log(samples / scores.numel())


def crd_loss(
    positive: Tensor, negative: Tensor, *, samples: int, temperature: float, log_z: Tensor | float
) -> Tensor:
    """Compute -log h of the positive and -log(1 - h) of the negatives, for the anchors of one network.

    Args:
        positive: [N], cosines of each anchor and the other network's embedding of its sample.
        negative: [N, k], of each anchor and the other network's embeddings of other samples.
        samples: M, of the training set.
        temperature: positive.
        log_z: the logarithm of Z, a scalar []; 0 gives the paper's form.

    Returns:
        A scalar in nats: the sum over positive and negatives, the mean over anchors.

    Source: Tian et al. 2020, the lower bound that student and critic maximise together, negated.
    """
    scores = torch.cat([positive[:, None], negative], dim=1)
    odds = log_odds(scores, k=negative.shape[1], samples=samples, temperature=temperature, log_z=log_z)
    return _cost(odds)


def _cost(odds: Tensor) -> Tensor:
    """Compute the loss of log-odds [N, 1 + k], the positives' in the first column."""
    return -(logsigmoid(odds[:, 0]) + logsigmoid(-odds[:, 1:]).sum(dim=1)).mean()


class _Contrast(torch.autograd.Function):
    """The loss of log-odds, and its gradient by the anchors: made at once, as the memory moves on before the
    backward pass."""

    @staticmethod
    def forward(
        anchors: Tensor, odds: Tensor, memory: Tensor, rows: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        slopes = odds.sigmoid()
        slopes[:, 0] -= 1
        return _cost(odds), sums_of(slopes.div_(temperature * len(odds)), memory, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return outer * ctx.saved_tensors[0], None, None, None, None


@DISTILLERS.register("crd")
class CRD(Distiller):
    """CE + weight x the contrast of each network's embeddings with what is remembered of the other's.

    Each network's embedding goes through a trained linear map to a unit vector, the anchor. A memory for each
    network holds the mixed anchors of all M training samples, and changes after the loss; positives and
    negatives are the other network's, from its memory. A step needs some [N, k] numbers (of k = 16384 and
    N = 256 some 16 MiB each) and 128 MiB beside them; memories and checkpoints have 2 x M x dim numbers.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
        dim: length of the anchors. Default: the authors' code.
        k: negatives of each anchor. Default: the authors' code. Drawn with replacement; authors' code: only
            where there are fewer to draw from.
        temperature: divides the cosines. Default: the authors' code.
        momentum: share of a memory that stays when its sample comes again. Default: the authors' code.
        negatives: what they are drawn from: other_classes, samples of all other classes; other_samples, all
            other samples. Default: the authors' code.
    """

    needs = frozenset({"embedding", "indices"})
    paper = (
        "Tian, Krishnan and Isola 2020, Contrastive Representation Distillation, ICLR, "
        "https://arxiv.org/abs/1910.10699"
    )
    year = 2020
    student_memory: Tensor
    teacher_memory: Tensor
    log_z: Tensor
    row: Tensor
    first: Tensor
    count: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        labels: Tensor,
        *,
        weight: NonNegative = 0.8,
        dim: Count = 128,
        k: Count = 16384,
        temperature: Positive = 0.07,
        momentum: Fraction = 0.5,
        negatives: Negatives = "other_classes",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.k = k
        self.temperature = temperature
        self.momentum = momentum
        self.student_map = nn.Linear(student_width, dim)
        self.teacher_map = nn.Linear(teacher_width, dim)
        for name in ("student_memory", "teacher_memory"):
            # Authors' code: uniform, too, but of length 1 on average only.
            self.register_buffer(name, unit(torch.empty(len(labels), dim).uniform_(-1, 1)))
        # For the student's anchors and the teacher's; -inf, a Z of 0, until the first batch.
        self.register_buffer("log_z", torch.full((2,), -torch.inf))
        # Memories are sorted by class: what a sample must not draw is `count` rows, from the `first` on.
        row, sizes = labels.argsort(stable=True).argsort(), labels.bincount()
        places = {"row": row, "first": row, "count": torch.ones_like(row)}
        if negatives == "other_classes":
            places |= {"first": (sizes.cumsum(0) - sizes)[labels], "count": sizes[labels]}
        for name, found in places.items():
            self.register_buffer(name, found.to(self.log_z.device), persistent=False)

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Size maps and memories; refuse a training set that leaves nothing to draw."""
        labels = setting.labels
        if not len(labels):
            raise UsageError("crd: it needs the labels of the training set, got none. Give labels=....")
        if checked("crd", options_of(cls), options)["negatives"] == "other_samples":
            if len(labels) < 2:
                raise UsageError("crd: it needs two training images or more, got one. Add images.")
        elif labels.min() == labels.max():
            raise UsageError(
                "crd: negatives=other_classes needs training images of two classes or more, got one. Use "
                "crd:negatives=other_samples."
            )
        (student,), (teacher,) = setting.student.embedding, setting.teacher.embedding
        return cls(student, teacher, labels, **options)

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the contrast of both networks' anchors, then remember them."""
        own, first, count = (places[batch.indices] for places in (self.row, self.first, self.count))
        rows = drawn_rows(own, first, count, k=self.k, samples=len(self.row))
        ours = unit(self.student_map(student.embedding))
        theirs = unit(self.teacher_map(guide.teacher["embedding"]))
        loss = self._contrast(ours, self.teacher_memory, rows, self.log_z[0])
        loss = loss + self._contrast(theirs, self.student_memory, rows, self.log_z[1])
        self._remember(self.student_memory, own, ours)
        self._remember(self.teacher_memory, own, theirs)
        return {"crd": self.weight * loss}

    def _contrast(self, anchors: Tensor, memory: Tensor, rows: Tensor, log_z: Tensor) -> Tensor:
        known: dict[str, Any] = {"samples": len(memory), "temperature": self.temperature}
        scores = scores_of(anchors.detach(), memory, rows)
        log_z.copy_(torch.where(log_z == -torch.inf, log_normaliser(scores, **known), log_z))
        odds = log_odds(scores, k=self.k, log_z=log_z, **known)
        loss: Tensor
        loss, _ = _Contrast.apply(anchors, odds, memory, rows, self.temperature)
        return loss

    def _remember(self, memory: Tensor, own: Tensor, anchors: Tensor) -> None:
        mixed = self.momentum * memory[own] + (1 - self.momentum) * anchors.detach()
        memory.index_copy_(0, own, unit(mixed))
