"""What KDSVD takes of a singular value decomposition, and what it must not."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdzoo.distillers import build_distiller
from kdzoo.distillers.kdsvd import kdsvd_loss, signed
from kdzoo.functional.singular_vectors import leading_vectors

# Rows C*H and vectors of length W: more rows than columns in the first, fewer in the second.
TALL_AND_WIDE = ((3, 5, 6), (2, 2, 7))
LAYOUTS = ["width", "channel"]


def loss_and_gradients(students, teachers, k=1, layout="width"):
    leaves = [s.detach().clone().requires_grad_() for s in students]
    loss = kdsvd_loss(leaves, teachers, k=k, layout=layout)
    return loss, torch.autograd.grad(loss, leaves)


@pytest.fixture
def stages(pair):
    outputs = pair(TALL_AND_WIDE, TALL_AND_WIDE)
    return [s.detach() for s in outputs.student.stages], list(outputs.teacher.stages)


@pytest.fixture
def arbitrary_signs(monkeypatch):
    """Decompositions whose vectors have other signs at each call, as another library's might."""
    decompose, generator = torch.linalg.eigh, torch.Generator().manual_seed(0)

    def other(matrices):
        values, vectors = decompose(matrices)
        signs = torch.randint(2, (*vectors.shape[:-2], 1, vectors.shape[-1]), generator=generator) * 2 - 1
        return values, vectors * signs

    monkeypatch.setattr(torch.linalg, "eigh", other)


