import math

import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.vid import VID, Prediction, vid_loss
from kdzoo.functional.stages import pool

LENET, RESNET18 = ((6, 28, 28), (16, 10, 10)), ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
DTYPES = [torch.float32, torch.float64]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def variance_at(prediction):
    """Each channel's variance, whatever the student's stage."""
    return prediction(torch.zeros(1, prediction.mean[0].in_channels, 1, 1))[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "kind", ["zeros", "constant", "the teacher's", "ten thousand", "one sample", "a pixel"]
)
@pytest.mark.parametrize("least", [1e-5, 0.5])
def test_gradients_stay_finite(least, kind, dtype):
    predicted, teacher = drawn(3, 4, 5, 2, dtype=dtype), drawn(3, 4, 5, 2, seed=1, dtype=dtype)
    if kind == "zeros":
        predicted, teacher = torch.zeros_like(predicted), torch.zeros_like(teacher)
    elif kind == "constant":
        predicted, teacher = torch.ones_like(predicted), -torch.ones_like(teacher)
    elif kind == "the teacher's":
        predicted = teacher.clone()
    elif kind == "ten thousand":
        predicted, teacher = 1e4 * predicted.sign(), 1e4 * teacher
    elif kind == "one sample":
        predicted, teacher = predicted[:1], teacher[:1]
    else:
        predicted, teacher = predicted[..., :1, :1], teacher[..., :1, :1]
    predicted.requires_grad_()
    variance = torch.full((4,), least, dtype=dtype, requires_grad=True)
    loss = vid_loss(predicted, variance, teacher)
    assert loss.dtype == dtype
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [predicted, variance]))


def test_it_is_torchs_gaussian_likelihood():
    predicted, teacher, variance = (
        drawn(3, 4, 5, 2),
        drawn(3, 4, 5, 2, seed=1),
        torch.linspace(0.5, 3.0, 4).double(),
    )
    per_element = variance[:, None, None].expand_as(predicted)
    expected = nn.functional.gaussian_nll_loss(predicted, teacher, per_element, eps=0)
    torch.testing.assert_close(vid_loss(predicted, variance, teacher), expected)


def test_the_best_variance_of_a_channel_is_its_mean_squared_error():
    predicted, teacher = drawn(3, 4, 5, 2), drawn(3, 4, 5, 2, seed=1)
    best = (predicted - teacher).square().mean(dim=(0, 2, 3)).requires_grad_()
    loss = vid_loss(predicted, best, teacher)
    assert torch.autograd.grad(loss, best)[0].abs().max() < 1e-12
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert vid_loss(predicted, factor * best.detach(), teacher) > loss
    # Sure and right costs less than nothing.
    assert vid_loss(teacher, torch.full((4,), 1e-3, dtype=torch.float64), teacher) < -3


def test_a_prediction_is_three_convolutions_without_bias_and_a_variance_per_channel(pair):
    distiller = build_distiller("vid", pair(((2, 3, 3),), ((7, 3, 3),)).setting)
    (prediction,) = distiller.predictions
    assert [type(part) for part in prediction.mean] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert {n: tuple(p.shape) for n, p in distiller.named_parameters()} == {
        "predictions.0.raw_variance": (7,),
        "predictions.0.mean.0.weight": (7, 2, 1, 1),
        "predictions.0.mean.2.weight": (7, 7, 1, 1),
        "predictions.0.mean.4.weight": (7, 7, 1, 1),
    }
    stage = drawn(2, 2, 3, 3, dtype=torch.float32)
    mean, variance = prediction(stage)
    first, second, third = (part.weight[:, :, 0, 0] for part in prediction.mean[::2])
    pixels = stage.permute(0, 2, 3, 1)
    expected = ((pixels @ first.T).relu() @ second.T).relu() @ third.T
    torch.testing.assert_close(mean, expected.permute(0, 3, 1, 2))
    assert variance.shape == (7,)


@pytest.mark.parametrize(
    ("start", "eps"), [(5.0, 1e-5), (0.02, 0.01), (1e-3, 1e-5), (1000.0, 1e-5), (1e6, 2.0), (3.0, 2.5)]
)
def test_training_starts_at_the_initial_variance(start, eps, pair):
    distiller = build_distiller("vid", pair().setting, {"initial_variance": start, "eps": eps})
    for prediction in distiller.predictions:
        variance = variance_at(prediction)
        assert prediction.raw_variance.isfinite().all()
        torch.testing.assert_close(variance, torch.full_like(variance, start), rtol=1e-5, atol=0)


