import pytest
import torch
from torch import Tensor

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.wsld import WSLD, sample_weights, wsld_loss
from kdzoo.outputs import Progress, SoftLabels, mix, probabilities, scores

LABELS = torch.arange(6) % 5
DTYPES = [torch.float32, torch.float64]
EPSILONS = [1e-7, 0.0]


def loss_and_gradient(
    student: Tensor, soft: SoftLabels, labels: Tensor, temperature: float = 2.0, eps: float = 1e-7
) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    loss = wsld_loss(leaf, soft, labels, temperature=temperature, eps=eps)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert loss.shape == labels.shape
    assert loss.dtype == gradient.dtype == student.dtype
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    return loss, gradient


def sure(classes: int, labels: Tensor, dtype: torch.dtype = torch.float64) -> SoftLabels:
    return probabilities(torch.nn.functional.one_hot(labels, classes).to(dtype))


def test_equal_networks_move_nothing_and_weigh_as_much_as_each_other(logits):
    """Their cross-entropy is not 0; equal losses of the label make every weight 1 - 1/e."""
    student = logits(6, 5, 0)
    for teacher in (student, student + 7.0):
        loss, gradient = loss_and_gradient(student, scores(teacher), LABELS)
        assert (loss > 0.1).all()
        assert gradient.abs().max() < 1e-12
        weights = sample_weights(student, scores(teacher), LABELS, eps=0.0)
        torch.testing.assert_close(weights, 1 - torch.ones_like(weights).neg().exp())


def test_a_worse_student_weighs_more_and_a_better_one_less():
    teacher, label = scores(torch.tensor([[2.0, 0.0, 0.0]])), torch.tensor([0])
    students = [torch.tensor([[x, 0.0, 0.0]]) for x in (-4.0, 0.0, 2.0, 4.0, 8.0)]
    weights = torch.cat([sample_weights(s, teacher, label, eps=0.0) for s in students])
    assert (weights.diff() < 0).all()
    assert weights[0] > 0.99
    assert weights[-1] < 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", EPSILONS)
def test_the_weights_limits(eps, dtype, logits):
    student = logits(6, 5, 0, dtype)
    sure_student = 1e4 * torch.nn.functional.one_hot(LABELS, 5).to(dtype)
    sure_labels, others = sure(5, LABELS, dtype), sure(5, (LABELS + 1) % 5, dtype)
    ones, zeros = torch.ones(6, dtype=dtype), torch.zeros(6, dtype=dtype)
    # Sure soft labels are followed by whoever is not.
    torch.testing.assert_close(sample_weights(student, sure_labels, LABELS, eps=eps), ones)
    # Those that exclude the label are not followed.
    assert torch.equal(sample_weights(student, others, LABELS, eps=eps), zeros)
    # A student that is sure of the label follows nothing.
    for soft in (sure_labels, others, scores(logits(6, 5, 1, dtype)), scores(sure_student)):
        assert torch.equal(sample_weights(sure_student, soft, LABELS, eps=eps), zeros)
        loss_and_gradient(sure_student, soft, LABELS, eps=eps)


@pytest.mark.parametrize("eps", EPSILONS)
def test_probabilities_that_round_above_one_weigh_as_one_does(eps, logits):
    """A negative cross-entropy would turn the ratio's sign, and the weight would be -inf."""
    student, label = logits(1, 5, 0, torch.float32), torch.tensor([2])
    for above in (1e-7, 2e-7, 1e-6):
        soft = torch.zeros(1, 5)
        soft[0, 2] = 1 + above
        assert soft[0, 2] > 1
        weight = sample_weights(student, probabilities(soft), label, eps=eps)
        torch.testing.assert_close(weight, torch.ones(1))


def test_small_weights_keep_their_digits():
    """1 - exp(-x) of a small x is rounding alone."""
    label = torch.tensor([0])
    student, teacher = torch.tensor([[5.0, 0.0]]), torch.tensor([[-1e5, 0.0]])
    found, exact = (
        sample_weights(student.to(d), scores(teacher.to(d)), label, eps=0.0).item() for d in DTYPES
    )
    assert 0 < exact < 1e-7
    assert found == pytest.approx(exact, rel=1e-4)


