import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.kd import KD, kd_loss
from kdzoo.functional.divergences import cross_entropy
from kdzoo.outputs import Progress, probabilities, scores

LABELS = torch.arange(6) % 5
START = Progress(0, 200, 0, 1)


def test_the_term_is_alpha_times_the_mean(logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    terms = step(KD(temperature=3, alpha=0.25), student, soft, LABELS)
    assert list(terms) == ["kd"]
    torch.testing.assert_close(terms["kd"], 0.25 * kd_loss(student, soft, temperature=3.0).mean())


def test_the_labels_get_what_alpha_leaves():
    assert KD(alpha=0.9).label_weight(START) == pytest.approx(0.1)
    assert KD(alpha=1).label_weight(START) == 0
    assert KD(alpha=0).label_weight(Progress(199, 200, 0, 1)) == 1


def test_the_defaults_are_those_of_table_7():
    # In this order they stand in a method's name.
    assert list(KD().options.items()) == [
        ("temperature", 4.0), ("alpha", 0.9), ("reduction", "batchmean"), ("divergence", "kl"),
        ("standardize", False),
    ]  # fmt: skip
    assert KD.needs == {"soft_labels"}
    assert not KD.needs_teacher()
    assert KD.scaled_options(40) == {}


@pytest.mark.parametrize(
    "changed",
    [{"temperature": 2.0}, {"alpha": 0.5}, {"reduction": "elementmean"}, {"divergence": "cross_entropy"}],
    ids=lambda c: next(iter(c)),
)
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("kd", setting), student, soft, LABELS)["kd"]
    other = step(build_distiller("kd", setting, changed), student, soft, LABELS)["kd"]
    assert (usual - other).abs() > 1e-3
    assert set(changed) <= set(KD().options)


def slope(loss, leaf):
    return torch.autograd.grad(loss.sum(), leaf)[0]


@pytest.mark.parametrize("reduction", ["batchmean", "elementmean"])
def test_cross_entropy_adds_the_soft_labels_entropy_and_moves_nothing_else(reduction, logits):
    student, soft = logits(6, 5, 0).requires_grad_(), scores(logits(6, 5, 1))
    options = {"temperature": 3.0, "reduction": reduction}
    kl = kd_loss(student, soft, **options)
    found = kd_loss(student, soft, divergence="cross_entropy", **options)
    probs = torch.softmax(logits(6, 5, 1) / 3, dim=1)
    entropy = -9 * (probs * probs.log()).sum(dim=1) / (5 if reduction == "elementmean" else 1)
    assert (entropy > 0.1).all()
    torch.testing.assert_close(found - kl, entropy)
    torch.testing.assert_close(slope(found, student), slope(kl, student), rtol=1e-12, atol=1e-15)


def test_cross_entropy_with_sure_labels_is_the_labels_own(logits):
    """Their other probabilities are 0, and 0 times the student's log-probability is 0."""
    student = logits(6, 5, 0).requires_grad_()
    sure = probabilities(torch.nn.functional.one_hot(LABELS, 5).double())
    found = kd_loss(student, sure, temperature=1.0, divergence="cross_entropy")
    torch.testing.assert_close(found, cross_entropy(student, LABELS))
    torch.testing.assert_close(slope(found, student), slope(cross_entropy(student, LABELS), student))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_huge_logits_stays_finite(dtype):
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    for soft in (
        scores(student.detach().flip(1)),
        probabilities(torch.tensor([[0.0, 0.25, 0.75]], dtype=dtype)),
    ):
        found = kd_loss(student, soft, temperature=4.0, divergence="cross_entropy")
        assert found.isfinite().all()
        assert slope(found, student).isfinite().all()


def test_cross_entropy_has_the_gradient_of_its_values(logits):
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64)
    for given in (probabilities(soft), scores(logits(3, 3, 1))):
        assert torch.autograd.gradcheck(
            lambda s, q=given: kd_loss(s, q, temperature=2.0, divergence="cross_entropy"),
            logits(3, 3, 0).requires_grad_(),
        )


def test_options_are_checked_when_a_distiller_is_built(setting):
    assert build_distiller("kd", setting, {"alpha": "0.5"}).options["alpha"] == 0.5
    with pytest.raises(UsageError, match=r"^KD: alpha must be a number in \[0, 1\], got 2\."):
        KD(alpha=2)
    with pytest.raises(UsageError, match=r"^kd: temperature must be a number in \(0, inf\), got 0\."):
        build_distiller("kd", setting, {"temperature": 0})
