import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.fitnet import FitNet, fitnet_loss
from kdzoo.functional.stages import pool
from kdzoo.outputs import Progress

LENET, RESNET18 = ((6, 28, 28), (16, 10, 10)), ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))


def at(epoch: int, epochs: int) -> Progress:
    return Progress(epoch, epochs, 0, 1)


def predicted(distiller, stage):
    """What the regressor makes of a stage, without touching its running statistics."""
    convolution, normalisation, _ = distiller.regressor
    made = nn.functional.conv2d(stage, convolution.weight)
    return nn.functional.batch_norm(
        made, None, None, normalisation.weight, normalisation.bias, training=True, eps=normalisation.eps
    ).relu()


def test_the_regressor_trains_with_the_student(pair, learn):
    outputs = pair(dtype=torch.float32)
    distiller = build_distiller("fitnet", outputs.setting)
    optimiser = torch.optim.SGD(distiller.parameters(), lr=1e-3)
    terms = []
    for _ in range(20):
        terms.append(learn(distiller, outputs)["fitnet"])
        optimiser.zero_grad()
        terms[-1].backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in distiller.parameters())
        optimiser.step()
    assert terms[-1] < 0.9 * terms[0]
    assert outputs.student.stages[1].grad.abs().max() > 0
    assert outputs.student.stages[0].grad is None


def test_the_regressor_is_a_convolution_without_bias_a_batch_norm_and_a_relu(setting):
    regressor = build_distiller("fitnet", setting).regressor
    assert [type(part) for part in regressor] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [tuple(p.shape) for p in regressor.parameters()] == [(4, 4, 1, 1), (4,), (4,)]


def test_the_regressor_is_no_part_of_what_is_deployed(setting):
    distiller, student = build_distiller("fitnet", setting), nn.Linear(3, 2)
    before = set(student.state_dict())
    assert distiller.deployed(student) is student
    assert set(student.state_dict()) == before
    assert not [m for m in student.modules() if m in set(distiller.modules())]


@pytest.mark.parametrize(
    ("student", "teacher", "size"), [((3, 8, 4), (2, 6, 6), (6, 4)), ((3, 5, 5), (2, 5, 5), None)]
)
def test_resolutions_that_differ_are_pooled(student, teacher, size, pair, learn):
    outputs = pair((student,), (teacher,))
    distiller = build_distiller("fitnet", outputs.setting, {"hint": 1, "weight": 1}).double()
    (stage,), (hint,) = outputs.student.stages, outputs.teacher.stages
    expected = fitnet_loss(predicted(distiller, pool(stage, size)), pool(hint, size))
    assert distiller.digest(outputs.teacher)["hint"].shape == (6, 2, *(size or (5, 5)))
    torch.testing.assert_close(learn(distiller, outputs)["fitnet"], expected)


@pytest.mark.parametrize(("hint", "student", "channels"), [(1, 0, 64), (2, 0, 128), (3, 1, 256), (4, 1, 512)])
def test_the_hint_meets_the_stage_paired_with_it_or_the_next(hint, student, channels, pair, learn):
    outputs = pair(LENET, RESNET18, samples=2)
    distiller = build_distiller("fitnet", outputs.setting, {"hint": hint, "weight": 10}).double()
    assert [(p.student, p.teacher) for p in distiller.pairs] == [(student, hint - 1)]
    convolution = distiller.regressor[0]
    assert (convolution.in_channels, convolution.out_channels) == (LENET[student][0], channels)
    size = distiller.pairs[0].size
    made = predicted(distiller, pool(outputs.student.stages[student], size))
    expected = 10 * fitnet_loss(made, pool(outputs.teacher.stages[hint - 1], size))
    torch.testing.assert_close(learn(distiller, outputs)["fitnet"], expected)


def test_a_deeper_student_meets_the_hint_at_its_first_paired_stage(pair):
    deep, shallow = tuple((2, 8, 8) for _ in range(5)), tuple((3, 8, 8) for _ in range(3))
    setting = pair(deep, shallow).setting
    pairs = {hint: build_distiller("fitnet", setting, {"hint": hint}).pairs for hint in (1, 2, 3)}
    assert {hint: p.student for hint, (p,) in pairs.items()} == {1: 0, 2: 1, 3: 3}


@pytest.mark.parametrize("hint", [3, 7])
def test_a_hint_that_the_teacher_does_not_have_is_refused(hint, setting):
    with pytest.raises(UsageError) as caught:
        build_distiller("fitnet", setting, {"hint": hint})
    assert str(caught.value) == (
        f"fitnet: hint must be one of the teacher's stages, 1 to 2, got {hint}. "
        "Set fitnet:hint=2, or choose a teacher with more stages."
    )


def test_a_teacher_of_one_stage_has_no_second(pair):
    with pytest.raises(UsageError, match=r"1 to 1, got 2\. Set fitnet:hint=1"):
        build_distiller("fitnet", pair(((2, 3, 3),), ((4, 3, 3),)).setting)


@pytest.mark.parametrize("options", [{"hint": 0}, {"hint": 1.5}, {"weight": -1}, {"two_stage": "maybe"}])
def test_options_out_of_range_are_refused(options, setting):
    (name,) = options
    with pytest.raises(UsageError, match=f"^fitnet: {name} must be"):
        build_distiller("fitnet", setting, options)


def test_by_default_both_terms_are_learnt_at_once(pair, learn):
    outputs = pair()
    distiller = build_distiller("fitnet", outputs.setting).double()
    for epoch in (0, 99, 100, 199):
        assert distiller.label_weight(at(epoch, 200)) == 1
        assert list(learn(distiller, outputs, epoch=epoch)) == ["fitnet"]


@pytest.mark.parametrize(("epochs", "alone"), [(200, 100), (5, 2), (2, 1), (1, 0)])
def test_in_two_stages_the_hint_comes_first_and_the_labels_after_it(epochs, alone, pair, learn):
    outputs = pair()
    distiller = build_distiller("fitnet", outputs.setting, {"two_stage": True}).double()
    for epoch in range(epochs):
        hint_alone = epoch < alone
        assert distiller.label_weight(at(epoch, epochs)) == (0 if hint_alone else 1)
        terms = learn(distiller, outputs, epoch=epoch, epochs=epochs)
        assert list(terms) == (["fitnet"] if hint_alone else [])
        labels = torch.arange(6) % 5
        loss = distiller.loss(outputs.student, labels, teacher=outputs.teacher, epoch=epoch, epochs=epochs)
        assert loss.isfinite()
        assert loss.requires_grad


def test_the_defaults_are_those_of_the_benchmarks(setting):
    assert build_distiller("fitnet", setting).options == {"weight": 100.0, "hint": 2, "two_stage": False}
    assert FitNet.needs == {"stages"}
