import math

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.outputs import Batch, ModelOutput, Setting
from kdzoo.sources import build_source, teacher_mean

LABELS = [0, 2, 1, 0, 2, 2, 1, 0, 2]


def rows(shop, **options):
    source = build_source("teacher_mean", options)
    source.fit(shop)
    found = source(Batch(torch.zeros(3, 1, 2, 3), torch.arange(3), None))
    assert torch.equal(found.log_probs(1.0), found.log_probs(20.0))
    return found.log_probs(1.0).exp().double()


def expected(shop, temperature, *place):
    """Average softmax outputs image by image. The fake teacher's logits are the first pixels."""
    sums = [[0.0] * 3 for _ in range(3)]
    for index, label in enumerate(LABELS):
        raised = [math.exp(p / temperature) for p in shop.pixels(index, *place)[:3]]
        sums[label] = [s + r / sum(raised) for s, r in zip(sums[label], raised, strict=True)]
    means = [[s / LABELS.count(label) for s in row] for label, row in enumerate(sums)]
    return torch.tensor(means, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [4.0, 0.5])
@pytest.mark.parametrize("portion", [256, 9, 4])
def test_rows_are_the_means_of_the_classes_however_many_are_seen_at_a_time(
    workshop, temperature, portion, monkeypatch
):
    monkeypatch.setattr(teacher_mean, "PORTION", portion)
    shop = workshop(LABELS)
    found = rows(shop, temperature=temperature)
    torch.testing.assert_close(found, expected(shop, temperature), rtol=1e-6, atol=1e-7)
    assert max(len(asked["indices"]) for asked in shop.asked) <= portion
    assert [i for asked in shop.asked for i in asked["indices"].tolist()] == list(range(9))


def test_views_are_clean_unless_asked_for(workshop):
    shop = workshop(LABELS, seed=4)
    torch.testing.assert_close(
        rows(shop, views="augmented"), expected(shop, 4.0, 4, 0), rtol=1e-6, atol=1e-7
    )  # fmt: skip
    assert [(a["purpose"], a["augmented"]) for a in shop.asked] == [("teacher_mean", True)]
    clean = workshop(LABELS, seed=4)
    assert torch.equal(rows(clean), rows(workshop(LABELS, seed=5)))
    assert not clean.asked[0]["augmented"]


def test_the_teacher_gets_whole_batches_and_no_gradients(workshop):
    shop, seen = workshop(LABELS), []

    def teacher(batch):
        seen.append((batch.labels.tolist(), batch.indices.tolist(), torch.is_grad_enabled()))
        return ModelOutput(batch.images.flatten(1)[:, :3].requires_grad_())

    shop.teacher = teacher
    assert not rows(shop).requires_grad
    assert seen == [(LABELS, list(range(9)), False)]


def test_a_class_without_images_is_refused():
    setting = Setting(None, None, None, 4, torch.tensor(LABELS))
    with pytest.raises(UsageError, match=r"^teacher_mean: every class needs a training image, classes \[3\]"):
        build_source("teacher_mean").check(setting)
    build_source("teacher_mean").check(setting._replace(classes=3))
