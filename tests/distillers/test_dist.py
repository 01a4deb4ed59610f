import numpy as np
import pytest
import torch
from torch import Tensor

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.dist import DIST, correlations, deviations, dist_inter_loss, dist_intra_loss
from kdzoo.outputs import Progress, SoftLabels, mix, probabilities, scores

DTYPES = [torch.float32, torch.float64]
LABELS = torch.arange(6) % 5


def parts(student: Tensor, soft: SoftLabels, temperature: float = 4.0) -> list[Tensor]:
    inter = dist_inter_loss(student, soft, temperature=temperature)
    intra = dist_intra_loss(student, soft, temperature=temperature)
    assert inter.shape == student.shape[:1]
    assert intra.shape == ()
    return [inter.mean(), intra]


def values_and_gradients(
    student: Tensor, soft: SoftLabels, temperature: float = 4.0
) -> tuple[list[Tensor], list[Tensor]]:
    leaf = student.clone().requires_grad_()
    found = parts(leaf, soft, temperature)
    gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in found]
    for loss, gradient in zip(found, gradients, strict=True):
        assert loss.dtype == student.dtype
        assert loss.isfinite()
        assert gradient.isfinite().all()
    return found, gradients


def test_only_how_the_teacher_varies_counts(logits):
    """A teacher mixed with the uniform distribution has the same relations, and KD would change."""
    student, soft = logits(6, 5, 0), torch.softmax(logits(6, 5, 1), dim=1)
    uniform = probabilities(torch.full_like(soft, 1 / 5))
    mixed = mix([0.3, 0.7], [probabilities(soft), uniform])
    for found, wanted in zip(parts(student, mixed), parts(student, probabilities(soft)), strict=True):
        torch.testing.assert_close(found, wanted)
        assert wanted > 0.1


def test_inter_is_each_samples_own_and_intra_is_not(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    whole = dist_inter_loss(student, scores(teacher), temperature=4.0)
    alone = [
        dist_inter_loss(student[n : n + 1], scores(teacher[n : n + 1]), temperature=4.0) for n in range(6)
    ]
    torch.testing.assert_close(torch.cat(alone), whole)
    order = torch.tensor([3, 0, 2, 5, 1, 4])
    moved = parts(student[order], scores(teacher[order]))
    torch.testing.assert_close(moved, parts(student, scores(teacher)))
    halves = [dist_intra_loss(student[h], scores(teacher[h]), temperature=4.0)
              for h in (slice(3), slice(3, 6))]  # fmt: skip
    assert (sum(halves) / 2 - parts(student, scores(teacher))[1]).abs() > 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sample_has_no_relations_inside_a_class(logits, dtype):
    student, teacher = logits(1, 5, 0, dtype), logits(1, 5, 1, dtype)
    (inter, intra), gradients = values_and_gradients(student, scores(teacher))
    assert intra == 16
    assert torch.equal(gradients[1], torch.zeros_like(student))
    assert inter > 1
    assert gradients[0].norm() > 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("samples", [2, 7, 64])
def test_samples_that_are_all_alike_have_no_relations_inside_a_class(logits, samples, dtype):
    """Nor where rounding tells them apart, which would give gradients of 1e7."""
    row = logits(1, 5, 0, dtype).expand(samples, -1).contiguous()
    rounded = row + torch.linspace(0, 1, samples, dtype=dtype)[:, None]
    teacher = scores(logits(samples, 5, 1, dtype))
    for student in (row, rounded):
        (inter, intra), gradients = values_and_gradients(student, teacher)
        assert intra == 16
        assert torch.equal(gradients[1], torch.zeros_like(student))
        assert gradients[0].abs().max() > 1e-4
        assert inter > 1
    # Nor is there anything to learn from a teacher of whom this is true.
    (_, intra), gradients = values_and_gradients(logits(samples, 5, 1, dtype), scores(rounded))
    assert intra == 16
    assert torch.equal(gradients[1], torch.zeros_like(row))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 7, 100])
def test_a_sample_whose_classes_are_equally_likely_has_no_relations_between_them(logits, classes, dtype):
    student, teacher = logits(4, classes, 0, dtype), logits(4, classes, 1, dtype)
    student[1], teacher[2] = 0.3, -1.7
    inter = dist_inter_loss(student, scores(teacher), temperature=4.0)
    assert inter[1] == inter[2] == 16
    _, (gradient, _) = values_and_gradients(student, scores(teacher))
    assert torch.equal(gradient[[1, 2]], torch.zeros_like(gradient[:2]))
    assert (gradient[[0, 3]].norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_that_gives_nothing_is_finite(logits, dtype):
    nothing = torch.zeros(6, 5, dtype=dtype)
    for student, teacher in ((nothing, logits(6, 5, 0, dtype)), (nothing, nothing)):
        found, gradients = values_and_gradients(student, scores(teacher))
        assert found[0] == found[1] == 16
        assert torch.equal(gradients[0], nothing)
        assert torch.equal(gradients[1], nothing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-9])