def test_no_variance_falls_below_eps(pair, learn):
    outputs = pair(dtype=torch.float32)
    distiller = build_distiller("vid", outputs.setting, {"eps": 1e-3})
    with torch.no_grad():
        for prediction in distiller.predictions:
            prediction.raw_variance.fill_(-1e4)
            assert torch.equal(variance_at(prediction), torch.full_like(prediction.raw_variance, 1e-3))
    loss = learn(distiller, outputs)["vid"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in distiller.parameters())


def test_the_class_is_the_weighted_sum_over_stages(pair, learn):
    outputs = pair(LENET, RESNET18, samples=2)
    distiller = build_distiller("vid", outputs.setting, {"weight": 3}).double()
    assert [(p.student, p.teacher) for p in distiller.pairs] == [(0, 1), (1, 3)]
    terms = learn(distiller, outputs)
    assert list(terms) == ["vid"]
    losses = []
    for prediction, stage, guide, size in zip(
        distiller.predictions,
        outputs.student.stages,
        outputs.teacher.stages[1::2],
        [(16, 16), (4, 4)],
        strict=True,
    ):
        losses.append(vid_loss(*prediction(pool(stage, size)), pool(guide, size)))
    torch.testing.assert_close(terms["vid"], 3 * (losses[0] + losses[1]))
    assert all(abs(x) > 1e-2 for x in losses)
    # What is kept of the teacher is what is predicted.
    kept = distiller.digest(outputs.teacher)
    assert {n: t.shape for n, t in kept.items()} == {"stage.0": (2, 128, 16, 16), "stage.1": (2, 512, 4, 4)}


def test_predictions_train_with_the_student(pair, learn):
    outputs = pair(dtype=torch.float32)
    distiller = build_distiller("vid", outputs.setting)
    parameters, terms = list(distiller.parameters()), []
    for _ in range(40):
        terms.append(learn(distiller, outputs)["vid"])
        slopes = torch.autograd.grad(terms[-1], parameters)
        assert all(slope.abs().max() > 0 for slope in slopes)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter -= 2 * slope
    assert terms[-1] < 0.9 * terms[0]
    learn(distiller, outputs)["vid"].backward()
    assert all(s.grad.abs().max() > 0 for s in outputs.student.stages)
    assert all(t.grad is None for t in outputs.teacher.stages)


def test_weights_follow_torchs_generator(pair):
    setting = pair().setting

    def built(seed):
        torch.manual_seed(seed)
        return build_distiller("vid", setting).state_dict()

    first, again, other = built(1), built(1), built(2)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_predictions_are_no_part_of_what_is_deployed(setting):
    distiller, student = build_distiller("vid", setting), nn.Linear(3, 2)
    assert distiller.deployed(student) is student
    assert not [m for m in student.modules() if m in set(distiller.modules())]


def test_the_defaults_are_those_of_the_benchmarks(setting):
    expected = {"weight": 1.0, "initial_variance": 5.0, "eps": 1e-5}
    assert build_distiller("vid", setting).options == expected
    assert VID.needs == {"stages"}
    assert (VID.digest_scope, VID.digest_options) == ("sample", ())


@pytest.mark.parametrize("options", [{"weight": 2}, {"initial_variance": 2}, {"eps": 1.0}])
def test_every_option_changes_something(options, pair, learn):
    outputs, found = pair(dtype=torch.float32), []
    for given in ({}, options):
        torch.manual_seed(0)
        distiller = build_distiller("vid", outputs.setting, given)
        loss = learn(distiller, outputs)["vid"]
        slopes = torch.autograd.grad(loss, list(distiller.parameters()))
        found.append(torch.cat([loss[None], *(g.flatten() for g in slopes)]))
    assert ((found[0] - found[1]).abs() > 1e-3 * found[0].abs()).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1}, "weight must be"),
        ({"eps": 0}, r"eps must be a number in \(0, inf\), got 0"),
        ({"initial_variance": 0}, r"initial_variance must be a number in \(0, inf\), got 0"),
        ({"initial_variance": 0.1, "eps": 0.1}, r"initial_variance must be above eps, 0\.1, got 0\.1\.$"),
        ({"initial_variance": 0.1, "eps": 2}, r"initial_variance must be above eps, 2, got 0\.1\.$"),
    ],
)
def test_options_out_of_range_are_refused(options, message, setting):
    with pytest.raises(UsageError, match=f"^vid: {message}"):
        build_distiller("vid", setting, options)


def test_softplus_undoes_what_training_starts_from(pair):
    (stages,) = build_distiller("vid", pair(((2, 3, 3),), ((3, 3, 3),)).setting).pairs
    raw = Prediction(stages, 5.0, 1e-5).raw_variance
    torch.testing.assert_close(raw, torch.full((3,), math.log(math.exp(5.0 - 1e-5) - 1)))