def awkward(kind: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Two stages of three samples, the second sample one without distinct singular values."""
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(3, 2, 6, 6, generator=generator, dtype=dtype) for _ in range(2)]
    for stage in made:
        if kind == "equal":
            stage[1] = torch.eye(6, dtype=dtype)
        elif kind == "almost equal":
            stage[1] = torch.linalg.qr(stage[1])[0]
        else:
            stage[1] = {"zero": 0.0, "constant": 3.0, "ten thousand": 1e4, "minus ten thousand": -1e4}[kind]
    return made


KINDS = ["equal", "almost equal", "zero", "constant", "ten thousand", "minus ten thousand"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_finite_without_distinct_singular_values(kind, dtype, k, layout):
    generator = torch.Generator().manual_seed(2)
    usual = [torch.randn(3, 2, 6, 6, generator=generator, dtype=dtype) for _ in range(2)]
    unusual = awkward(kind, dtype)
    for students, teachers in ((unusual, usual), (usual, unusual), (unusual, unusual)):
        loss, gradients = loss_and_gradients(students, teachers, k, layout)
        assert loss.isfinite()
        for gradient in gradients:
            assert gradient.isfinite().all()
            # An arbitrary direction takes no large part: rounding must not drive the student.
            assert gradient[1].abs().max() < 1e3


def test_an_unusual_sample_leaves_the_others_their_gradients():
    generator = torch.Generator().manual_seed(2)
    teachers = [torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    students = awkward("zero", torch.float64)
    _, gradients = loss_and_gradients(students, teachers)
    others = [0, 2]
    _, alone = loss_and_gradients([s[others] for s in students], [t[others] for t in teachers])
    for gradient, own in zip(gradients, alone, strict=True):
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
        torch.testing.assert_close(gradient[others], own * 2 / 3)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
def test_features_of_any_size_mean_the_same(scale, stages):
    students, teachers = ([s.float() for s in side] for side in stages)
    usual, slopes = loss_and_gradients(students, teachers)
    found, gradients = loss_and_gradients([scale * s for s in students], [scale * t for t in teachers])
    torch.testing.assert_close(found, usual, rtol=1e-4, atol=0)
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(scale * gradient, slope, rtol=1e-3, atol=1e-3 * slope.abs().max().item())


@pytest.mark.parametrize("k", [1, 2])
def test_negating_a_stage_changes_nothing(k, stages):
    """Neither the teacher's, by the rule of signs, nor the student's, which follow the teacher's."""
    students, teachers = stages
    usual = kdsvd_loss(students, teachers, k=k, layout="width")
    for side in (students, teachers):
        for i in range(2):
            side[i] = -side[i]
            torch.testing.assert_close(kdsvd_loss(students, teachers, k=k, layout="width"), usual)


@pytest.mark.parametrize("k", [1, 2])
def test_signs_that_the_decomposition_happens_to_give_change_nothing(k, stages, pair, learn, request):
    outputs = pair(TALL_AND_WIDE, TALL_AND_WIDE)
    distiller = build_distiller("kdsvd", outputs.setting, {"k": k})
    usual, slopes = loss_and_gradients(*stages, k=k)
    term = learn(distiller, outputs)["kdsvd"]
    request.getfixturevalue("arbitrary_signs")
    for _ in range(3):
        found, gradients = loss_and_gradients(*stages, k=k)
        torch.testing.assert_close(found, usual)
        for gradient, slope in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(gradient, slope)
        torch.testing.assert_close(learn(distiller, outputs)["kdsvd"], term)


def test_the_largest_component_becomes_positive():
    vectors = torch.tensor([[[0.6, 0.6], [-0.8, 0.8]], [[-1.0, 0.0], [0.0, 0.0]]])
    assert signed(vectors).tolist() == [
        [[pytest.approx(-0.6), pytest.approx(0.6)], [pytest.approx(0.8), pytest.approx(0.8)]],
        [[1.0, 0.0], [0.0, 0.0]],
    ]


@pytest.mark.parametrize("shape", [(9, 5), (5, 5), (4, 8)], ids=["tall", "square", "wide"])
def test_vectors_and_gradient_are_those_of_a_whole_decomposition(shape):
    generator = torch.Generator().manual_seed(0)
    leaf = torch.randn(4, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    along, beside = torch.randn(2, 4, shape[1], 3, generator=generator, dtype=torch.float64)
    _, values, whole = torch.linalg.svd(leaf, full_matrices=False)
    vectors, found = leading_vectors(leaf, 3)
    torch.testing.assert_close(found, values[:, :3].detach())

    def whatever_the_sign(v):
        return ((v * along).sum(dim=1) * (v * beside).sum(dim=1)).sum()

    one, other = whatever_the_sign(vectors), whatever_the_sign(whole.mT[:, :, :3])
    torch.testing.assert_close(one, other)
    (slope,), (expected,) = (torch.autograd.grad(x, leaf) for x in (one, other))
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("width", [3, 4, 5, 6, 7, 8, 14])
def test_vectors_of_a_sample_do_not_depend_on_its_place_in_the_batch(width):
    matrices = torch.rand(16, 128, width, generator=torch.Generator().manual_seed(width))
    order = torch.arange(15, -1, -1)[:9]
    whole, some = leading_vectors(matrices, 2), leading_vectors(matrices[order], 2)
    assert torch.equal(whole.vectors[order], some.vectors)
    assert torch.equal(whole.values[order], some.values)


def test_nothing_is_decomposed_but_the_smaller_gram_matrix(pair):
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            if "svd" in name or "eig" in name or "linalg_qr" in name:
                seen.append((name, tuple(args[0].shape)))
            return function(*args, **(kwargs or {}))

    outputs = pair(TALL_AND_WIDE, TALL_AND_WIDE)
    distiller = build_distiller("kdsvd", outputs.setting)
    with Recorder():
        loss, _ = loss_and_gradients(outputs.student.stages, outputs.teacher.stages)
        distiller.digest(outputs.teacher)
    assert loss > 0
    # 15 x 6, filled up to 8, and 4 x 7, for the student and the teacher, and again for the class's digest.
    assert [name for name, _ in seen] == ["_linalg_eigh"] * 6
    assert [shape for _, shape in seen] == [(6, 8, 8), (6, 4, 4)] * 3


@pytest.mark.parametrize("shape", [(9, 5), (4, 8)], ids=["tall", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_of_low_rank_has_as_many_vectors(shape, dtype):
    """What the decomposition gives beyond them is rounding; a student must not align it with the teacher."""
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, *shape, generator=generator, dtype=dtype)
    matrices = torch.stack([torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype), one])
    matrices = torch.cat([matrices, (one[:, :1] * two[:1] + two[:, :1] * one[:1])[None]])
    vectors, values = leading_vectors(matrices, 4)
    lengths = vectors.norm(dim=1)
    torch.testing.assert_close(
        lengths, torch.tensor([[0.0] * 4, [1, 0, 0, 0], [1] * 4, [1, 1, 0, 0]]).to(dtype)
    )
    torch.testing.assert_close(vectors[1, :, 0].abs(), torch.full((shape[1],), shape[1] ** -0.5, dtype=dtype))
    torch.testing.assert_close(values[1, 0], torch.tensor(shape[0] * shape[1], dtype=dtype).sqrt())


def test_vectors_that_are_not_there_are_zero(stages):
    found = leading_vectors(torch.eye(2, 5, dtype=torch.float64)[None] * torch.tensor([[2.0], [1.0]]), 4)
    assert found.values.tolist() == [[2.0, 1.0, 0.0, 0.0]]
    assert found.vectors.shape == (1, 5, 4)
    assert found.vectors[0, :, 2:].abs().max() == 0
    # Four in the second stage, six in the first: the loss of all of them is one number all the same.
    loss, gradients = loss_and_gradients(*stages, k=6)
    assert loss > 0
    assert all(g.isfinite().all() for g in gradients)
