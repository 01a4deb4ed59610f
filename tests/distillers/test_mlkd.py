import pytest
import torch
from torch import Tensor

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.kd import kd_loss
from kdzoo.distillers.mlkd import MLKD, mlkd_batch_loss, mlkd_class_loss, mlkd_instance_loss
from kdzoo.outputs import Progress, SoftLabels, probabilities, scores

DTYPES = [torch.float32, torch.float64]
LABELS = torch.arange(6) % 5


def parts(student: Tensor, soft: SoftLabels, temperature: float = 4.0) -> list[Tensor]:
    instance = mlkd_instance_loss(student, soft, temperature=temperature)
    assert instance.shape == student.shape[:1]
    of_batch = mlkd_batch_loss(student, soft, temperature=temperature)
    of_classes = mlkd_class_loss(student, soft, temperature=temperature)
    assert of_batch.shape == of_classes.shape == ()
    return [instance.mean(), of_batch, of_classes]


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


def test_different_networks_lose_something_on_every_level(logits):
    found, gradients = values_and_gradients(logits(6, 5, 0), scores(logits(6, 5, 1)))
    assert all(loss > 1e-3 for loss in found)
    for gradient in gradients:
        assert gradient.norm() > 1e-3
        # Probabilities do not change when all logits of a sample rise.
        assert gradient.sum(dim=1).abs().max() < 1e-12


def test_the_instance_part_is_kds(logits):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    found = mlkd_instance_loss(student, soft, temperature=3.0)
    torch.testing.assert_close(found, kd_loss(student, soft, temperature=3.0))


def test_batch_and_class_part_see_pairs(logits):
    """Renamed classes leave the samples as alike as they were, and reordered samples the classes."""
    teacher = logits(6, 5, 1)
    renamed, reordered = teacher.roll(1, dims=1), teacher.roll(1, dims=0)
    _, of_batch, of_classes = parts(renamed, scores(teacher))
    assert of_batch < 1e-12
    assert of_classes > 1e-3
    _, of_batch, of_classes = parts(reordered, scores(teacher))
    assert of_batch > 1e-3
    assert of_classes < 1e-12


def test_the_order_of_samples_means_nothing(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    order = torch.tensor([3, 0, 2, 5, 1, 4])
    moved = parts(student[order], scores(teacher[order]))
    torch.testing.assert_close(moved, parts(student, scores(teacher)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sample_is_compared_with_itself(logits, dtype):
    student, teacher = logits(1, 5, 0, dtype), logits(1, 5, 1, dtype)
    found, _ = values_and_gradients(student, scores(teacher))
    s, t = (x.div(4).softmax(dim=1)[0] for x in (student, teacher))
    torch.testing.assert_close(found[1], (s @ s - t @ t) ** 2)
    torch.testing.assert_close(found[2], (torch.outer(s, s) - torch.outer(t, t)).square().sum() / 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_rows_and_columns_are_finite(logits, dtype):
    row = logits(1, 5, 0, dtype).expand(6, -1).contiguous()
    nothing = torch.zeros(6, 5, dtype=dtype)
    for student in (row, nothing, row.T[:, :5].contiguous()):
        for teacher in (logits(len(student), 5, 1, dtype), torch.zeros_like(student), student):
            values_and_gradients(student, scores(teacher))


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_labels_with_zeros_stay_finite(logits, dtype):
    soft = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0], [0.3, 0.3, 0.4, 0.0]], dtype=dtype
    )
    student = logits(4, 4, 0, dtype)
    found, _ = values_and_gradients(student, probabilities(soft))
    # A limit, not a special case: almost zero gives almost the same.
    nearly = (soft + 1e-12) / (soft + 1e-12).sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, parts(student, probabilities(nearly)))


def test_float32_keeps_its_digits(logits):
    student, teacher = logits(64, 100, 0), logits(64, 100, 1)
    exact, wanted = values_and_gradients(student, scores(teacher))
    found, gradients = values_and_gradients(student.float(), scores(teacher.float()))
    torch.testing.assert_close([f.double() for f in found], exact, rtol=1e-4, atol=0)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert (gradient.double() - expected).norm() < 1e-4 * expected.norm()


def test_a_temperature_softens_the_student_and_scores_only(logits):
    student, teacher = logits(6, 5, 0), logits(6, 5, 1)
    soft = torch.softmax(teacher / 2, dim=1)
    torch.testing.assert_close(parts(student, scores(teacher), 2.0), parts(student, probabilities(soft), 2.0))
    apart = zip(parts(student, scores(teacher)), parts(student, probabilities(soft)), strict=True)
    assert all((a - b).abs() > 1e-3 for a, b in apart)


@pytest.mark.parametrize(("more", "temperatures"), [(False, [3.0]), (True, [3.0, 2.0, 3.0, 5.0, 6.0])])
def test_the_class_sums_the_weighted_parts_over_temperatures(more, temperatures, logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    distiller = MLKD(temperature=3, more_temperatures=more, alpha=0.5, batch_weight=4, class_weight=6)
    terms = step(distiller, student, soft, LABELS, epoch=7)
    instance, of_batch, of_classes = (
        sum(p) for p in zip(*(parts(student, soft, t) for t in temperatures), strict=True)
    )
    wanted = {"instance": 0.5 * instance, "batch": 2 * of_batch, "class": 3 * of_classes}
    assert list(terms) == list(wanted)
    torch.testing.assert_close(terms, wanted)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_the_labels_keep_what_alpha_leaves(alpha):
    assert MLKD(alpha=alpha).label_weight(Progress(0, 200, 0, 1)) == 1 - alpha


def test_the_defaults_are_the_authors():
    assert MLKD().options == {
        "temperature": 4.0, "more_temperatures": True, "alpha": 0.9, "batch_weight": 1.0, "class_weight": 1.0,
        "standardize": False,
    }  # fmt: skip
    assert MLKD().temperatures == (4.0, 2.0, 3.0, 5.0, 6.0)
    assert MLKD.needs == {"soft_labels"}
    assert not MLKD.needs_teacher()


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 1.0},
        {"more_temperatures": False},
        {"alpha": 0.5},
        {"batch_weight": 2.0},
        {"class_weight": 0.0},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("mlkd", setting), student, soft, LABELS)
    other = step(build_distiller("mlkd", setting, changed), student, soft, LABELS)
    assert (sum(usual.values()) - sum(other.values())).abs() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"more_temperatures": 4},
        {"alpha": 1.5},
        {"batch_weight": -1},
        {"class_weight": -1},
    ],
)
def test_options_out_of_range_are_refused(options, setting):
    (name,) = options
    with pytest.raises(UsageError, match=f"^mlkd: {name} must be"):
        build_distiller("mlkd", setting, options)
