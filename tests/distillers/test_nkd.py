import pytest
import torch
from torch import Tensor

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.nkd import NKD, nkd_loss
from kdzoo.functional.divergences import cross_entropy
from kdzoo.outputs import Progress, SoftLabels, probabilities, scores

LABELS = torch.arange(6) % 5
DTYPES = [torch.float32, torch.float64]


def loss_and_gradient(
    student: Tensor, soft: SoftLabels, labels: Tensor, gamma: float = 1.5, temperature: float = 3.0
) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    loss = nkd_loss(leaf, soft, labels, gamma=gamma, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert loss.shape == labels.shape
    assert loss.dtype == gradient.dtype == student.dtype
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    return loss, gradient


def sure(classes: int, labels: Tensor, dtype: torch.dtype = torch.float64) -> SoftLabels:
    return probabilities(torch.nn.functional.one_hot(labels, classes).to(dtype))


def others_alone(student: Tensor, soft: SoftLabels, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The non-target part, by itself."""
    whole, target = (loss_and_gradient(student, soft, labels, gamma) for gamma in (1.0, 0.0))
    return whole[0] - target[0], whole[1] - target[1]


def test_equal_networks_move_only_the_target(logits):
    """The others have nothing to learn, but their cross-entropy is not 0; the target's still pulls."""
    student = logits(6, 5, 0)
    # A shift of all logits of a sample changes no probability.
    for teacher in (student, student + 7.0):
        loss, gradient = others_alone(student, scores(teacher), LABELS)
        assert (loss > 0.1).all()
        assert gradient.abs().max() < 1e-12
        _, gradient = loss_and_gradient(student, scores(teacher), LABELS)
        assert (gradient.gather(1, LABELS[:, None]) < -1e-6).all()


def test_the_targets_own_logit_takes_no_part_among_the_others(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    before = others_alone(student, scores(teacher), LABELS)[0]
    moved = [t.scatter_add(1, LABELS[:, None], torch.full((6, 1), 2.0).double()) for t in (student, teacher)]
    torch.testing.assert_close(others_alone(moved[0], scores(moved[1]), LABELS)[0], before)
    gradient = others_alone(student, scores(teacher), LABELS)[1]
    assert gradient.gather(1, LABELS[:, None]).abs().max() < 1e-12


def test_the_target_part_has_no_temperature(logits):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    believed = logits(6, 5, 1).softmax(dim=1)[torch.arange(6), LABELS]
    for temperature in (1.0, 3.0, 20.0):
        found, _ = loss_and_gradient(student, soft, LABELS, 0.0, temperature)
        torch.testing.assert_close(found, believed * cross_entropy(student, LABELS))


def test_gamma_weighs_the_others(logits):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    target, once, thrice = (loss_and_gradient(student, soft, LABELS, gamma)[0] for gamma in (0.0, 1.0, 3.0))
    assert (once - target > 0.1).all()
    torch.testing.assert_close(thrice - target, 3 * (once - target))


def test_a_temperature_softens_scores_and_leaves_probabilities(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    soft = probabilities((teacher / 3).softmax(dim=1))
    torch.testing.assert_close(
        others_alone(student, soft, LABELS), others_alone(student, scores(teacher), LABELS)
    )
    plain = probabilities(teacher.softmax(dim=1))
    assert (
        others_alone(student, plain, LABELS)[0] - others_alone(student, soft, LABELS)[0]
    ).abs().max() > 0.1


def test_a_large_target_leaves_the_others_apart():
    """Where the target's probability rounds to 1, the others' shares are still known, on both sides."""
    others = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    expected = -(others[0].softmax(dim=1) * others[1].log_softmax(dim=1)).sum(dim=1)
    label = torch.tensor([0])
    teacher, student = (torch.cat([torch.tensor([[200.0]]), o], dim=1) for o in others)
    assert teacher.softmax(dim=1)[0, 0] == student.softmax(dim=1)[0, 0] == 1
    # The student alone may even be as sure as this without losing a digit.
    student[0, 0] = 1e4
    found = nkd_loss(student, scores(teacher), label, gamma=1.0, temperature=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)
    slope = loss_and_gradient(student, scores(teacher), label)[1]
    assert slope[0, 0] == 0
    assert slope[0, 1:].norm() > 0.1


@pytest.mark.parametrize("classes", [2, 5])
def test_what_leaves_no_others_leaves_the_target_part(classes, logits):
    """With two classes there is but one other; soft labels that are sure of the target have none."""
    student, labels = logits(6, classes, 0), torch.arange(6) % classes
    soft = scores(logits(6, 2, 1)) if classes == 2 else sure(classes, labels)
    loss, gradient = others_alone(student, soft, labels)
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(gradient, torch.zeros_like(gradient))
    if classes == 5:
        torch.testing.assert_close(
            loss_and_gradient(student, soft, labels)[0], cross_entropy(student, labels)
        )


def test_soft_labels_without_the_target_leave_the_others(logits):
    student = logits(6, 5, 0)
    loss, gradient = loss_and_gradient(student, sure(5, (LABELS + 1) % 5), LABELS, 0.0)
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert (loss_and_gradient(student, sure(5, (LABELS + 1) % 5), LABELS)[0] > 1e-3).all()


def test_soft_labels_with_zeros_are_the_limit_of_small_ones(logits):
    labels, student = torch.arange(4), logits(4, 4, 0)
    soft = torch.tensor(
        [[0.5, 0.0, 0.5, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.4, 0.6], [0.3, 0.3, 0.4, 0.0]],
        dtype=torch.float64,
    )
    nearly = (soft + 1e-12) / (soft + 1e-12).sum(dim=1, keepdim=True)
    found = [loss_and_gradient(student, probabilities(q), labels) for q in (soft, nearly)]
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


def test_the_class_is_the_mean_of_the_loss(logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    distiller = NKD(temperature=2, gamma=0.5)
    for epoch in (0, 199):
        terms = step(distiller, student, soft, LABELS, epoch=epoch)
        assert list(terms) == ["nkd"]
        expected = nkd_loss(student, soft, LABELS, gamma=0.5, temperature=2).mean()
        torch.testing.assert_close(terms["nkd"], expected)
        assert distiller.label_weight(Progress(epoch, 200, 0, 1)) == 1


def test_the_defaults_are_those_of_the_authors_code_for_cifar100(setting):
    assert build_distiller("nkd", setting).options == {"temperature": 3.0, "gamma": 3.5, "standardize": False}
    assert NKD.needs == {"soft_labels"}
    assert not NKD.needs_teacher()


@pytest.mark.parametrize(("name", "value"), [("temperature", 0), ("gamma", -1)])
def test_options_out_of_range_are_refused(name, value, setting):
    with pytest.raises(UsageError, match=rf"^nkd: {name} must be a number in .*, got {value}\."):
        build_distiller("nkd", setting, {name: value})


@pytest.mark.parametrize("changed", [{"temperature": 2.0}, {"gamma": 0.5}], ids=lambda c: next(iter(c)))
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("nkd", setting), student, soft, LABELS)["nkd"]
    other = step(build_distiller("nkd", setting, changed), student, soft, LABELS)["nkd"]
    assert (usual - other).abs() > 1e-3
