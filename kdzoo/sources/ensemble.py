"""Several teachers at once: the mean of what they say of an image.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
https://arxiv.org/abs/1503.02531, section 2: soft targets of an ensemble are the mean of its distributions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import torch

from kdzoo.checks import usage
from kdzoo.methods import NAME
from kdzoo.outputs import Batch, ModelOutput, SoftLabels, mix, scores
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop

# Between the names of teachers: the method grammar has uses of its own for : , + ~ and wildcards.
BETWEEN = "/"


@SOURCES.register("ensemble")
class Ensemble(Source):
    """The mean of several teachers' soft labels, each on the very view that the student sees.

    A teacher is a section of the benchmark's config, such as `teacher`, or the name of a model, which is then
    trained by the teacher's recipe. A second teacher of the same network, with other initial weights and
    another order of the images, or one of timm or torchvision, is a section of its own:
    `--cfg-options other.network.type=resnet18`.

    Args:
        teachers: their names, joined by "/", as in teacher/resnet34/vgg8.
        mean: of their probabilities, each softened by the temperature (the arithmetic mean), or of their
            scores, which the temperature then divides (the geometric mean, but for a factor). Default:
            Hinton et al., who name both, the arithmetic first.
    """

    follows_options = True
    paper = (
        "Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, section 2, "
        "https://arxiv.org/abs/1503.02531"
    )

    def __init__(self, *, teachers: str, mean: Literal["probabilities", "scores"] = "probabilities") -> None:
        self._names = _names(teachers)
        self.mean = mean
        self.gives_scores = mean == "scores"
        # The benchmark's own teacher is the one that all methods share.
        shared = "teacher" in self._names
        self.needs = frozenset({"teacher"} if shared else ())
        self.teacher_fields = frozenset({"logits"} if shared else ())
        self.classifiers = tuple(name for name in self._names if name != "teacher")

    @classmethod
    def resolved(cls, options: Mapping[str, Any], given: Collection[str] | None = None) -> dict[str, Any]:
        """Bring the teachers into alphabetical order: their mean knows none."""
        return {**options, "teachers": BETWEEN.join(_names(options["teachers"]))}

    def fit(self, workshop: Workshop) -> None:
        """Train each of the teachers, or fetch it."""

        def shared(batch: Batch) -> ModelOutput:
            return workshop.teacher(batch, self.teacher_fields)

        self._teachers: list[Callable[[Batch], ModelOutput]] = [
            shared if name == "teacher" else workshop.classifier(name) for name in self._names
        ]

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give the mean of what they say."""
        logits = [teacher(batch).logits for teacher in self._teachers]
        if self.mean == "scores":
            return scores(torch.stack(logits).mean(dim=0))
        return mix([1 / len(logits)] * len(logits), [scores(one) for one in logits])


def _names(teachers: str) -> tuple[str, ...]:
    names = sorted(teachers.split(BETWEEN))
    distinct = len(set(names)) == len(names) > 1
    if not distinct or not all(re.fullmatch(NAME, name) for name in names):
        raise usage(
            "ensemble", "teachers", "two names or more, each once, such as teacher/resnet34", teachers
        )
    return tuple(names)
