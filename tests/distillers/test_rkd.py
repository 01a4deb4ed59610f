import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import smooth_l1_loss
from torch.utils._python_dispatch import TorchDispatchMode

from kdzoo.distillers import build_distiller
from kdzoo.distillers.rkd import RKD, rkd_angle_loss, rkd_distance_loss
from kdzoo.functional import relations
from kdzoo.functional.vectors import unit

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
    found = relations.distances(student)
    assert found[0, 3] == 0
    assert found.sum() / (found > 0).sum() == pytest.approx(1)
    assert (found > 0).sum() == 10


class Recorder(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in bytes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return made


def test_the_angles_never_exist_all_at_once():
    # The directions to all pairs would be eight million numbers, the angles two million.
    student, teacher = drawn(128, 512, dtype=torch.float32), drawn(128, 24, dtype=torch.float32)
    with Recorder() as seen:
        value_and_gradient(rkd_angle_loss, student, teacher)
    assert seen.largest <= 8 * relations.PORTION < 8 * 128**3


@LOSSES
def test_a_batch_of_a_thousand_never_takes_a_thousand_cubed(loss, monkeypatch):
    # Sixteen portions; as many as a GPU takes are slow to pretend.
    monkeypatch.setattr(relations, "PORTION_ON_GPU", 2**26)
    with FakeTensorMode(), torch.device("cuda"), Recorder() as seen:
        loss(torch.empty(1024, 512, requires_grad=True), torch.empty(1024, 512))
    assert 8 * 1024**2 <= seen.largest <= 2**29 < 8 * 1024**3


def test_the_forward_pass_keeps_no_angles_for_the_backward_pass():
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    student, teacher = drawn(48, 4).requires_grad_(), drawn(48, 5)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        rkd_angle_loss(student, teacher)
    assert 48**2 <= kept < 8 * 48**2


def test_the_backward_pass_makes_no_angles_again():
    student, teacher = drawn(48, 4).requires_grad_(), drawn(48, 5)
    loss = rkd_angle_loss(student, teacher)
    with Recorder() as seen:
        loss.backward()
    assert seen.largest == 8 * 48**2


def along_directions(student, teacher):
    """Both losses as the paper's formulas say, by the directions between samples: the public way."""

    def cosines(rows):
        directions = unit(rows[None] - rows[:, None])
        return directions @ directions.mT

    def normalised(rows):
        found = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        return found / (found.sum() / (found > 0).sum())

    return {
        rkd_angle_loss: smooth_l1_loss(cosines(student), cosines(teacher)),
        rkd_distance_loss: smooth_l1_loss(normalised(student), normalised(teacher)),
    }


@LOSSES
@pytest.mark.parametrize("width", [84, 512])
@pytest.mark.parametrize("kind", ["usual", "far off", "close", "very close", "outlier", "equal"])
def test_float32_is_exact_whatever_the_rows(loss, width, kind):
    student, teacher = (drawn(24, width, seed=s, dtype=torch.float32).relu() for s in (0, 1))
    for seed, rows in enumerate((student, teacher)):
        near = drawn(3, width, seed=seed + 2, dtype=torch.float32)
        if kind == "far off":
            rows += 1000
        elif kind == "outlier":
            rows[0] *= 1000
        elif kind != "usual":
            rows[1:4] = rows[0] + {"close": 1e-3, "very close": 1e-5, "equal": 0.0}[kind] * near
    value, gradient = value_and_gradient(loss, student, teacher)
    leaf = student.double().requires_grad_()
    exact = along_directions(leaf, teacher.double())[loss]
    (slope,) = torch.autograd.grad(exact, leaf)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (gradient - slope).norm() < 1e-6 * slope.norm()


@LOSSES
def test_close_rows_far_from_zero_keep_their_digits(loss):
    student, teacher = drawn(12, 8), drawn(12, 7, seed=1)
    student[1:4] = student[0] + 1e-6 * drawn(3, 8, seed=2)
    student += 1e7
    _, gradient = value_and_gradient(loss, student, teacher)
    leaf = student.clone().requires_grad_()
    (slope,) = torch.autograd.grad(along_directions(leaf, teacher)[loss], leaf)
    assert (gradient - slope).norm() < 1e-7 * slope.norm()


@DTYPES
def test_cosines_of_sides_beyond_all_resolution_are_cosines(dtype):
    student, teacher = drawn(6, 4, dtype=dtype), drawn(6, 5, seed=1, dtype=dtype)
    student[:, 3] = 0
    student[1] = student[0]
    student[1, 3] = 1e-25
    value, _ = value_and_gradient(rkd_angle_loss, student, teacher)
    assert value < 1


@LOSSES
@pytest.mark.parametrize("samples", [2, 3])
def test_few_samples_are_exact(loss, samples):
    student, teacher = drawn(samples, 84), drawn(samples, 7, seed=1)
    value, gradient = value_and_gradient(loss, student, teacher)
    leaf = student.clone().requires_grad_()
    exact = along_directions(leaf, teacher)[loss]
    torch.testing.assert_close(value, exact.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(exact, leaf)[0], rtol=1e-9, atol=1e-14)


@LOSSES
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_embeddings_of_any_size_mean_the_same_in_float32(loss, scale):
    student, teacher = drawn(7, 4, dtype=torch.float32), drawn(7, 5, seed=1, dtype=torch.float32)
    value, gradient = value_and_gradient(loss, student, teacher)
    found, slope = value_and_gradient(loss, student * scale, teacher * scale)
    torch.testing.assert_close(found, value, rtol=1e-5, atol=0)
    torch.testing.assert_close(slope.double() * scale, gradient.double(), rtol=1e-4, atol=1e-7)


@LOSSES
def test_bfloat16_is_widened_before_it_is_compared(loss):
    student, teacher = drawn(7, 4).bfloat16(), drawn(7, 5, seed=1).bfloat16()
    value, gradient = value_and_gradient(loss, student, teacher)
    exact, slope = value_and_gradient(loss, student.float(), teacher.float())
    assert value.dtype == gradient.dtype == torch.bfloat16
    assert value == exact.bfloat16()
    assert torch.equal(gradient, slope.bfloat16())


@LOSSES
def test_autocast_changes_no_digit(loss):
    student, teacher = drawn(7, 4, dtype=torch.float32), drawn(7, 5, seed=1, dtype=torch.float32)
    value, gradient = value_and_gradient(loss, student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        found, slope = value_and_gradient(loss, student, teacher)
    assert found == value
    assert torch.equal(slope, gradient)


def test_a_second_gradient_is_refused_aloud():
    student = drawn(5, 4).requires_grad_()
    (slope,) = torch.autograd.grad(rkd_angle_loss(student, drawn(5, 4, seed=1)), student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_the_teachers_side_is_distances_made_once_a_batch(pair):
    outputs = pair(widths=(4, 7))
    distiller = build_distiller("rkd", outputs.setting)
    kept = distiller.detached_digest(outputs.teacher)
    assert {name: (t.shape, t.dtype) for name, t in kept.items()} == {"distances": ((6, 6), torch.float64)}
    assert RKD.digest_scope == "batch"


@pytest.mark.parametrize("portion", [1, 500, 1700, 2**22])
def test_portions_change_nothing(portion, monkeypatch):
    student, teacher = drawn(13, 4), drawn(13, 7, seed=1)
    monkeypatch.setattr(relations, "PORTION", 2**30)
    value, gradient = value_and_gradient(rkd_angle_loss, student, teacher)
    monkeypatch.setattr(relations, "PORTION", portion)
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
