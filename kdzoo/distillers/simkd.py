"""SimKD: the student learns the last stage of the teacher, and is judged by the teacher's own classifier.

Chen, Mei, Zhang, Wang, Feng and Chen 2022, "Knowledge Distillation with the Reused Teacher Classifier", CVPR,
https://arxiv.org/abs/2203.14001
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn, tensor

from kdzoo.checks import Count, Positive, UsageError, checked, options_of
from kdzoo.distillers.base import Distiller
from kdzoo.functional.normalisation import BatchNorm
from kdzoo.functional.stages import Size, StagePair, pool, stage_pair
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


def simkd_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Compute the mean squared difference between the teacher's last stage and what the student makes of it.

    Args:
        student_map: [N, C, H, W], behind the projector.
        teacher_map: [N, C, H, W].

    Returns:
        A scalar, the mean over all elements.

    Source: Chen et al. 2022, the feature alignment. Paper: the squared L2 norm of the difference; authors'
        code and here: the mean over all elements of the maps before their average.
    """
    return nn.functional.mse_loss(student_map, teacher_map)


def projector(inputs: int, between: int, outputs: int) -> nn.Sequential:
    """Build the projector: convolutions of 1x1, 3x3 and 1x1, each with batch norm and ReLU.

    Args:
        inputs: channels of the student's last stage.
        between: channels of the bottleneck.
        outputs: channels of the teacher's last stage.

    Source: Chen et al. 2022, the projector; authors' code: convolutions without bias, a ReLU at the end, too.
    """
    layers: list[nn.Module] = []
    for before, after, kernel in ((inputs, between, 1), (between, between, 3), (between, outputs, 1)):
        convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, BatchNorm(after), nn.ReLU()]
    return nn.Sequential(*layers)


def averages(stage: Tensor, grid: int) -> Tensor:
    """Average a map as the teacher does before its classifier.

    Args:
        stage: [N, C, H, W].
        grid: cells along each side; 1 averages the whole map.

    Returns:
        [N, C * grid * grid], the cells of a channel side by side.
    """
    # Of whole maps it is the very mean that networks give their classifiers.
    return stage.mean(dim=(2, 3)) if grid == 1 else pool(stage, (grid, grid)).flatten(1)


def frozen(module: nn.Module) -> nn.Module:
    """Copy a module that shall learn no more.

    Args:
        module: left as it is.
    """
    # Tensor by tensor: a deep copy looks at a tensor's memory, and those that stand for others have none.
    copies: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in module.parameters()
    }
    copies |= {id(b): b.clone() for b in module.buffers()}
    return copy.deepcopy(module, copies).eval()


class ReusedClassifier(nn.Module):
    """What is judged and exported: the student up to its last stage, the projector, the teacher's classifier.

    The student's own classifier stays a part of it, untrained and unread.

    Args:
        student: gives stages.
        projector: from the student's channels to the teacher's.
        classifier: the teacher's.
        size: (height, width) of the map that the projector takes.
        grid: of averages that the classifier takes.
    """

    def __init__(
        self, student: nn.Module, projector: nn.Module, classifier: nn.Module, size: Size, grid: int
    ) -> None:
        super().__init__()
        self.student = student
        self.projector = projector
        self.classifier = classifier
        # For whoever loads the weights again.
        self.places = nn.Buffer(tensor([*size, grid]))
        self._size = size
        self._grid = grid

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; the embedding is what the teacher's classifier is given."""
        output: ModelOutput = self.student(images)
        embedding = averages(self.projector(pool(output.stages[-1], self._size)), self._grid)
        return ModelOutput(self.classifier(embedding), embedding)


@DISTILLERS.register("simkd")
class SimKD(Distiller):
    """Weight x the mean squared difference of the last stages, the student's behind a projector, without CE;
    judged by the teacher's classifier.

    Args:
        weight: of the term, the only one. Default: the authors' code.
        factor: the teacher's channels over those of the projector's bottleneck. Default: the authors' code.
            Paper: 2, 4 and 8, of which 2 is the most accurate.
    """

    needs = frozenset({"stages", "classifier"})
    paper = (
        "Chen, Mei, Zhang, Wang, Feng and Chen 2022, Knowledge Distillation with the Reused Teacher "
        "Classifier, CVPR, https://arxiv.org/abs/2203.14001"
    )
    year = 2022

    def __init__(
        self,
        pair: StagePair,
        size: Size,
        grid: int,
        classifier: nn.Module,
        *,
        weight: Positive = 1.0,
        factor: Count = 2,
    ) -> None:
        super().__init__()
        self.pairs = (pair,)
        self.weight = weight
        outputs = pair.teacher_shape[0]
        self.projector = projector(pair.student_shape[0], outputs // factor, outputs)
        self.classifier = frozen(classifier)
        self._size = size
        self._grid = grid

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the last stages; refuse a classifier that is not given averages of the teacher's."""
        students, teachers = setting.student.stages, setting.teacher.stages
        pair = stage_pair(students, len(students) - 1, teachers, len(teachers) - 1)
        channels, size = pair.teacher_shape[0], pair.size or pair.teacher_shape[1:]
        given = (setting.teacher.embedding or (0,))[0]
        grid = math.isqrt(given // channels)
        if not grid or grid**2 * channels != given:
            raise UsageError(
                f"simkd: the teacher's classifier must take averages of its last stage, one or a square "
                f"number of each of its {channels} channels, got {given} numbers. Choose another teacher."
            )
        if grid > min(size):
            raise UsageError(
                f"simkd: the last stages must have {grid}x{grid} pixels or more, as many averages as the "
                f"teacher's classifier takes, got {size[0]}x{size[1]}. Choose another student."
            )
        factor = checked("simkd", options_of(cls), options)["factor"]
        if factor > channels:
            raise UsageError(
                f"simkd: factor must be at most {channels}, the channels of the teacher's last stage, got "
                f"{factor}. Set simkd:factor={channels}."
            )
        return cls(pair, (size[0], size[1]), grid, setting.teacher_head, **options)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> SimKD:
        """Switch the projector alone: the teacher's classifier is only reused."""
        super().train(mode)
        self.classifier.eval()
        return self

    def label_weight(self, progress: Progress) -> float:
        """Leave the labels out: the teacher has learnt them."""
        return 0.0

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the last stage."""
        return {"map": pool(teacher.stages[-1], self._size)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the projector's distance from the teacher's last stage."""
        predicted = self.projector(pool(student.stages[-1], self._size))
        return {"simkd": self.weight * simkd_loss(predicted, guide.teacher["map"])}

    def deployed(self, student: nn.Module) -> nn.Module:
        """Give the student with the projector and the teacher's classifier behind its last stage."""
        return ReusedClassifier(student, self.projector, self.classifier, self._size, self._grid)

    @classmethod
    def redeployed(cls, student: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
        """Build the network that was deployed; the teacher's classifier must be a linear layer."""
        try:
            (between, inputs), outputs = (
                weights["projector.0.weight"].shape[:2],
                len(weights["projector.7.bias"]),
            )
            classes, given = weights["classifier.weight"].shape
            height, width, grid = weights["places"].tolist()
        except (KeyError, ValueError) as error:
            raise UsageError(
                "simkd: the weights must be a student's, a projector's and a linear classifier's, got others."
            ) from error
        classifier = nn.Linear(given, classes, bias="classifier.bias" in weights)
        parts = projector(inputs, between, outputs), classifier.requires_grad_(False)
        return ReusedClassifier(student, *parts, (height, width), grid)
