"""Tf-KD by self-training, in the workshop of the other sources."""

import torch

from kdzoo.outputs import Batch
from kdzoo.sources import build_source

BATCH = Batch(torch.arange(30.0).reshape(5, 1, 2, 3) / 7, torch.tensor([0, 1, 3, 2, 0]), None)


def test_its_labels_are_the_scores_of_the_student_that_was_trained_first(workshop):
    source, shop = build_source("tfkd_self"), workshop([0, 1, 2, 3])
    source.fit(shop)
    assert shop.judges == ["student"]
    logits = shop.classifier("student")(BATCH).logits
    for temperature in (1.0, 20.0):
        expected = (logits / temperature).log_softmax(dim=1)
        torch.testing.assert_close(source(BATCH).log_probs(temperature), expected)
    assert source.gives_scores
    assert not source.needs
