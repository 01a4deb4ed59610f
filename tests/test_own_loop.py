"""`kdzoo.build_distiller` and `Distiller.loss`: any method in anyone's own loop, without the trainer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdzoo
from kdzoo.distillers import Distiller
from kdzoo.distillers.at import AT
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, probabilities, scores
from kdzoo.registry import DISTILLERS
from kdzoo.training.member import Distillation
from kdzoo.training.networks import SharedTeacher

build = kdzoo.build_distiller
IMAGES, LABELS = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4
INDICES = torch.arange(6)
# What lies behind the student's last stage and is not part of what a method deploys.
UNTRAINED = {"simkd": {"hidden", "classifier"}}


def network(name: str, seed: int = 0, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return kdzoo.build_model(name, num_classes=classes, channels=1, size=32)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    return network("lenet5"), network("resnet8", 1).eval()


class Linear(nn.Module):
    """A network of somebody who has never heard of kdzoo: it returns logits."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(1024, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("name", DISTILLERS.names())
def test_loss_is_the_trainers_and_trains(name: str, pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    distiller = build(name, student, teacher, IMAGES, labels=LABELS)
    # What lasts from step to step, and what is drawn, is the same for both.
    trained = copy.deepcopy(distiller)
    torch.manual_seed(2)
    loss = distiller.loss(
        student(IMAGES), LABELS, teacher=teacher(IMAGES), images=IMAGES, indices=INDICES, epoch=3, epochs=9
    )
    torch.manual_seed(2)
    batch, output = Batch(IMAGES, LABELS, INDICES), SharedTeacher(teacher, "float32")
    digest = distiller.detached_digest(output(batch)) if distiller.needs_teacher() else {}
    guide = Guide(scores(output(batch).logits), digest)
    terms = Distillation(trained, "float32").terms(student, batch, guide, Progress(3, 9, 0, 1))
    torch.testing.assert_close(loss, torch.stack(list(terms.values())).sum())
    loss.backward()
    untrained = {n.partition(".")[0] for n, p in student.named_parameters() if p.grad is None}
    assert untrained == UNTRAINED.get(name, set())
    assert all(p.grad is not None for p in distiller.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", DISTILLERS.names())
def test_no_gradient_reaches_a_teacher_that_ran_with_gradients(
    name: str, pair: tuple[nn.Module, nn.Module]
) -> None:
    student, teacher = pair
    distiller = build(name, student, teacher, IMAGES, labels=LABELS)
    output = teacher(IMAGES)
    assert output.logits.requires_grad
    distiller.loss(student(IMAGES), LABELS, teacher=output, indices=INDICES, epoch=0, epochs=9).backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_networks_are_left_as_they_were(pair: tuple[nn.Module, nn.Module]) -> None:
    student, teacher = pair
    student.train()
    frozen = next(m for m in student.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    modes = [m.training for n in pair for m in n.modules()]
    states = [v.clone() for n in pair for v in n.state_dict().values()]
    build("at", student, teacher, IMAGES)
    assert [m.training for n in pair for m in n.modules()] == modes
    assert not frozen.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(states, (v for n in pair for v in n.state_dict().values()), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DISTILLERS.names())
def test_outputs_of_half_precision_are_taken_in_float32(
    name: str, dtype: torch.dtype, pair: tuple[nn.Module, nn.Module]
) -> None:
    student, teacher = pair
    distiller = build(name, student, teacher, IMAGES, labels=LABELS)

    def half(output: ModelOutput) -> ModelOutput:
        many = (tuple(t.to(dtype) for t in v) if isinstance(v, tuple) else v.to(dtype) for v in output)
        return ModelOutput(*many)

    loss = distiller.loss(
        half(student(IMAGES)), LABELS, teacher=half(teacher(IMAGES)), indices=INDICES, epoch=0, epochs=9
    )
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["scratch", "kd", "dkd"])
def test_logits_alone_do_for_methods_of_soft_labels(name: str) -> None:
    student, teacher = Linear(), Linear()
    distiller = build(name, student, teacher, IMAGES)
    loss = distiller.loss(student(IMAGES), LABELS, teacher=teacher(IMAGES), epoch=0, epochs=1)
    whole = distiller.loss(
        ModelOutput(student(IMAGES)), LABELS, teacher=ModelOutput(teacher(IMAGES)), epoch=0, epochs=1
    )
    assert loss == whole


def test_other_soft_labels_take_the_place_of_the_teachers() -> None:
    student = Linear()
    kd = build("kd", student, example_input=IMAGES, alpha=1.0, temperature=1.0)
    rows = torch.full((6, 4), 0.25)
    loss = kd.loss(student(IMAGES), LABELS, soft_labels=probabilities(rows), epoch=0, epochs=1)
    expected = -(rows * student(IMAGES).log_softmax(dim=1)).sum(dim=1).mean() + rows[0].log().mean()
    torch.testing.assert_close(loss, expected)


def test_a_class_does_that_nobody_registered(pair: tuple[nn.Module, nn.Module]) -> None:
    class Mine(AT):
        """Nothing new."""

    student, teacher = pair
    mine, at = (build(d, student, teacher, IMAGES, p=3) for d in (Mine, "at"))
    assert isinstance(mine, Mine)
    assert mine.options == at.options == {"weight": 1000.0, "p": 3.0}


def test_training_labels_reach_the_method() -> None:
    class Counting(Distiller):
        """Reads the training labels."""

        @classmethod
        def for_setting(cls, setting: Any, **options: Any) -> Distiller:
            built = cls(**options)
            built.counts = torch.bincount(setting.labels, minlength=setting.classes)
            return built

    found = build(Counting, Linear(), example_input=IMAGES, labels=LABELS)
    assert found.counts.tolist() == [2, 2, 1, 1]


def test_adapters_are_where_the_student_is(pair: tuple[nn.Module, nn.Module]) -> None:
    with torch.device("meta"):
        student, teacher = network("lenet5"), network("resnet8")
        fitnet = build("fitnet", student, teacher, IMAGES.to("meta"))
    assert {p.device.type for p in fitnet.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, t: build("rkdd", s, t, IMAGES), "no distiller 'rkdd'. Did you mean 'rkd'"),
        (lambda s, t: build("rkd", s, t), "example_input must be a batch of images"),
        (lambda s, t: build("rkd", s, None, IMAGES), "rkd: it needs a teacher, got none"),
        (lambda s, t: build("rkd", s, t, IMAGES, weight=1), "rkd: there is no option 'weight'"),
        (lambda s, t: build("at", s, t, IMAGES, p=0), "at: p must be a number in [1, inf), got 0"),
        (lambda s, t: build("rkd", Linear(), t, IMAGES), "rkd: it needs the student's embedding"),
        (lambda s, t: build("at", s, Linear(), IMAGES), "at: it needs the teacher's stages"),
        (lambda s, t: build("kd", s, Linear(7), IMAGES), "the same classes, got 4 and 7"),
        (lambda s, t: build("kd", nn.LSTM(32, 4), t, IMAGES[:, 0]), "a tensor of logits"),
        (lambda s, t: build("kd", s, t, IMAGES).loss(s(IMAGES), LABELS, epoch=0, epochs=1),
         "KD: it needs soft labels. Give teacher=..., or soft_labels=...."),
        (lambda s, t: build("at", s, t, IMAGES).loss(s(IMAGES), LABELS, epoch=0, epochs=1),
         "AT: it needs the teacher's output"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(make: Any, message: str, pair: tuple[nn.Module, nn.Module]) -> None:
    with pytest.raises(kdzoo.UsageError) as caught:
        make(*pair)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ROWS = torch.full((6, 4), 0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.nn.functional.one_hot(LABELS, 4).float()}, "KD: labels must be [N] class numbers"),
        ({"labels": LABELS[:3]}, "the student's batch must be that of the labels, 3, got 6"),
        ({"teacher": torch.zeros(1, 4)}, "the teacher's batch must be that of the labels, 6, got 1"),
        ({"soft_labels": ROWS}, "soft_labels must be kdzoo.probabilities(...) or kdzoo.scores(...)"),
        ({"epoch": -1}, "epoch must be from 0 to epochs - 1, 8, got -1"),
        ({"epochs": 0}, "epoch must be from 0 to epochs - 1, -1, got 0"),
    ],
)
def test_a_loss_of_things_that_do_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    student = Linear()
    given = {"labels": LABELS, "teacher": torch.zeros(6, 4), "epoch": 0, "epochs": 9} | change
    labels = given.pop("labels")
    with pytest.raises(kdzoo.UsageError) as caught:
        build("kd", student, example_input=IMAGES).loss(student(IMAGES), labels, **given)
    assert message in str(caught.value)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_loss_says_which_field_of_which_network_is_not_there(
    role: str, pair: tuple[nn.Module, nn.Module]
) -> None:
    student, teacher = pair
    outputs = {"student": student(IMAGES), "teacher": teacher(IMAGES)}
    outputs[role] = outputs[role].logits
    rkd = build("rkd", student, teacher, IMAGES)
    with pytest.raises(kdzoo.UsageError, match=f"RKD: it needs the {role}'s embedding, which is not there"):
        rkd.loss(outputs["student"], LABELS, teacher=outputs["teacher"], epoch=0, epochs=1)


