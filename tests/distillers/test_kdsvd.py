import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.kdsvd import KDSVD, kdsvd_loss
from kdzoo.functional.stages import pool

RESNET18 = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
RESNET50 = ((256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4))
LAYOUTS = ["width", "channel"]


def test_width_runs_on_resnet50_and_resnet18(pair, learn):
    outputs = pair(RESNET18, RESNET50, samples=2, dtype=torch.float32)
    distiller = build_distiller("kdsvd", outputs.setting)
    assert [(p.student, p.teacher, p.size) for p in distiller.pairs] == [
        (i, i, shape[1:]) for i, shape in enumerate(RESNET18)
    ]
    loss = learn(distiller, outputs)["kdsvd"]
    assert 0 < loss < 10
    for slope in torch.autograd.grad(loss, outputs.student.stages):
        assert slope.isfinite().all()
        assert slope.abs().max() > 0


def test_channel_refuses_unequal_channels(pair):
    with pytest.raises(UsageError) as caught:
        build_distiller("kdsvd", pair(RESNET18, RESNET50, samples=1).setting, {"layout": "channel"})
    assert str(caught.value) == (
        "kdsvd: layout=channel needs equal channels in paired stages, got 64 for 256, 128 for 512, "
        "256 for 1024, 512 for 2048. Use layout=width, or another pair of networks."
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_stage_is_refused(layout, pair):
    with pytest.raises(UsageError, match=r"^kdsvd: the student must have two stages or more, got one\."):
        build_distiller("kdsvd", pair(((2, 3, 3),)).setting, {"layout": layout})


@pytest.mark.parametrize(("layout", "most"), [("width", 2), ("channel", 3)])
def test_more_vectors_than_the_narrowest_stage_has_are_refused(layout, most, pair, learn):
    outputs = pair(((3, 8, 8), (4, 4, 2)), ((3, 8, 8), (4, 2, 4)))
    distiller = build_distiller("kdsvd", outputs.setting, {"layout": layout, "k": most})
    assert learn(distiller, outputs)["kdsvd"] > 0
    with pytest.raises(UsageError, match=rf"^kdsvd: k must be at most {most}, .*, got {most + 1}\."):
        build_distiller("kdsvd", outputs.setting, {"layout": layout, "k": most + 1})


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"layout": "channel"}, {"weight": 3}])
def test_the_class_is_the_loss_of_paired_stages(options, pair, learn):
    student, teacher = ((4, 6, 6), (4, 3, 5)), ((2, 8, 8), (4, 7, 5), (4, 3, 3), (4, 3, 3))
    outputs = pair(student, teacher)
    distiller = build_distiller("kdsvd", outputs.setting, options)
    chosen = [outputs.teacher.stages[1], outputs.teacher.stages[3]]
    k, layout, weight = (distiller.options[n] for n in ("k", "layout", "weight"))
    expected = weight * kdsvd_loss(outputs.student.stages, chosen, k=k, layout=layout)
    torch.testing.assert_close(learn(distiller, outputs)["kdsvd"], expected)
    length = 3 if layout == "width" else 4
    kept = {name: tuple(t.shape) for name, t in distiller.digest(outputs.teacher).items()}
    assert kept["vectors.1"] == (6, length, k)
    assert kept["values.1"] == (6, k)


def test_larger_maps_are_pooled_first_along_the_width_alone(pair):
    (s, t), (big_s, big_t) = (o.stages for o in pair(((2, 4, 4), (2, 3, 3)), ((2, 8, 8), (2, 3, 6))))
    pooled = [pool(big_s, (4, 4)), pool(big_t, (3, 3))]
    found = {layout: kdsvd_loss([s, t], [big_s, big_t], k=1, layout=layout) for layout in LAYOUTS}
    beside = {layout: kdsvd_loss([s, t], pooled, k=1, layout=layout) for layout in LAYOUTS}
    torch.testing.assert_close(found["width"], beside["width"])
    assert (found["channel"] - beside["channel"]).abs() > 1e-3 * beside["channel"]


def test_the_defaults_are_those_of_the_benchmarks(setting):
    assert build_distiller("kdsvd", setting).options == {"weight": 1.0, "k": 1, "layout": "width"}
    assert KDSVD.needs == {"stages"}
