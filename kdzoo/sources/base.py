"""The contract of a source of soft labels, and of the workshop in which one is made ready."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdzoo.checks import FormError, as_names, check_options_of, checked, kind_of, options_of
from kdzoo.outputs import Batch, ModelOutput, Setting, SoftLabels, probabilities
from kdzoo.registry import SOURCES

# How far the sum of a row of soft labels may be from 1: float32 over thousands of classes keeps it by far.
TOLERANCE = 1e-4


class Workshop(Protocol):
    """What a source may use to get ready; given by the trainer, for one seed.

    Attributes:
        seed: the run's seed.
        num_classes: classes K.
        labels: [N] labels of the training images.
        positions: [N] their positions in the data set as it was loaded; None where nothing was taken off it.
        loaded: training images of the data set as it was loaded.
        mean: [C, 1, 1] channel means by which images were normalised, in pixel values from 0 to 1.
        std: [C, 1, 1] channel standard deviations.
        device: where training happens.
    """

    seed: int
    num_classes: int
    labels: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64] | None
    loaded: int
    mean: Tensor
    std: Tensor
    device: torch.device

    def teacher(self, batch: Batch, fields: frozenset[str] | None = None) -> ModelOutput:
        """Run the teacher on a batch, once however many ask; only for a source that declares that need.

        Args:
            batch: of a step, or any other.
            fields: all that is read of the output, of "logits" and "embedding", as declared in
                `teacher_fields`: in a step it may then come from a teacher bank. None for the whole output,
                which is let go of when the step's soft labels are made: who asks later runs the teacher
                again.
        """
        ...

    def train(self, name: str, loss: Callable[[nn.Module, Batch], Tensor]) -> nn.Module:
        """Train an artifact that the source declares in `trains`, or fetch it if it was trained before.

        Args:
            name: its section in the benchmark's config, which names network and schedule.
            loss: from network and batch to a scalar.

        Returns:
            The network in evaluation mode, on the device.
        """
        ...

    def classifier(self, name: str) -> Callable[[Batch], ModelOutput]:
        """Train a network that the source declares in `classifiers` on the labels, or fetch it if it was
        trained before, and as what it was trained: the teacher of one benchmark is the same for all.

        Args:
            name: its section in the benchmark's config, which names network and schedule; "student" for the
                student's own; or a model, for the teacher's section with that network.

        Returns:
            What gives the network's output for a batch, in evaluation mode and without gradients; it runs
            once, however many ask, and again for who asks after the step's soft labels are made.
        """
        ...

    def untrained(self, name: str, purpose: str) -> nn.Module:
        """Build a network that the source declares in `builds`, with initial weights keyed by the run's seed.

        Args:
            name: its section in the benchmark's config, which names the network.
            purpose: of its weights; each purpose has others.

        Returns:
            The network in evaluation mode, on the device.
        """
        ...

    def key(self, purpose: str, *place: int) -> int:
        """Give the run's key for a draw."""
        ...

    def images(self, indices: npt.NDArray[np.int64], *, purpose: str, draw: int, augmented: bool) -> Tensor:
        """Give normalised training images [N, C, H, W]: as they are, or a view of each keyed by purpose and
        draw."""
        ...

    def embed(self, network: nn.Module, images: Tensor) -> Tensor:
        """Give the embeddings [N, D] of images, in portions and without gradients."""
        ...


