import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.at import AT, at_loss, attention_map
from kdzoo.functional.stages import pool

LENET, RESNET18 = ((6, 28, 28), (16, 10, 10)), ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
POWERS = [1.0, 1.5, 2.0, 4.0, 10.0]


def gradient(loss, leaf):
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("p", POWERS)
def test_a_zero_map_stays_zero_and_takes_no_gradient(p, pair):
    student, teacher = pair()
    (stage, _), (guide, _) = student.stages, teacher.stages
    silent = stage.detach().clone()
    silent[1] = 0
    silent.requires_grad_()
    assert attention_map(silent, p=p)[1].tolist() == [0.0] * 9
    for other in (guide, torch.zeros_like(guide)):
        loss = at_loss([silent], [other], p=p)
        found = gradient(loss, silent)
        assert loss.isfinite()
        assert found.isfinite().all()
        assert torch.equal(found[1], torch.zeros_like(found[1]))
        # Beside it the others learn; a map of length 1 cannot come nearer to one of length 0.
        assert (found[[0, 2]].norm() > 1e-4) == (other is guide)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_features_of_any_size_are_exact_in_float32(p, scale, pair):
    student, teacher = pair(dtype=torch.float32)
    stages = [(scale * s.detach()).requires_grad_() for s in student.stages]
    leaves = [s.detach().double().requires_grad_() for s in stages]
    found = at_loss(stages, [scale * t for t in teacher.stages], p=p)
    exact = at_loss(leaves, [t.double() for t in teacher.stages], p=p)
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)
    slopes, expected = torch.autograd.grad(found, stages), torch.autograd.grad(exact, leaves)
    for slope, wanted in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope.double(), wanted, rtol=1e-3, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("kind", ["alternating", "constant", "one pixel"])
def test_features_of_ten_thousand_stay_finite(p, kind):
    stage = torch.zeros(2, 3, 4, 4)
    stage[..., 0, 0] = -1e4
    if kind == "constant":
        stage[:] = 1e4
    elif kind == "alternating":
        stage[:] = 1e4 * (-1.0) ** torch.arange(16).reshape(4, 4)
    stage.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    loss = at_loss([stage], [1e4 * torch.randn(2, 5, 4, 4, generator=generator)], p=p)
    assert loss.isfinite()
    assert loss > 0
    assert gradient(loss, stage).isfinite().all()


def test_the_larger_map_is_pooled_before_the_power(pair):
    (stage,), (guide,) = (o.stages for o in pair(((3, 8, 4),), ((2, 6, 6),)))
    found = at_loss([stage], [guide], p=2)
    before = [attention_map(pool(s, (6, 4)), p=2) for s in (stage, guide)]
    after = [pool(s.square().mean(dim=1, keepdim=True), (6, 4)).flatten(1) for s in (stage, guide)]
    after = [m / m.norm(dim=1, keepdim=True) for m in after]
    torch.testing.assert_close(found, (before[0] - before[1]).square().mean())
    assert (found - (after[0] - after[1]).square().mean()).abs() > 0.1 * found


def test_unequal_numbers_of_stages_are_no_pairs(pair):
    student, teacher = pair()
    with pytest.raises(ValueError, match="zip"):
        at_loss(student.stages, teacher.stages[:1], p=2)


def test_the_class_is_the_loss_of_paired_stages(pair, learn):
    outputs = pair(LENET, RESNET18, samples=2)
    distiller = build_distiller("at", outputs.setting, {"p": 3})
    assert [(p.student, p.teacher) for p in distiller.pairs] == [(0, 1), (1, 3)]
    terms = learn(distiller, outputs)
    assert list(terms) == ["at"]
    chosen = [outputs.teacher.stages[1], outputs.teacher.stages[3]]
    torch.testing.assert_close(terms["at"], 1000 * at_loss(outputs.student.stages, chosen, p=3))
    # One small map for each pair is all that is kept of the teacher.
    digest = distiller.digest(outputs.teacher)
    assert {name: kept.shape for name, kept in digest.items()} == {"map.0": (2, 256), "map.1": (2, 16)}


def test_the_defaults_are_those_of_the_benchmarks(setting):
    assert build_distiller("at", setting).options == {"weight": 1000.0, "p": 2.0}
    with pytest.raises(UsageError, match=r"^at: p must be a number in \[1, inf\), got 0\.5\."):
        build_distiller("at", setting, {"p": 0.5})
    assert AT.needs == {"stages"}


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_default_power_takes_far_larger_and_smaller_features(scale, pair):
    student, teacher = (o.stages for o in pair(dtype=torch.float32))
    usual = at_loss(student, teacher, p=2)
    found = at_loss([scale * s for s in student], [scale * t for t in teacher], p=2)
    torch.testing.assert_close(found, usual, rtol=1e-5, atol=0)
    torch.testing.assert_close(attention_map(student[0], p=2), attention_map(student[0], p=2 + 1e-12))
