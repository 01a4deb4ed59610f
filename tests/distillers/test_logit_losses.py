"""What the losses on logits have in common: no surprise at the edges, and nothing said across the batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdzoo.distillers.ctkd import ctkd_loss
from kdzoo.distillers.dist import dist_inter_loss, dist_intra_loss
from kdzoo.distillers.dkd import dkd_loss
from kdzoo.distillers.kd import kd_loss
from kdzoo.distillers.mlkd import mlkd_batch_loss, mlkd_class_loss, mlkd_instance_loss
from kdzoo.distillers.nkd import nkd_loss
from kdzoo.distillers.wsld import wsld_loss
from kdzoo.outputs import SoftLabels, mix, probabilities, scores

Loss = Callable[[Tensor, SoftLabels, Tensor], Tensor]


def kd(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return kd_loss(student, soft, temperature=4.0)


def kd_elementmean(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return kd_loss(student, soft, temperature=2.0, reduction="elementmean")


def dkd(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return dkd_loss(student, soft, labels, alpha=1.0, beta=8.0, temperature=4.0)


def ctkd(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return ctkd_loss(student, soft, temperature=student.new_tensor(4.0))


def nkd(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return nkd_loss(student, soft, labels, gamma=1.5, temperature=3.0)


def wsld(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return wsld_loss(student, soft, labels, temperature=2.0, eps=1e-7)


def wsld_without_eps(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return wsld_loss(student, soft, labels, temperature=2.0, eps=0.0)


def mlkd_instance(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return mlkd_instance_loss(student, soft, temperature=4.0)


def dist_inter(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
    return dist_inter_loss(student, soft, temperature=4.0)


def whole(part: Callable[..., Tensor]) -> Loss:
    """A loss of a batch as one of its samples, each of whom has the same share."""

    def loss(student: Tensor, soft: SoftLabels, labels: Tensor) -> Tensor:
        return part(student, soft, temperature=4.0).expand(len(labels)) / len(labels)

    return loss


dist_intra, mlkd_batch, mlkd_class = whole(dist_intra_loss), whole(mlkd_batch_loss), whole(mlkd_class_loss)
# Nothing is lost by who agrees; the others are cross-entropies.
DIVERGENCES = [kd, kd_elementmean, ctkd, dkd, dist_inter, dist_intra, mlkd_instance, mlkd_batch, mlkd_class]
# The others say something across the batch.
OF_SAMPLES = [kd, kd_elementmean, ctkd, dkd, dist_inter, mlkd_instance, nkd, wsld, wsld_without_eps]
ALL = [*DIVERGENCES, nkd, wsld, wsld_without_eps]


def sure(classes: int, labels: Tensor, dtype: torch.dtype = torch.float64) -> SoftLabels:
    return probabilities(torch.nn.functional.one_hot(labels, classes).to(dtype))


def value_and_gradient(
    loss: Loss, student: Tensor, soft: SoftLabels, labels: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    value = loss(leaf, soft, labels)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert value.shape == labels.shape
    assert value.dtype == student.dtype
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    return value, gradient


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_equal_networks_lose_nothing_and_move_nothing(loss, logits):
    student, labels = logits(6, 5, 0), torch.arange(6) % 5
    # A shift of all logits of a sample changes no probability.
    for teacher in (student, student + 7.0):
        value, gradient = value_and_gradient(loss, student, scores(teacher), labels)
        assert value.abs().max() < 1e-12
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("loss", ALL)
def test_different_networks_lose_something(loss, logits):
    student, labels = logits(6, 5, 0), torch.arange(6) % 5
    value, gradient = value_and_gradient(loss, student, scores(logits(6, 5, 1)), labels)
    # Of a whole batch: products of probabilities, which have no factor T^2, shared by all samples.
    least = 1e-3 if loss in OF_SAMPLES else 1e-5
    assert (value > least).all()
    assert (gradient.norm(dim=1) > least).all()
    # Probabilities do not change when all logits rise, so a gradient sums to nothing.
    assert gradient.sum(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("loss", OF_SAMPLES)
def test_a_sample_does_not_depend_on_its_batch(loss, logits):
    student, teacher, labels = logits(7, 5, 0), logits(7, 5, 1), torch.arange(7) % 5
    whole, gradients = value_and_gradient(loss, student, scores(teacher), labels)
    for n in range(7):
        alone, own = value_and_gradient(
            loss, student[n : n + 1], scores(teacher[n : n + 1]), labels[n : n + 1]
        )
        torch.testing.assert_close(alone, whole[n : n + 1], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(own, gradients[n : n + 1], rtol=1e-12, atol=1e-14)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    shuffled, _ = value_and_gradient(loss, student[order], scores(teacher[order]), labels[order])
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("loss", ALL)
def test_huge_logits_stay_finite(loss, samples, classes, dtype):
    labels = torch.arange(samples) % classes
    student = torch.full((samples, classes), -1e4, dtype=dtype)
    student[:, 0] = 1e4
    for teacher in (student, -student, student.flip(1), torch.zeros_like(student)):
        value_and_gradient(loss, student, scores(teacher), labels)
        value_and_gradient(loss, teacher, scores(student), labels)
    for logits in (student, -student):
        soft = torch.full((samples, classes), 1 / classes, dtype=dtype)
        value_and_gradient(loss, logits, probabilities(soft), labels)
        value_and_gradient(loss, logits, sure(classes, labels, dtype), labels)
        value_and_gradient(loss, logits, sure(classes, (labels + 1) % classes, dtype), labels)


# What is no limit: DKD's and NKD's other classes where the target had everything, WSLD's weight where it had
# nothing.
JUMPS = {dkd: [0, 2], nkd: [0, 2], wsld: [1, 3], wsld_without_eps: [1, 3]}


@pytest.mark.parametrize("loss", ALL)
def test_soft_labels_with_zeros_stay_finite(loss, logits):
    labels = torch.arange(4)
    soft = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0], [0.3, 0.3, 0.4, 0.0]],
        dtype=torch.float64,
    )
    student = logits(4, 4, 0)
    value, _ = value_and_gradient(loss, student, probabilities(soft), labels)
    # A limit, not a special case: almost zero gives almost the same. A class that never is has no relations
    # in DIST; almost never is nearer to that.
    least = 1e-30 if loss is dist_intra else 1e-12
    rows = [n for n in range(4) if n not in JUMPS.get(loss, [])]
    nearly = (soft + least) / (soft + least).sum(dim=1, keepdim=True)
    torch.testing.assert_close(
        value[rows], loss(student, probabilities(nearly), labels)[rows], rtol=1e-8, atol=1e-8
    )


# WSLD's weights are constants of the gradient, and so it is not that of the value.
@pytest.mark.parametrize("loss", [loss for loss in ALL if loss not in (wsld, wsld_without_eps)])
def test_gradients_are_those_of_the_values(loss, logits):
    labels = torch.arange(3)
    soft = torch.softmax(logits(3, 4, 1), dim=1)
    soft[0] = torch.tensor([1.0, 0, 0, 0])
    soft[1] = torch.tensor([0.5, 0.0, 0.5, 0.0])
    mixture = mix([0.5, 0.5], [scores(logits(3, 4, 2)), probabilities(soft)])
    for given in (scores(logits(3, 4, 1)), probabilities(soft), mixture):
        assert torch.autograd.gradcheck(
            lambda s, q=given: loss(s, q, labels), logits(3, 4, 0).requires_grad_()
        )


def test_a_temperature_softens_the_student_and_scores_only(logits):
    student, teacher = logits(3, 5, 0), logits(3, 5, 1)
    labels = torch.arange(3)
    soft = torch.softmax(teacher / 2, dim=1)
    for loss in (
        lambda q, t: kd_loss(student, q, temperature=t),
        lambda q, t: dkd_loss(student, q, labels, alpha=1, beta=8, temperature=t),
    ):
        torch.testing.assert_close(loss(scores(teacher), 2.0), loss(probabilities(soft), 2.0))
        assert not torch.allclose(loss(scores(teacher), 4.0), loss(probabilities(soft), 4.0), rtol=1e-3)


def test_elementmean_divides_by_the_classes(logits):
    student, soft = logits(4, 7, 0), scores(logits(4, 7, 1))
    torch.testing.assert_close(
        kd_loss(student, soft, temperature=3.0, reduction="elementmean") * 7,
        kd_loss(student, soft, temperature=3.0, reduction="batchmean"),
    )


def test_two_classes_leave_dkd_its_target_part(logits):
    student, teacher, labels = logits(6, 2, 0), logits(6, 2, 1), torch.arange(6) % 2
    other, gradient = value_and_gradient(
        lambda s, q, y: dkd_loss(s, q, y, alpha=0, beta=8, temperature=4), student, scores(teacher), labels
    )
    assert torch.equal(other, torch.zeros_like(other))
    assert torch.equal(gradient, torch.zeros_like(gradient))
    # With nothing else to tell apart, the target part is all of KD.
    torch.testing.assert_close(
        dkd_loss(student, scores(teacher), labels, alpha=1, beta=8, temperature=4),
        kd_loss(student, scores(teacher), temperature=4),
    )


def test_soft_labels_sure_of_the_target_leave_dkd_its_target_part(logits):
    student, labels = logits(6, 5, 0), torch.arange(6) % 5
    other, gradient = value_and_gradient(
        lambda s, q, y: dkd_loss(s, q, y, alpha=0, beta=8, temperature=4), student, sure(5, labels), labels
    )
    assert torch.equal(other, torch.zeros_like(other))
    assert torch.equal(gradient, torch.zeros_like(gradient))
    torch.testing.assert_close(
        dkd_loss(student, sure(5, labels), labels, alpha=1, beta=8, temperature=4),
        kd_loss(student, sure(5, labels), temperature=4),
    )


def test_dkd_weighs_its_parts_apart(logits):
    student, soft, labels = logits(6, 5, 0), scores(logits(6, 5, 1)), torch.arange(6) % 5

    def parts(alpha: float, beta: float) -> Tensor:
        return dkd_loss(student, soft, labels, alpha=alpha, beta=beta, temperature=4)

    torch.testing.assert_close(parts(3, 5), 3 * parts(1, 0) + 5 * parts(0, 1))
    # The target's own logit takes no part in the comparison of the others.
    moved = student.clone()
    moved[torch.arange(6), labels] += 5
    torch.testing.assert_close(dkd_loss(moved, soft, labels, alpha=0, beta=1, temperature=4), parts(0, 1))
    assert not torch.allclose(dkd_loss(moved, soft, labels, alpha=1, beta=0, temperature=4), parts(1, 0))