def test_almost_equal_probabilities_have_finite_gradients(logits, size, dtype):
    student, teacher = size * logits(6, 5, 0, dtype), scores(logits(6, 5, 1, dtype))
    _, gradients = values_and_gradients(student, teacher)
    limit = 10 * 16 / (16 * torch.finfo(dtype).eps)
    assert all(gradient.abs().max() < limit for gradient in gradients)


def test_almost_equal_probabilities_keep_their_digits_in_float32(logits):
    """Summed up as they are, a thousand probabilities near 1/1000 lose what tells them apart."""
    student, teacher = 1e-3 * logits(8, 1000, 0), 1e-3 * logits(8, 1000, 1)
    exact = parts(student, scores(teacher))
    found = parts(student.float(), scores(teacher.float()))
    torch.testing.assert_close([f.double() for f in found], exact, rtol=1e-4, atol=1e-4)


def test_tiny_probabilities_have_relations_in_float32(logits):
    """Their squares are no numbers of that type."""
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    student[:, 3] -= 75
    teacher[:, 3] -= 80
    exact, wanted = values_and_gradients(student, scores(teacher), 1.0)
    found, gradients = values_and_gradients(student.float(), scores(teacher.float()), 1.0)
    torch.testing.assert_close([f.double() for f in found], exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close([g.double() for g in gradients], wanted, rtol=1e-3, atol=1e-6)
    assert wanted[1][:, 3].norm() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_labels_with_zeros_stay_finite(logits, dtype):
    soft = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0], [0.3, 0.3, 0.4, 0.0]], dtype=dtype
    )
    student = logits(4, 4, 0, dtype)
    found, _ = values_and_gradients(student, probabilities(soft))
    # A limit, not a special case, but for a class that never is: it has no relations.
    nearly = (soft + 1e-30) / (soft + 1e-30).sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, parts(student, probabilities(nearly)))
    never = deviations(soft.log(), dim=0)[:, 3]
    assert torch.equal(never, torch.zeros_like(never))


def test_two_classes_are_alike_or_opposite(logits):
    student, teacher = logits(6, 2, 0), logits(6, 2, 1)
    inter = dist_inter_loss(student, scores(teacher), temperature=4.0)
    agree = (student.argmax(dim=1) == teacher.argmax(dim=1)).double()
    assert 0 < agree.sum() < 6
    torch.testing.assert_close(inter, 32 * (1 - agree))
    _, (gradient, _) = values_and_gradients(student, scores(teacher))
    assert gradient.abs().max() < 1e-12


def test_a_temperature_softens_the_student_and_scores_only(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    soft = torch.softmax(teacher / 2, dim=1)
    torch.testing.assert_close(parts(student, scores(teacher), 2.0), parts(student, probabilities(soft), 2.0))
    apart = zip(parts(student, scores(teacher)), parts(student, probabilities(soft)), strict=True)
    assert all((a - b).abs() > 1e-2 for a, b in apart)


def test_correlations_are_those_of_numpy(logits):
    student, teacher = (logits(6, 5, seed).log_softmax(dim=1) for seed in (0, 1))
    rows = correlations(student, teacher, dim=1)
    wanted = [np.corrcoef(s.exp(), t.exp())[0, 1] for s, t in zip(student, teacher, strict=True)]
    assert rows.tolist() == pytest.approx(wanted)
    columns = correlations(student, teacher, dim=0)
    wanted = [np.corrcoef(s.exp(), t.exp())[0, 1] for s, t in zip(student.T, teacher.T, strict=True)]
    assert columns.tolist() == pytest.approx(wanted)


def test_the_class_is_the_weighted_loss(logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    terms = step(DIST(temperature=3, beta=2, gamma=5), student, soft, LABELS, epoch=7)
    inter, intra = parts(student, soft, 3.0)
    assert list(terms) == ["inter", "intra"]
    torch.testing.assert_close(terms, {"inter": 2 * inter, "intra": 5 * intra})


def test_the_defaults_are_the_authors():
    assert DIST().options == {"temperature": 4.0, "beta": 2.0, "gamma": 2.0, "standardize": False}
    assert DIST.needs == {"soft_labels"}
    assert not DIST.needs_teacher()
    assert DIST().label_weight(Progress(0, 200, 0, 1)) == 1


@pytest.mark.parametrize("changed", [{"temperature": 1.0}, {"beta": 1.0}, {"gamma": 0.0}],
                         ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("dist", setting), student, soft, LABELS)
    other = step(build_distiller("dist", setting, changed), student, soft, LABELS)
    assert (sum(usual.values()) - sum(other.values())).abs() > 1e-3


@pytest.mark.parametrize("options", [{"temperature": 0}, {"beta": -1}, {"gamma": "much"}])
def test_options_out_of_range_are_refused(options, setting):
    (name,) = options
    with pytest.raises(UsageError, match=f"^dist: {name} must be a number"):
        build_distiller("dist", setting, options)
