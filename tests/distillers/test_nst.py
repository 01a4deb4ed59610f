import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.nst import NST, kernel_mean, nst_loss, selectivity
from kdzoo.functional.stages import pool

LENET, RESNET18 = ((6, 28, 28), (16, 10, 10)), ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
DTYPES = [torch.float32, torch.float64]
# Channels of the student and of the teacher, height, width: more positions than channels and the reverse, odd
# numbers of both, a single one of each, and ones where the kernels' means take different forms.
SHAPES = [(3, 2, 4, 5), (9, 7, 2, 2), (7, 5, 3, 1), (6, 4, 1, 1), (1, 1, 3, 3), (2, 40, 3, 3), (12, 8, 3, 3)]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def both(c, d, h, w, dtype=torch.float64, samples=3):
    return drawn(samples, c, h, w, dtype=dtype), drawn(samples, d, h, w, seed=1, dtype=dtype)


def loss_and_gradient(student, teacher):
    leaf = student.clone().requires_grad_()
    loss = nst_loss([leaf], [teacher])
    return loss, torch.autograd.grad(loss, leaf)[0]


def through_channels(one, other):
    return (one @ other.mT).square().mean(dim=(1, 2))


def through_positions(one, other):
    return ((one.mT @ one) * (other.mT @ other)).sum(dim=(1, 2)) / (one.shape[1] * other.shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_are_one_number(shape):
    one, other = map(selectivity, both(*shape))
    for a, b in ((one, one), (one, other), (other, one), (other, other)):
        found = kernel_mean(a, b)
        torch.testing.assert_close(found, through_channels(a, b))
        torch.testing.assert_close(found, through_positions(a, b))


@pytest.mark.parametrize("shape", [(64, 96, 3, 3), (4, 6, 8, 8), (64, 2, 5, 5)])
def test_nothing_larger_than_the_smaller_form_is_made(shape):
    """Of what the gradient needs, beside maps, nothing has more numbers."""
    c, d, h, w = shape
    one, other = map(selectivity, both(*shape))
    one.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        kernel_mean(one, one)
        kernel_mean(one, other)
    maps = {(3, n, p) for n in (c, d) for p in (h * w, h * w + -h * w % 8)}
    maps |= {(n, q, p) for n, p, q in maps}
    matrices = {tuple(s) for s in kept} - maps
    assert matrices
    smallest = (min(c * c, (h * w + 7) ** 2), min(c * d, (h * w) ** 2))
    assert all(torch.Size(m).numel() <= 3 * max(smallest) for m in matrices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_channels_count_as_zero_vectors_and_take_no_gradient(shape, dtype):
    student, teacher = both(*shape, dtype=dtype)
    student[1, 0] = 0
    loss, gradient = loss_and_gradient(student, teacher)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[1, 0].abs().max() == 0
    maps = selectivity(student)
    assert maps[1, 0].abs().max() == 0
    # All pairs count, those of the zero channel as 0.
    expected = through_channels(maps[1:2, 1:], maps[1:2, 1:]) * ((shape[0] - 1) / shape[0]) ** 2
    torch.testing.assert_close(kernel_mean(maps, maps)[1:2], expected.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_zero_samples_are_finite(shape, dtype):
    student, teacher = both(*shape, dtype=dtype)
    nothing = torch.zeros_like(student)
    loss, gradient = loss_and_gradient(nothing, teacher)
    # The teacher's mean is left.
    own = through_channels(selectivity(teacher), selectivity(teacher)).mean()
    torch.testing.assert_close(loss, own)
    assert torch.equal(gradient, nothing)
    loss, gradient = loss_and_gradient(student, torch.zeros_like(teacher))
    torch.testing.assert_close(loss, through_channels(selectivity(student), selectivity(student)).mean())
    assert gradient.isfinite().all()
    loss, gradient = loss_and_gradient(nothing, torch.zeros_like(teacher))
    assert loss.item() == 0
    assert torch.equal(gradient, nothing)


@pytest.mark.parametrize("scale", [1e-12, 1e4, 1e12])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_features_of_any_size_are_exact_in_float32(shape, scale):
    student, teacher = both(*shape, dtype=torch.float32)
    loss, gradient = loss_and_gradient(scale * student, scale * teacher)
    exact, expected = loss_and_gradient(student.double(), teacher.double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)
    largest = expected.abs().max().item()
    torch.testing.assert_close(scale * gradient.double(), expected, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", ["constant", "signs", "one pixel"])
def test_features_of_ten_thousand_stay_finite(kind):
    stage = torch.zeros(2, 3, 4, 4)
    stage[..., 0, 0] = -1e4
    if kind != "one pixel":
        stage[:] = 1e4 if kind == "constant" else 1e4 * drawn(2, 3, 4, 4, dtype=torch.float32).sign()
    loss, gradient = loss_and_gradient(stage, 1e4 * drawn(2, 5, 4, 4, dtype=torch.float32))
    assert loss > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_diverged_student_gives_no_number_and_no_error(shape, wrong):
    student, teacher = both(*shape)
    student[1, 0, 0, 0] = wrong
    loss, _ = loss_and_gradient(student, teacher)
    assert not loss.isfinite()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_values(shape):
    student, teacher = both(*shape, samples=2)
    assert torch.autograd.gradcheck(lambda given: nst_loss([given], [teacher]), student.requires_grad_())


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_networks_lose_nothing_and_a_copy_of_all_channels_means_nothing(shape):
    student, _ = both(*shape)
    for teacher in (student, student.flip(1), torch.cat([student, -student], dim=1)):
        loss, gradient = loss_and_gradient(student, teacher)
        assert loss.abs() < 1e-12
        assert gradient.abs().max() < 1e-12


def test_different_networks_lose_something_and_the_order_of_the_samples_means_nothing(pair):
    student, teacher = (o.stages for o in pair())
    order = [3, 0, 4, 1, 5, 2]
    loss = nst_loss(student, teacher)
    assert loss > 1e-3
    assert loss.shape == ()
    torch.testing.assert_close(nst_loss([s[order] for s in student], [t[order] for t in teacher]), loss)
    assert all(g.abs().max() > 1e-6 for g in torch.autograd.grad(loss, student))


def test_one_sample_is_a_batch(pair):
    student, teacher = (o.stages for o in pair(samples=4))
    alone = [nst_loss([s[i : i + 1] for s in student], [t[i : i + 1] for t in teacher]) for i in range(4)]
    torch.testing.assert_close(torch.stack(alone).mean(), nst_loss(student, teacher))


def test_the_larger_map_is_pooled_before_it_is_normalised(pair):
    (stage,), (guide,) = (o.stages for o in pair(((3, 8, 4),), ((2, 6, 6),)))
    found = nst_loss([stage], [guide])
    torch.testing.assert_close(found, nst_loss([pool(stage, (6, 4))], [pool(guide, (6, 4))]))
    late = [pool(selectivity(s).reshape(s.shape), (6, 4)).flatten(2) for s in (stage, guide)]
    s, t = late
    after = (through_channels(t, t) + through_channels(s, s) - 2 * through_channels(s, t)).mean()
    assert (found - after).abs() > 0.1 * found


def test_unequal_numbers_of_stages_are_no_pairs(pair):
    student, teacher = pair()
    with pytest.raises(ValueError, match="zip"):
        nst_loss(student.stages, teacher.stages[:1])


def test_the_class_is_the_weighted_loss_of_paired_stages(pair, learn):
    outputs = pair(LENET, RESNET18, samples=2)
    distiller = build_distiller("nst", outputs.setting, {"weight": 7})
    assert [(p.student, p.teacher) for p in distiller.pairs] == [(0, 1), (1, 3)]
    terms = learn(distiller, outputs)
    assert list(terms) == ["nst"]
    chosen = [outputs.teacher.stages[1], outputs.teacher.stages[3]]
    torch.testing.assert_close(terms["nst"], 7 * nst_loss(outputs.student.stages, chosen))


def test_the_weight_changes_the_loss(pair, learn):
    outputs = pair()
    usual, half = (
        learn(build_distiller("nst", outputs.setting, options), outputs)["nst"]
        for options in ({}, {"weight": 25})
    )
    torch.testing.assert_close(usual, 2 * half)


def test_the_defaults_are_those_of_the_benchmarks(setting):
    assert build_distiller("nst", setting).options == {"weight": 50.0}
    assert NST.needs == {"stages"}
    with pytest.raises(UsageError, match=r"^nst: weight must be"):
        build_distiller("nst", setting, {"weight": -1})


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_without_stages_is_refused(role, setting):
    bare = setting._replace(**{role: getattr(setting, role)._replace(stages=None)})
    with pytest.raises(UsageError, match=f"^nst: it needs the {role}'s stages, which this {role} does not"):
        build_distiller("nst", bare)


def test_the_teachers_side_is_its_maps_and_what_they_have_in_common(pair):
    outputs = pair(LENET, RESNET18, samples=2)
    outputs.teacher.stages[1].requires_grad_()
    kept = build_distiller("nst", outputs.setting).detached_digest(outputs.teacher)
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "maps.0": (2, 128, 256), "own.0": (2,), "maps.1": (2, 512, 16), "own.1": (2,),
    }  # fmt: skip
    assert not any(tensor.requires_grad for tensor in kept.values())
    for i, stage in ((0, outputs.teacher.stages[1]), (1, outputs.teacher.stages[3])):
        maps = selectivity(stage.detach())
        torch.testing.assert_close(kept[f"maps.{i}"], maps)
        torch.testing.assert_close(kept[f"own.{i}"], through_channels(maps, maps))
    assert (NST.digest_scope, NST.digest_options) == ("sample", ())


@pytest.mark.parametrize("channels", [5, 12, 64])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 5), (4, 4), (7, 7), (11, 11)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_samples_bits_do_not_depend_on_the_samples_beside_it(channels, size, layout):
    """So that they can be kept in a bank; odd sizes are those of a network's last maps on large images."""
    stage = drawn(11, channels, *size, dtype=torch.float32).contiguous(memory_format=layout)
    order = torch.arange(10, -1, -1)[:5]
    whole, some = selectivity(stage), selectivity(stage[order])
    assert torch.equal(whole[order], some)
    assert torch.equal(kernel_mean(whole, whole)[order], kernel_mean(some, some))
