import pytest
import torch
from torch import nn

from kdzoo import api
from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.ofd import OFD, margin_relu, margins_of, ofd_loss
from kdzoo.functional.stages import pool
from kdzoo.models import build_model
from kdzoo.models.base import outputs_of
from kdzoo.outputs import norms_of
from kdzoo.training.planned_bank import describe_bank

STUDENT, TEACHER = ((3, 6, 6), (5, 3, 3)), ((2, 5, 5), (4, 4, 4))


@pytest.fixture
def outputs(pair):
    made = pair(STUDENT, TEACHER)
    return made._replace(
        student=made.student._replace(preactivations=made.student.stages),
        teacher=made.teacher._replace(preactivations=made.teacher.stages),
    )


@pytest.fixture
def setting(outputs):
    norms = tuple((torch.linspace(0.5, 1.5, s[0]), torch.linspace(-1, 1, s[0])) for s in TEACHER)
    return outputs.setting._replace(teacher_norms=norms)


def test_the_defaults_are_those_of_the_benchmarks_code(setting):
    assert build_distiller("ofd", setting).options == {"weight": 1e-3}
    assert OFD.needs == {"preactivations"}


def test_options_out_of_range_are_refused(setting):
    with pytest.raises(UsageError, match=r"^ofd: weight must be"):
        build_distiller("ofd", setting, {"weight": -1})


def test_a_teacher_without_batch_norms_is_refused(setting):
    with pytest.raises(UsageError, match=r"^ofd: the teacher must have a batch norm at"):
        build_distiller("ofd", setting._replace(teacher_norms=None))


@pytest.mark.parametrize("norms", [
    (nn.BatchNorm2d(2),), (nn.BatchNorm2d(3), nn.BatchNorm2d(4)),
    (nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(4)), (None, nn.BatchNorm2d(4)), 3,
])  # fmt: skip
def test_batch_norms_that_do_not_fit_are_refused(norms, setting):
    network = nn.Module()
    network.stage_norms = norms
    with pytest.raises(
        UsageError, match=r"^ofd: the teacher must have a batch norm at the end of each stage"
    ):
        build_distiller("ofd", setting._replace(teacher_norms=norms_of(network)))


def test_a_dry_run_sees_that_its_digest_is_kept(tmp_path):
    plan = api.plan(methods=["ofd", "at~ofd"], epochs=1, work_dir=tmp_path)
    (told,) = describe_bank(plan)
    assert "keeps running" not in told


def test_the_class_halves_the_term_of_each_stage_from_the_last_up(outputs, setting, learn):
    distiller = build_distiller("ofd", setting, {"weight": 3}).double()
    kept = distiller.detached_digest(outputs.teacher)
    assert list(kept) == ["map.0", "map.1"]
    total = torch.zeros((), dtype=torch.float64)
    for i, (share, size) in enumerate(((0.5, (5, 5)), (1.0, (3, 3)))):
        margins = margins_of(*setting.teacher_norms[i])
        target = margin_relu(pool(outputs.teacher.preactivations[i], size), margins)
        torch.testing.assert_close(kept[f"map.{i}"], target)
        made = distiller.connectors[i](pool(outputs.student.preactivations[i], size))
        total += share * ofd_loss(made, target)
    terms = learn(distiller, outputs)
    assert list(terms) == ["ofd"]
    torch.testing.assert_close(terms["ofd"], 3 * total)


def test_what_is_below_a_response_that_is_not_positive_is_left_alone():
    student = torch.tensor([-5.0, -0.5, 0.0, 3.0, 1.0, -1e30]).reshape(1, 6, 1, 1).requires_grad_()
    teacher = torch.tensor([-1.0, -1.0, 0.0, 0.0, 2.0, -1.0]).reshape(1, 6, 1, 1)
    loss = ofd_loss(student, teacher)
    assert loss.item() == 0.25 + 9.0 + 1.0
    (slope,) = torch.autograd.grad(loss, student)
    assert slope.flatten().tolist() == [0.0, 1.0, 0.0, 6.0, -2.0, 0.0]


def test_a_diverged_student_gives_no_number():
    student = torch.zeros(2, 3, 2, 2)
    student[1, 2, 0, 0] = torch.nan
    assert not ofd_loss(student, torch.ones(2, 3, 2, 2)).isfinite()
    # Where the teacher is not positive, too: nothing is greater than what is no number.
    assert not ofd_loss(student, -torch.ones(2, 3, 2, 2)).isfinite()


def test_margins_follow_from_the_teacher_and_stand_in_no_checkpoint(setting):
    distiller = build_distiller("ofd", setting)
    assert not any("margins" in name for name in distiller.state_dict())
    torch.testing.assert_close(distiller.margins_1, margins_of(*setting.teacher_norms[1]))


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50", "wrn_16_2", "vgg8", "shufflenetv1"])
def test_networks_tell_the_batch_norms_that_end_their_stages(name):
    """A batch norm without deviation gives its bias, which a stage then shows but for its shortcut."""
    torch.manual_seed(0)
    network = build_model(name, num_classes=5, channels=3, size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    before = outputs_of(network, images).preactivations
    assert [len(weight) for weight, _ in norms_of(network)] == [stage.shape[1] for stage in before]
    with torch.no_grad():
        network.stage_norms[-1].bias += 1.0
    after = outputs_of(network, images).preactivations
    torch.testing.assert_close(after[-1], before[-1] + 1.0)
    for stage in range(len(before) - 1):
        torch.testing.assert_close(after[stage], before[stage])


@pytest.mark.parametrize("name", ["lenet5", "mobilenetv2", "shufflenetv2"])
def test_networks_without_such_batch_norms_tell_none(name):
    assert norms_of(build_model(name, num_classes=5, channels=3, size=32)) is None