@pytest.mark.parametrize("name", ["reffakd", "kd+reffakd", "rkd:angle_weight=3", "uniform"])
def test_a_whole_method_is_no_distiller(name: str) -> None:
    with pytest.raises(kdzoo.UsageError, match=r"no distiller alone\. Give options as keywords"):
        build(name, Linear(), Linear(), IMAGES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (3, Linear(), Linear(), IMAGES),
            "must be a name of `kdzoo list methods` or a class",
        ),
        ((nn.Linear, Linear(), Linear(), IMAGES), "its first argument must be a name"),
        (("kd", "lenet5", Linear(), IMAGES), "the student must be a torch.nn.Module, got 'str'"),
        (("kd", Linear(), IMAGES), "the teacher must be a torch.nn.Module, got 'Tensor'"),
        (("kd", Linear(), Linear(), [1]), "example_input must be a batch of images"),
        (("kd", Linear(), Linear(), IMAGES.to(torch.uint8)), "floating-point [N, C, H, W], got torch.uint8"),
    ],
)
def test_what_is_no_network_or_no_batch_is_refused(given: Any, message: str) -> None:
    with pytest.raises(kdzoo.UsageError) as caught:
        build(*given)
    assert message in str(caught.value)


def test_teacher_of_other_classes_does_for_methods_of_features() -> None:
    student, teacher = network("lenet5"), network("resnet8", classes=9)
    rkd = build("rkd", student, teacher, IMAGES)
    assert rkd.loss(student(IMAGES), LABELS, teacher=teacher(IMAGES), epoch=0, epochs=1).isfinite()