def test_the_weights_have_no_temperature_and_no_gradient(logits):
    student, soft = logits(6, 5, 0).requires_grad_(), scores(logits(6, 5, 1))
    weights = sample_weights(student, soft, LABELS, eps=1e-7)
    assert not weights.requires_grad
    for temperature in (1.0, 4.0):
        own = (student / temperature).log_softmax(dim=1)
        theirs = soft.log_probs(temperature).exp()
        expected = -weights * temperature**2 * (theirs * own).sum(dim=1)
        found = wsld_loss(student, soft, LABELS, temperature=temperature, eps=1e-7)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad(v.sum(), student)[0] for v in (found, expected)]
        torch.testing.assert_close(*slopes)


def test_a_temperature_softens_scores_and_leaves_probabilities(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    soft = probabilities(teacher.softmax(dim=1))
    at_one = [loss_and_gradient(student, q, LABELS, 1.0) for q in (soft, scores(teacher))]
    torch.testing.assert_close(*at_one)
    softened = [loss_and_gradient(student, q, LABELS, 4.0)[0] for q in (soft, scores(teacher))]
    assert (softened[0] - softened[1]).abs().max() > 0.1


def test_soft_labels_with_zeros_are_the_limit_of_small_ones(logits):
    labels, student = torch.arange(4), logits(4, 4, 0)
    soft = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0], [0.3, 0.3, 0.2, 0.2]],
        dtype=torch.float64,
    )
    nearly = (soft + 1e-12) / (soft + 1e-12).sum(dim=1, keepdim=True)
    found = [loss_and_gradient(student, probabilities(q), labels) for q in (soft, nearly)]
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


def test_every_source_is_taken(logits):
    student, soft = logits(3, 4, 0), torch.softmax(logits(3, 4, 1), dim=1)
    soft[0] = torch.tensor([1.0, 0, 0, 0])
    soft[1] = torch.tensor([0.5, 0.0, 0.5, 0.0])
    mixture = mix([0.5, 0.5], [scores(logits(3, 4, 2)), probabilities(soft)])
    for given in (scores(logits(3, 4, 1)), probabilities(soft), mixture):
        loss, gradient = loss_and_gradient(student, given, torch.tensor([1, 0, 2]))
        assert (loss >= 0).all()
        assert gradient.sum(dim=1).abs().max() < 1e-12


def test_the_class_is_alpha_times_the_mean_of_the_loss(logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    distiller = WSLD(temperature=2, alpha=0.5, eps=0.1)
    for epoch in (0, 199):
        terms = step(distiller, student, soft, LABELS, epoch=epoch)
        assert list(terms) == ["wsld"]
        expected = 0.5 * wsld_loss(student, soft, LABELS, temperature=2, eps=0.1).mean()
        torch.testing.assert_close(terms["wsld"], expected)
        assert distiller.label_weight(Progress(epoch, 200, 0, 1)) == 1


def test_the_defaults_are_the_papers_for_cifar100_and_the_authors_eps(setting):
    options = {"temperature": 4.0, "alpha": 2.25, "eps": 1e-7, "standardize": False}
    assert build_distiller("wsld", setting).options == options
    assert WSLD.needs == {"soft_labels"}
    assert not WSLD.needs_teacher()


@pytest.mark.parametrize(("name", "value"), [("temperature", 0), ("alpha", -1), ("eps", -1)])
def test_options_out_of_range_are_refused(name, value, setting):
    with pytest.raises(UsageError, match=rf"^wsld: {name} must be a number in .*, got {value}\."):
        build_distiller("wsld", setting, {name: value})


@pytest.mark.parametrize(
    "changed", [{"temperature": 2.0}, {"alpha": 0.5}, {"eps": 0.1}], ids=lambda c: next(iter(c))
)
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("wsld", setting), student, soft, LABELS)["wsld"]
    other = step(build_distiller("wsld", setting, changed), student, soft, LABELS)["wsld"]
    assert (usual - other).abs() > 1e-3
