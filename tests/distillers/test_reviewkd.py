import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.reviewkd import Fusion, ReviewKD, context_loss, nearest, reviewkd_loss

STUDENT, TEACHER = ((3, 6, 6), (5, 3, 3)), ((2, 5, 5), (4, 4, 4))
DTYPES = [torch.float32, torch.float64]


@pytest.fixture
def outputs(pair):
    return pair(STUDENT, TEACHER, widths=(7, 6))


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_the_defaults_are_those_of_the_benchmarks_code(setting):
    assert build_distiller("reviewkd", setting).options == {"weight": 1.0, "warmup": 20}
    assert ReviewKD.needs == {"stages", "embedding"}
    scaled = {epochs: ReviewKD.scaled_options(epochs)["warmup"] for epochs in (200, 240, 40, 5)}
    assert scaled == {200: 20, 240: 20, 40: 4, 5: 1}


@pytest.mark.parametrize("options", [{"weight": -1}, {"warmup": -1}, {"warmup": 0.5}])
def test_options_out_of_range_are_refused(options, setting):
    (name,) = options
    with pytest.raises(UsageError, match=f"^reviewkd: {name} must be"):
        build_distiller("reviewkd", setting, options)


@pytest.mark.parametrize(("epoch", "warmup", "factor"), [
    (0, 20, 0.05), (9, 20, 0.5), (19, 20, 1.0), (20, 20, 1.0), (0, 0, 1.0), (0, 1, 1.0), (1, 4, 0.5),
])  # fmt: skip
def test_the_weight_rises(epoch, warmup, factor, outputs, learn):
    distiller = build_distiller("reviewkd", outputs.setting, {"weight": 3, "warmup": warmup}).double()
    whole = build_distiller("reviewkd", outputs.setting, {"warmup": 0}).double()
    whole.load_state_dict(distiller.state_dict())
    terms = learn(distiller, outputs, epoch=epoch)
    assert list(terms) == ["reviewkd"]
    torch.testing.assert_close(terms["reviewkd"], 3 * factor * learn(whole, outputs)["reviewkd"])


def test_the_class_is_the_loss_of_the_stages_fused_from_the_deepest_up(outputs, learn):
    distiller = build_distiller("reviewkd", outputs.setting, {"warmup": 0}).double()
    kept = distiller.detached_digest(outputs.teacher)
    assert list(kept) == ["map.0", "map.1", "embedding"]
    student, teacher = outputs
    level, passed = distiller.deepest(student.embedding[:, :, None, None], None, (1, 1))
    found = [level]
    for i in (1, 0):
        height = TEACHER[i][-1]
        level, passed = distiller.fusions[i](student.stages[i], passed, (height, height))
        assert level.shape == teacher.stages[i].shape
        assert passed.shape == (6, 7, height, height)
        found.append(level)
    wanted = [teacher.embedding[:, :, None, None], teacher.stages[1], teacher.stages[0]]
    torch.testing.assert_close(learn(distiller, outputs)["reviewkd"], reviewkd_loss(found, wanted))


def test_deeper_stages_teach_the_finest(outputs):
    """Every fusion passes up what it took: the finest level's gradient reaches all of them."""
    distiller = build_distiller("reviewkd", outputs.setting).double()
    _, passed = distiller.deepest(outputs.student.embedding[:, :, None, None], None, (1, 1))
    for i in (1, 0):
        level, passed = distiller.fusions[i](outputs.student.stages[i], passed, (4, 4))
    level.square().mean().backward()
    assert all(leaf.grad.abs().max() > 0 for leaf in outputs.leaves[1:])


def test_the_fusions_train_with_the_student(outputs, learn):
    distiller = build_distiller("reviewkd", outputs.setting, {"warmup": 0}).double()
    optimiser = torch.optim.SGD(distiller.parameters(), lr=0.05)
    terms = []
    for _ in range(20):
        terms.append(learn(distiller, outputs)["reviewkd"])
        optimiser.zero_grad()
        terms[-1].backward()
        assert all(p.grad is not None for p in distiller.parameters())
        optimiser.step()
    assert terms[-1] < 0.9 * terms[0]


