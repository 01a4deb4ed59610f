import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.kd import KD, kd_loss
from kdzoo.outputs import Progress, scores

LABELS = torch.arange(6) % 5
START = Progress(0, 200, 0, 1)


def test_the_term_is_alpha_times_the_mean(logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    terms = step(KD(temperature=3, alpha=0.25), student, soft, LABELS)
    assert list(terms) == ["kd"]
    torch.testing.assert_close(terms["kd"], 0.25 * kd_loss(student, soft, temperature=3.0).mean())


def test_the_labels_get_what_alpha_leaves():
    assert KD(alpha=0.9).label_weight(START) == pytest.approx(0.1)
    assert KD(alpha=1).label_weight(START) == 0
    assert KD(alpha=0).label_weight(Progress(199, 200, 0, 1)) == 1


def test_the_defaults_are_those_of_table_7():
    assert KD().options == {"temperature": 4.0, "alpha": 0.9, "reduction": "batchmean"}
    assert KD.needs == {"soft_labels"}
    assert not KD.needs_teacher()
    assert KD.scaled_options(40) == {}


@pytest.mark.parametrize(
    "changed",
    [{"temperature": 2.0}, {"alpha": 0.5}, {"reduction": "elementmean"}],
    ids=lambda c: next(iter(c)),
)
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("kd", setting), student, soft, LABELS)["kd"]
    other = step(build_distiller("kd", setting, changed), student, soft, LABELS)["kd"]
    assert (usual - other).abs() > 1e-3
    assert set(changed) <= set(KD().options)


def test_options_are_checked_when_a_distiller_is_built(setting):
    assert build_distiller("kd", setting, {"alpha": "0.5"}).options["alpha"] == 0.5
    with pytest.raises(UsageError, match=r"^KD: alpha must be a number in \[0, 1\], got 2\."):
        KD(alpha=2)
    with pytest.raises(UsageError, match=r"^kd: temperature must be a number in \(0, inf\), got 0\."):
        build_distiller("kd", setting, {"temperature": 0})
