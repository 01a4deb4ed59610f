import pytest
import torch
from torch.nn.functional import smooth_l1_loss
from torch.utils._python_dispatch import TorchDispatchMode

import kdzoo.distillers.rkd as rkd
from kdzoo.distillers import build_distiller
from kdzoo.distillers.rkd import RKD, rkd_angle_loss, rkd_distance_loss

LOSSES = pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def value_and_gradient(loss, student, teacher):
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert value.isfinite()
    assert gradient.isfinite().all()
    return value, gradient


@LOSSES
@DTYPES
def test_duplicate_rows_have_bounded_gradients(loss, dtype):
    student, teacher = drawn(30, 4, dtype=dtype), drawn(30, 7, seed=1, dtype=dtype)
    _, usual = value_and_gradient(loss, student, teacher)
    student[1] = student[0]
    student[5:9] = student[4]
    _, gradient = value_and_gradient(loss, student, teacher)
    assert gradient.norm() < 2 * usual.norm()
    _, gradient = value_and_gradient(loss, teacher[:, :4], student)
    assert gradient.norm() < 2 * usual.norm()


@LOSSES
@DTYPES
def test_equal_rows_throughout_have_no_gradient(loss, dtype):
    same, teacher = torch.full((6, 4), 3.0, dtype=dtype), drawn(6, 7, dtype=dtype)
    value, gradient = value_and_gradient(loss, same, teacher)
    assert value > 0
    assert torch.equal(gradient, torch.zeros_like(same))
    assert value_and_gradient(loss, same, same[:, :2])[0] == 0
    _, gradient = value_and_gradient(loss, drawn(6, 4, dtype=dtype), same)
    assert gradient.norm() < 1


@LOSSES
@DTYPES
def test_one_sample_has_no_relations(loss, dtype):
    value, gradient = value_and_gradient(loss, drawn(1, 4, dtype=dtype), drawn(1, 7, dtype=dtype))
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros(1, 4, dtype=dtype))


@LOSSES
def test_close_rows_are_exact_in_float32(loss):
    """By way of inner products, the distance of rows this close is lost to rounding."""
    student, teacher = (drawn(32, d, seed=s, dtype=torch.float32) + 3 for d, s in ((8, 0), (9, 1)))
    for rows in (student, teacher):
        rows[1:4] = rows[0] + 1e-3 * drawn(3, rows.shape[1], seed=2, dtype=torch.float32)
    value, gradient = value_and_gradient(loss, student, teacher)
    exact, slope = value_and_gradient(loss, student.double(), teacher.double())
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert (gradient.double() - slope).norm() < 1e-4 * slope.norm()


@LOSSES
def test_features_of_ten_thousand_stay_finite(loss):
    signs = torch.sign(drawn(8, 4, dtype=torch.float32))
    value_and_gradient(loss, 1e4 * signs, -1e4 * signs.flip(0))


@LOSSES
def test_where_an_embedding_lies_and_how_large_it_is_means_nothing(loss):
    student, teacher = drawn(6, 4), drawn(6, 7, seed=1)
    torch.testing.assert_close(loss(5 * student + 2, teacher / 3 - 1), loss(student, teacher))


def test_the_gradient_flows_through_the_students_mean():
    student, teacher = drawn(7, 4), drawn(7, 5, seed=1)
    _, gradient = value_and_gradient(rkd_distance_loss, student, teacher)

    def by_hand(detached):
        def normalised(rows):
            found = torch.stack([torch.stack([(a - b).square().sum() for b in rows]) for a in rows])
            off = ~torch.eye(7, dtype=torch.bool)
            found = found.masked_fill(~off, 1.0).sqrt().masked_fill(~off, 0.0)
            mean = found.sum() / 42
            return found / (mean.detach() if detached else mean)

        leaf = student.clone().requires_grad_()
        return torch.autograd.grad(smooth_l1_loss(normalised(leaf), normalised(teacher)), leaf)[0]

    torch.testing.assert_close(gradient, by_hand(detached=False))
    assert (gradient - by_hand(detached=True)).norm() > 0.05 * gradient.norm()


def test_zero_distances_take_no_part_in_the_mean():
    student = drawn(4, 3)
    student[3] = student[0]
    found = rkd.distances(student)
    assert found[0, 3] == 0
    assert found.sum() / (found > 0).sum() == pytest.approx(1)
    assert (found > 0).sum() == 10


def largest_tensor(samples, width):
    """The most numbers that any tensor of a forward and a backward pass has memory for."""
    largest = 0

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, (tuple, list)) else (made,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
            return made

    student, teacher = drawn(samples, width, dtype=torch.float32), drawn(samples, 24, dtype=torch.float32)
    with Recorder():
        value_and_gradient(rkd_angle_loss, student, teacher)
    return largest


def test_the_angles_never_exist_all_at_once(monkeypatch):
    # The directions to all pairs would be eight million numbers, the angles two million.
    assert 128**2 < largest_tensor(128, 512) <= rkd.PORTION < 128**2 * 512
    monkeypatch.setattr(rkd, "PORTION", 2**17)
    assert 128**2 < largest_tensor(128, 16) <= 2**17 < 128**3


def test_the_forward_pass_keeps_no_angles_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(rkd, "PORTION", 2**15)
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    student, teacher = drawn(48, 4).requires_grad_(), drawn(48, 5)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        rkd_angle_loss(student, teacher)
    assert kept < 48**2


@pytest.mark.parametrize("portion", [1, 500, 1700, 2**22])
def test_portions_change_nothing(portion, monkeypatch):
    student, teacher = drawn(13, 4), drawn(13, 7, seed=1)
    monkeypatch.setattr(rkd, "PORTION", 2**30)
    value, gradient = value_and_gradient(rkd_angle_loss, student, teacher)
    monkeypatch.setattr(rkd, "PORTION", portion)
    found, slope = value_and_gradient(rkd_angle_loss, student, teacher)
    torch.testing.assert_close(found, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("distance", "angle", "names"),
    [(25, 50, ["distance", "angle"]), (0, 2, ["angle"]), (2, 0, ["distance"]), (0, 0, [])],
)
def test_a_weight_of_zero_leaves_its_term_out(distance, angle, names, pair, learn):
    outputs = pair(widths=(4, 7))
    options = {"distance_weight": distance, "angle_weight": angle}
    terms = learn(build_distiller("rkd", outputs.setting, options), outputs)
    assert list(terms) == names
    embeddings = outputs.student.embedding, outputs.teacher.embedding
    expected = {
        "distance": distance * rkd_distance_loss(*embeddings),
        "angle": angle * rkd_angle_loss(*embeddings),
    }
    for name in names:
        torch.testing.assert_close(terms[name], expected[name])


def test_the_defaults_are_those_of_the_benchmarks(setting):
    assert build_distiller("rkd", setting).options == {"distance_weight": 25.0, "angle_weight": 50.0}
    assert RKD.needs == {"embedding"}
