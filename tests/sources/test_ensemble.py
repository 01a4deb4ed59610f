"""Several teachers at once, in the workshop of the other sources."""

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.outputs import Batch
from kdzoo.sources import build_source

BATCH = Batch(torch.arange(30.0).reshape(5, 1, 2, 3) / 7, torch.tensor([0, 1, 3, 2, 0]), None)


def made(workshop, **options):
    source, shop = build_source("ensemble", options), workshop([0, 1, 2, 3])
    source.fit(shop)
    opinions = [shop.classifier(name)(BATCH).logits for name in ("resnet8", "vgg8")]
    return source, shop, opinions


def test_the_mean_of_probabilities_is_that_of_softened_ones(workshop):
    source, _, opinions = made(workshop, teachers="resnet8/vgg8")
    for temperature in (1.0, 4.0):
        expected = sum((logits / temperature).softmax(dim=1) for logits in opinions) / 2
        torch.testing.assert_close(source(BATCH).log_probs(temperature).exp(), expected)
    assert not source.gives_scores


def test_the_mean_of_scores_is_softened_afterwards(workshop):
    source, _, opinions = made(workshop, teachers="resnet8/vgg8", mean="scores")
    expected = (sum(opinions) / 2 / 4.0).softmax(dim=1)
    torch.testing.assert_close(source(BATCH).log_probs(4.0).exp(), expected)
    assert source.gives_scores


def test_the_benchmarks_teacher_is_the_one_that_all_share(workshop):
    source, shop, (opinion, _) = made(workshop, teachers="teacher/resnet8")
    assert shop.judges[:1] == ["resnet8"]
    assert (source.needs, source.teacher_fields) == ({"teacher"}, {"logits"})
    shared = shop.teacher(BATCH).logits
    expected = (shared.softmax(dim=1) + opinion.softmax(dim=1)) / 2
    torch.testing.assert_close(source(BATCH).log_probs(1.0).exp(), expected)
    without = build_source("ensemble", {"teachers": "resnet8/vgg8"})
    assert (without.needs, without.teacher_fields) == (frozenset(), frozenset())
    assert without.classifiers == ("resnet8", "vgg8")


def test_the_order_of_the_teachers_means_nothing():
    one, other = (build_source("ensemble", {"teachers": t}) for t in ("vgg8/teacher/a", "a/vgg8/teacher"))
    assert one.options == other.options == {"teachers": "a/teacher/vgg8", "mean": "probabilities"}


@pytest.mark.parametrize("teachers", ["", "teacher", "a/a", "a//b", "a/b c", "/a", "a/2"])
def test_what_is_no_ensemble_is_refused(teachers):
    with pytest.raises(UsageError, match=r"^ensemble: teachers must be two names or more, each once"):
        build_source("ensemble", {"teachers": teachers})