class Source:
    """Where soft labels come from. A source never sees a student.

    Options are keyword-only arguments of `__init__`, checked like a distiller's. What is declared here may
    follow from them: `__init__` may then set `needs`, `teacher_fields`, `trains`, `train_options`,
    `classifiers`, `builds` and `gives_scores`.

    Attributes:
        needs: "teacher" if it asks the workshop for one, "indices" if it reads the samples' positions.
        teacher_fields: all that a call reads of the teacher's output, of "logits" and "embedding", as it says
            to `workshop.teacher`: that can be kept, and then no teacher runs. None if it may read anything.
        trains: names of the artifacts that `fit` trains.
        train_options: the options that shape those artifacts, and so are part of their key.
        classifiers: names of the networks that `fit` wants trained on the labels, as teachers are.
        builds: sections of the config whose networks it uses untrained.
        follows: the source whose settings it takes where a benchmark sets none for it, and whose artifacts it
            uses if it has any; "" for none.
        needs_options: whether it means nothing without options, though none of them must be given.
        follows_options: whether `needs` and the like follow from options, so that a list cannot tell them.
        mixed: the sources that it is made of, by name; none for all but mixtures.
        version: raised whenever the numbers change, because it is part of every record's key.
        paper: where it comes from.
        gives_scores: whether its soft labels are scores (`kdzoo.scores`), which a temperature divides:
            methods that standardise logits take no others.
        shorthand: the distiller meant where the source's name stands alone as a method; "" if it may not.
        options: the resolved options of this instance, in declared order.
    """

    needs: frozenset[str] = frozenset()
    teacher_fields: frozenset[str] | None = None
    trains: tuple[str, ...] = ()
    train_options: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    follows: ClassVar[str] = ""
    needs_options: ClassVar[bool] = False
    follows_options: ClassVar[bool] = False
    mixed: Mapping[str, Source] = {}
    version: int = 1
    paper: ClassVar[str] = ""
    gives_scores: bool = False
    shorthand: ClassVar[str] = ""
    options: Mapping[str, Any] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.needs = as_names(cls.__name__, "needs", cls.needs)
        if cls.teacher_fields is not None:
            cls.teacher_fields = as_names(cls.__name__, "teacher_fields", cls.teacher_fields)
        check_options_of(cls)

    @classmethod
    def part_names(cls) -> list[str]:
        """List the sources that it may be made of, and whose options it has as "name.option"."""
        return []

    @classmethod
    def resolved(cls, options: Mapping[str, Any], given: Collection[str] | None = None) -> dict[str, Any]:
        """Give the options that count of all that there are: those that records keep.

        Args:
            options: a value for each.
            given: the names of those that the user gave; None where that is not known.

        Raises:
            UsageError: they cannot be together.
        """
        return dict(options)

    def check(self, setting: Setting) -> None:
        """Refuse data or networks that the source cannot work with, before anything is trained.

        Args:
            setting: shapes, classes, and the training labels.

        Raises:
            UsageError: in one clear sentence.
        """

    def content(self) -> Mapping[str, str]:
        """Give what the numbers depend on beside options and settings, such as the hash of a file: it is part
        of a record's key, so it must be the same again once the source is ready."""
        return {}

    def fit(self, workshop: Workshop) -> None:
        """Make ready for a run, before its first step; called again on every start, so it must be
        repeatable."""

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give the soft labels of a batch."""
        raise NotImplementedError


class ClassSource(Source):
    """A source that knows no more of a sample than its class: one row of probabilities for each.

    Attributes:
        class_rows: [K, K] float32 where training happens, once it is ready; row i is class i's soft label.
    """

    # Its rows are made before training, whatever they are made of.
    teacher_fields = frozenset()
    class_rows: Tensor

    def rows(self, workshop: Workshop) -> Tensor | npt.NDArray[Any]:
        """Give the rows [K, K], on any device or from numpy; row i is the soft label of class i."""
        raise NotImplementedError

    def fit(self, workshop: Workshop) -> None:
        """Make the rows, check them, and keep them where training happens.

        Raises:
            FormError: they are no distributions over the classes, one for each class.
        """
        who, given, classes = f"{type(self).__name__}.rows", self.rows(workshop), workshop.num_classes
        must = f"{who} must return floating-point [{classes}, {classes}]"
        if isinstance(given, np.ndarray):
            if given.dtype.kind != "f":
                raise FormError(f"{must}, got an ndarray of {given.dtype}.")
            given = torch.from_numpy(given.astype(np.float64))
        rows = _shaped(must, given, (classes, classes)).float()
        _check_distributions(f"{who} must return probabilities", rows)
        self.class_rows = rows.to(workshop.device)

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give each sample the row of its class; no temperature touches it."""
        return probabilities(self.class_rows[batch.labels])


def check_soft_labels(source: Source, soft_labels: SoftLabels, shape: tuple[int, int]) -> None:
    """Refuse soft labels that are no distributions; it waits for the device, so a step must not call it.

    Args:
        source: gave them, for the message.
        soft_labels: [N, K], of a batch.
        shape: samples N and classes K.

    Raises:
        FormError: what they must be, and what they are.
    """
    who, ways = type(source).__name__, "kdzoo.probabilities(...) or kdzoo.scores(...)"
    if not callable(getattr(soft_labels, "log_probs", None)):
        raise FormError(f"{who} must return soft labels, got {kind_of(soft_labels)}. Return {ways}.")
    must = f"{who}'s soft labels must be floating-point {list(shape)}"
    log_probs = _shaped(must, soft_labels.log_probs(1.0), shape)
    _check_distributions(f"{who}'s soft labels must be probabilities", log_probs.exp())


def _shaped(must: str, given: object, shape: tuple[int, int]) -> Tensor:
    if not isinstance(given, Tensor):
        raise FormError(f"{must}, got {kind_of(given)}.")
    if given.shape != shape or not given.is_floating_point():
        raise FormError(f"{must}, got {given.dtype} {list(given.shape)}.")
    return given


def _check_distributions(must: str, rows: Tensor) -> None:
    must += ", finite, not negative, and 1 in sum for each row"
    do = "Divide each row by its sum; of scores give the softmax, or kdzoo.scores(...) of each sample's."
    wrong = ~(rows.isfinite() & (rows >= 0))
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise FormError(f"{must}, got {rows[row, column].item():g} in row {row}, column {column}. {do}")
    sums = rows.double().sum(dim=1)
    off = (sums - 1).abs() > TOLERANCE
    if off.any():
        row = int(off.nonzero()[0])
        raise FormError(f"{must}, got a sum of {sums[row].item():g} in row {row}. {do}")


def build_source(name: str, options: Mapping[str, object] | None = None) -> Source:
    """Build a registered source.

    Args:
        name: a name of `kdzoo list sources`.
        options: names and values; values may be texts.

    Raises:
        UsageError: an unknown name or option, or a value out of range.
    """
    cls: type[Source] = SOURCES.find(name)
    return cls(**checked(name, options_of(cls), options or {}))
