"""The words that all else speaks: what networks return, what a step hands to a method, and soft labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdzoo.checks import usage


class ModelOutput(NamedTuple):
    """What a network returns, the same whoever asks; what it does not compute is None.

    The types leave None out: a method reads what it declares in `needs`, and that it is there is checked
        before training.

    Attributes:
        logits: [N, K], before any softmax. None for a network that classifies nothing (an autoencoder).
        embedding: [N, D], the vector before the classifier.
        stages: [N, C, H, W] each, outputs of the residual (or conv) stages after their activation, fine to
            coarse.
        preactivations: the same stages before their last activation; themselves where they end in none.
    """

    logits: Tensor
    embedding: Tensor = None  # type: ignore[assignment]
    stages: tuple[Tensor, ...] = None  # type: ignore[assignment]
    preactivations: tuple[Tensor, ...] = None  # type: ignore[assignment]


class Batch(NamedTuple):
    """The images of one step, the same tensors for every member.

    Attributes:
        images: [N, C, H, W] float32, augmented and normalised.
        labels: [N] int64, class numbers.
        indices: [N] int64, positions in the training set; None for a method that does not need them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None


class Guide(NamedTuple):
    """What guides a student in one step; a method gets only what it declares in `needs`.

    Attributes:
        soft_labels: from the method's source; None for a method that declares no need of them.
        teacher: the method's own digest of the teacher's output, by name.
    """

    soft_labels: SoftLabels
    teacher: Mapping[str, Tensor]


class Progress(NamedTuple):
    """Where training stands; epochs and steps count from 0.

    Attributes:
        epoch: the current epoch.
        epochs: how many there will be.
        step: the current step of this epoch.
        steps: how many steps an epoch has.
    """

    epoch: int
    epochs: int
    step: int
    steps: int


class Shapes(NamedTuple):
    """The shapes of a ModelOutput for one image (no batch dimension); None where the network gives nothing.

    The types leave None out, as `ModelOutput`'s do.
    """

    logits: tuple[int, ...]
    embedding: tuple[int, ...]
    stages: tuple[tuple[int, ...], ...]
    preactivations: tuple[tuple[int, ...], ...]


class Setting(NamedTuple):
    """What a method may know before training: enough to size adapters or to refuse a pair of networks.

    Attributes:
        student: shapes of the student's output.
        teacher: shapes of the teacher's output, None without a teacher.
        teacher_head: the teacher's classifier, None where it has none or nobody needs it.
        classes: number of classes K.
        labels: [N] int64, the training labels.
        positions: [N] int64, where their images stood in the data set as it was loaded; None where nothing
            was taken off it.
        loaded: training images of the data set as it was loaded; None for as many as labels.
        teacher_norms: weight [C] and bias [C] of the batch norm that ends each of the teacher's stages before
            the activation; None where the teacher does not tell, or nobody needs preactivations.
    """

    student: Shapes
    teacher: Shapes
    teacher_head: torch.nn.Module | None
    classes: int
    labels: Tensor
    positions: Tensor | None = None
    loaded: int | None = None
    teacher_norms: tuple[tuple[Tensor, Tensor], ...] | None = None


def norms_of(network: torch.nn.Module) -> tuple[tuple[Tensor, Tensor], ...] | None:
    """Give the numbers of the batch norms that end a network's stages before the activation.

    Args:
        network: one that has these as `stage_norms`, a tuple of `BatchNorm2d` with weight and bias, fine to
            coarse; None for any other.
    """
    norms = getattr(network, "stage_norms", None)
    known = isinstance(norms, (tuple, list, torch.nn.ModuleList)) and all(
        isinstance(norm, torch.nn.BatchNorm2d) and norm.affine for norm in norms
    )
    return tuple((norm.weight.detach(), norm.bias.detach()) for norm in norms) if known and norms else None


def shapes_of(output: ModelOutput) -> Shapes:
    """Give the shapes of one image's output, without the batch dimension."""
    return Shapes(*mapped(output, lambda tensor: tuple(tensor.shape[1:])))