def test_a_fusion_has_the_layers_of_the_authors_code():
    lower, upper = Fusion(7, 5, 6, fuses=False), Fusion(3, 5, 2, fuses=True)
    assert lower.attention is None
    shapes = {name: tuple(p.shape) for name, p in upper.named_parameters() if p.ndim == 4}
    assert shapes == {
        "reduce.0.weight": (5, 3, 1, 1), "expand.0.weight": (2, 5, 3, 3), "attention.weight": (2, 10, 1, 1)
    }  # fmt: skip
    assert upper.reduce[0].bias is None
    assert upper.expand[0].bias is None
    assert upper.attention.bias is not None
    # Kaiming's with a = 1: uniform up to the square root of 3 / fan-in.
    wide = Fusion(300, 400, 2, fuses=False).reduce[0].weight
    assert 0.99 * 0.1 < wide.abs().max() <= 0.1


@pytest.mark.parametrize(("width", "between"), [(7, 7), (512, 512), (600, 512)])
def test_stages_are_fused_in_the_channels_of_the_embedding_and_at_most_512(width, between, pair):
    outputs = pair(STUDENT, TEACHER, widths=(width, 6), samples=2)
    distiller = build_distiller("reviewkd", outputs.setting)
    assert {f.reduce[0].out_channels for f in (distiller.deepest, *distiller.fusions)} == {between}


def test_stages_are_paired_and_keep_the_teachers_size(pair):
    shapes = tuple((2, size, size) for size in (8, 4, 2, 1))
    distiller = build_distiller("reviewkd", pair(STUDENT, shapes).setting)
    assert [(p.student, p.teacher, p.size) for p in distiller.pairs] == [(0, 1, None), (1, 3, None)]


@pytest.mark.parametrize("full", range(1, 9))
@pytest.mark.parametrize("size", range(1, 9))
def test_nearest_is_torchs_own(full, size):
    stage = drawn(2, 3, full, size)
    found = nearest(stage, (size, full))
    assert torch.equal(found, nn.functional.interpolate(stage, (size, full), mode="nearest"))


@pytest.mark.parametrize(("side", "weights"), [
    ((1, 1), [1]), ((2, 2), [1, 1 / 2]), ((2, 5), [1, 1 / 2]), ((4, 4), [1, 1 / 2, 1 / 4]),
    ((4, 9), [1, 1 / 2, 1 / 4]), ((5, 5), [1, 1 / 2, 1 / 4, 1 / 8]), ((8, 6), [1, 1 / 2, 1 / 4, 1 / 8]),
])  # fmt: skip
def test_weights_of_pooled_maps(side, weights):
    """Maps that differ by a constant differ by it at every size."""
    stage = drawn(2, 3, *side)
    assert context_loss(stage, stage + 2).item() == pytest.approx(4)
    # A lone number weighs the less the fewer pixels are left.
    lone = torch.zeros(1, 1, *side, dtype=torch.float64)
    lone[0, 0, 0, 0] = 1
    sizes = [side, *[(n, n) for n in (4, 2, 1) if n < min(side)]]
    means = [nn.functional.adaptive_avg_pool2d(lone, size).square().mean().item() for size in sizes]
    expected = sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
    assert context_loss(lone, torch.zeros_like(lone)).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_gradients_are_finite(scale, samples, dtype, pair, learn):
    outputs = pair(STUDENT, TEACHER, widths=(7, 6), samples=samples, dtype=dtype)

    def scaled(output):
        stages = tuple(stage * scale for stage in output.stages)
        return output._replace(stages=stages, embedding=output.embedding * scale)

    distiller = build_distiller("reviewkd", outputs.setting).to(dtype)
    term = learn(
        distiller, outputs._replace(student=scaled(outputs.student), teacher=scaled(outputs.teacher))
    )
    assert term["reviewkd"].dtype == dtype
    term["reviewkd"].backward()
    gradients = [leaf.grad for leaf in outputs.leaves[1:]] + [p.grad for p in distiller.parameters()]
    assert all(g.isfinite().all() for g in gradients)


def test_nothing_of_it_is_deployed(setting):
    student = nn.Linear(3, 2)
    assert build_distiller("reviewkd", setting).deployed(student) is student
