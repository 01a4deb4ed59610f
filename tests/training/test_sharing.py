"""What members share in a step stays watched for as long as anybody has it."""

import weakref

import torch
from torch import Tensor, nn

from kdzoo.distillers import Distiller
from kdzoo.models import build_model
from kdzoo.outputs import Batch, ModelOutput
from kdzoo.training.loop import seeded_network
from kdzoo.training.networks import SharedTeacher
from kdzoo.training.sharing import Shared


class Member:
    """All that sharing reads of a member."""

    def __init__(self, source: str | None = None, distiller: Distiller | None = None) -> None:
        self.source, self.distiller = source, distiller


class Hidden:
    """Soft labels that keep a map of the teacher where nobody can look: in a closure."""

    __slots__ = ("log_probs",)

    def __init__(self, stage: Tensor) -> None:
        self.log_probs = lambda temperature: stage


class Hiding:
    """A source that gives such labels."""

    needs, teacher_fields = frozenset({"teacher"}), None

    def __init__(self, teacher: SharedTeacher) -> None:
        self.teacher = teacher

    def __call__(self, batch: Batch) -> Hidden:
        return Hidden(self.teacher(batch).stages[-1])


def teacher() -> SharedTeacher:
    network: nn.Module = seeded_network(lambda: build_model("resnet8", num_classes=4, channels=1, size=32), 3)
    return SharedTeacher(network, "float32")


def batch() -> Batch:
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.zeros(4, dtype=torch.int64), None)


def test_what_somebody_hides_is_watched_after_the_rest_is_gone() -> None:
    shared_teacher, one = teacher(), batch()
    shared = Shared(one, shared_teacher, {"hiding": Hiding(shared_teacher)}, 0)  # type: ignore[dict-item]
    member = Member("hiding")
    shared.add(member)  # type: ignore[arg-type]
    stages = [weakref.ref(stage) for stage in shared_teacher(one).stages]
    shared_teacher.end_step()
    shared.settle()
    assert [stage() is not None for stage in stages] == [False, False, True]
    assert shared.written() == []
    shared.guides[member].soft_labels.log_probs(1.0).add_(1.0)  # type: ignore[index]
    assert shared.written() == ["teacher.stages.2"]


def test_logits_are_there_for_who_asks_late_and_the_teacher_runs_once() -> None:
    shared_teacher, one = teacher(), batch()
    logits, fields = shared_teacher(one).logits, frozenset({"logits", "embedding"})
    shared_teacher.end_step()
    late = shared_teacher(one, fields)
    assert late.logits is logits
    assert late.embedding is not None
    assert shared_teacher.passes == 1
    # Stages are not kept: who wants the whole output is given it all the same.
    whole: ModelOutput = shared_teacher(one)
    assert len(whole.stages) == 3
    assert shared_teacher.passes == 2
    # Nobody watches over it any more, so it is nobody else's.
    assert torch.equal(whole.logits, logits)
    assert whole.logits is not logits
    assert shared_teacher(one).logits is not whole.logits
    assert shared_teacher(batch(), fields).logits is not logits