def as_output(returned: ModelOutput | Tensor) -> ModelOutput:
    """Take what a network returned as a `ModelOutput`; a bare tensor is its logits.

    Args:
        returned: a `ModelOutput`, or [N, K] logits.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(returned, Tensor):
        return ModelOutput(returned)
    if not isinstance(returned, ModelOutput):
        raise usage(
            "kdzoo", "a network's output", "a kdzoo.ModelOutput or a tensor of logits [N, K]",
            type(returned).__name__,
        )  # fmt: skip
    return returned


def widened(output: ModelOutput) -> ModelOutput:
    """Give an output in float32 where it is in bfloat16 or float16, because losses lose too much there."""
    return ModelOutput(*mapped(output, lambda t: t.float() if t.dtype.itemsize < 4 else t))


def detached(output: ModelOutput) -> ModelOutput:
    """Give an output through which no gradient flows."""
    return ModelOutput(*mapped(output, Tensor.detach))


def mapped(output: ModelOutput, change: Callable[[Tensor], Any]) -> tuple[Any, ...]:
    """Change every tensor of an output, and leave None where nothing was computed.

    Args:
        output: a network's.
        change: from a tensor to whatever shall stand in its place.

    Returns:
        The changed fields in order; those of several tensors as tuples.
    """

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(one, value))
        return None if value is None else change(value)

    return tuple(one(value) for value in output)


class SoftLabels(Protocol):
    """A distribution over the classes for each sample of a batch, whoever made it."""

    def log_probs(self, temperature: float) -> Tensor:
        """Give [N, K] log-probabilities; -inf stands for a probability of 0.

        Args:
            temperature: divides scores; probabilities stay as they are (eq. 2 of the ReffAKD paper).
        """
        ...


class _Scores:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_probs(self, temperature: float) -> Tensor:
        return torch.log_softmax(self.logits / temperature, dim=-1)


class _Probabilities:
    def __init__(self, values: Tensor) -> None:
        self._log_values = values.log()

    def log_probs(self, temperature: float) -> Tensor:
        return self._log_values


class _Mixture:
    def __init__(self, weights: Sequence[float], parts: Sequence[SoftLabels]) -> None:
        self._log_weights = [math.log(w) if w > 0 else -math.inf for w in weights]
        self._parts = parts

    def log_probs(self, temperature: float) -> Tensor:
        weighted = [p.log_probs(temperature) + w for p, w in zip(self._parts, self._log_weights, strict=True)]
        return torch.logsumexp(torch.stack(weighted), dim=0)


def scores(logits: Tensor) -> SoftLabels:
    """Make soft labels of scores, such as a teacher's logits: the temperature divides them.

    Args:
        logits: [N, K].
    """
    return _Scores(logits)


def rescored(soft_labels: SoftLabels, change: Callable[[Tensor], Tensor]) -> SoftLabels:
    """Make soft labels of other scores.

    Args:
        soft_labels: made by `scores`.
        change: from scores [N, K] to scores [N, K].

    Raises:
        UsageError: they are no scores.
    """
    if not isinstance(soft_labels, _Scores):
        raise usage("kdzoo", "soft labels", "scores, such as a teacher's", "probabilities")
    return _Scores(change(soft_labels.logits))


def probabilities(values: Tensor) -> SoftLabels:
    """Make soft labels of probabilities: no temperature touches them (Doshi and Kim 2024, eq. 2).

    Args:
        values: [N, K], rows sum to 1; zeros are allowed.
    """
    return _Probabilities(values)


def mix(weights: Sequence[float], parts: Sequence[SoftLabels]) -> SoftLabels:
    """Average soft labels as probabilities, each softened in its own way first.

    Args:
        weights: one per part, none negative, summing to 1.
        parts: soft labels of the same [N, K].

    Raises:
        UsageError: the weights are not such.
    """
    if len(weights) != len(parts) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise usage("mix", "weights", f"{len(parts)} numbers, none negative, summing to 1", list(weights))
    return _Mixture(weights, parts)
