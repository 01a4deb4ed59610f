import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.distillers.dkd import DKD, dkd_loss
from kdzoo.outputs import Progress, scores

LABELS = torch.arange(6) % 5


def test_the_term_is_the_mean_after_the_warm_up(logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    terms = step(DKD(alpha=2, beta=3, temperature=5), student, soft, LABELS, epoch=19)
    assert list(terms) == ["dkd"]
    expected = dkd_loss(student, soft, LABELS, alpha=2, beta=3, temperature=5).mean()
    torch.testing.assert_close(terms["dkd"], expected)


def test_cross_entropy_keeps_its_whole_weight():
    assert DKD().label_weight(Progress(0, 200, 0, 1)) == 1


def test_the_defaults_are_the_papers():
    assert DKD().options == {
        "temperature": 4.0,
        "alpha": 1.0,
        "beta": 8.0,
        "warmup": 20,
        "standardize": False,
    }
    assert DKD.needs == {"soft_labels"}
    assert not DKD.needs_teacher()


@pytest.mark.parametrize(
    ("warmup", "epoch", "weight"),
    [
        (20, 0, 1 / 20),
        (20, 9, 0.5),
        (20, 18, 19 / 20),
        (20, 19, 1),
        (20, 150, 1),
        (4, 0, 0.25),
        (1, 0, 1),
        (0, 0, 1),
    ],
)
@pytest.mark.parametrize("epochs", [40, 200])
def test_warm_up_counts_epochs_whatever_their_number(warmup, epoch, weight, epochs, logits, step):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    whole = step(DKD(warmup=0), student, soft, LABELS, epoch=7)["dkd"]
    term = step(DKD(warmup=warmup), student, soft, LABELS, epoch=epoch, epochs=epochs)["dkd"]
    torch.testing.assert_close(term, weight * whole)


@pytest.mark.parametrize(
    ("epochs", "warmup"), [(200, 20), (240, 20), (300, 30), (40, 4), (19, 1), (5, 1), (1, 1)]
)
def test_the_default_warm_up_keeps_its_share_of_training(epochs, warmup):
    assert DKD.scaled_options(epochs) == {"warmup": warmup}


@pytest.mark.parametrize("changed", [{"temperature": 2.0}, {"alpha": 0.5}, {"beta": 4.0}, {"warmup": 7}],
                         ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_option_changes_the_number(changed, logits, step, setting):
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    usual = step(build_distiller("dkd", setting), student, soft, LABELS)["dkd"]
    other = step(build_distiller("dkd", setting, changed), student, soft, LABELS)["dkd"]
    assert (usual - other).abs() > 1e-3
    assert set(changed) <= set(DKD().options)
