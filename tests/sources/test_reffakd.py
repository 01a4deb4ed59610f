import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.data.order import draw_per_class
from kdzoo.outputs import Batch
from kdzoo.sources import build_source
from kdzoo.sources.reffakd import ReffAKD, class_similarity, smallest_gamma, soft_label_matrix

LABELS = [0] * 50 + [1] * 60 + [2] * 45
EVERY_CLASS = Batch(torch.zeros(4, 1, 2, 3), torch.tensor([2, 0, 1, 0]), None)


def fitted(workshop, **options):
    source = ReffAKD(**options)
    source.fit(workshop)
    return source


def matrix(workshop, **options):
    rows = (
        fitted(workshop, **options)(Batch(torch.zeros(3, 1, 2, 3), torch.arange(3), None))
        .log_probs(1.0)
        .exp()
    )
    return rows.double()


def test_each_sample_gets_the_row_of_its_class_whatever_the_temperature(workshop):
    source = fitted(workshop(LABELS))
    rows = source(EVERY_CLASS).log_probs(1.0)
    assert rows.dtype == torch.float32
    assert rows.shape == (4, 3)
    assert torch.equal(rows[1], rows[3])
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(rows, source(EVERY_CLASS).log_probs(20.0))
    assert rows.exp().argmax(dim=1).tolist() == EVERY_CLASS.labels.tolist()
    torch.testing.assert_close(rows.exp().sum(dim=1), torch.ones(4))


def test_steps_3_to_5_of_the_paper_are_carried_out(workshop):
    shop = workshop(LABELS)
    found = matrix(shop, gamma=0.02)
    (asked,) = shop.asked
    assert (asked["purpose"], asked["draw"], asked["augmented"]) == ("reffakd", 0, True)
    assert asked["indices"].tolist() == draw_per_class(shop.labels, 40, shop.key("reffakd", 0)).tolist()
    embeddings = torch.tensor([shop.pixels(int(i), 0, 0) for i in asked["indices"]], dtype=torch.float64)
    similarity = class_similarity(embeddings, torch.tensor(shop.labels[asked["indices"]]), 3)
    torch.testing.assert_close(found, soft_label_matrix(similarity, 0.02), rtol=1e-5, atol=1e-6)
    assert list(shop.losses) == ["autoencoder"]


def test_auto_is_the_smallest_gamma_and_a_little_more(workshop, monkeypatch):
    """Where the diagonal is the largest already nothing is taken from it."""
    for similarity, gamma in [
        ([[0.5, 0.75], [0.75, 0.9]], 0.25 + 1e-6),
        ([[0.9, 0.5], [0.5, 0.8]], 0.0),
        ([[0.5, 0.5], [0.5, 0.5]], 1e-6),
    ]:
        table = torch.tensor(similarity, dtype=torch.float64)
        monkeypatch.setattr("kdzoo.sources.reffakd.class_similarity", lambda *a, t=table: t)
        source = fitted(workshop([0, 0, 1, 1]))
        rows = source(Batch(torch.zeros(2, 1, 2, 3), torch.arange(2), None)).log_probs(1.0).exp().double()
        torch.testing.assert_close(rows, soft_label_matrix(table, gamma), rtol=1e-6, atol=1e-8)
        assert rows.argmax(dim=1).tolist() == [0, 1]


@pytest.mark.parametrize(
    "changed",
    [{"gamma": 0.5}, {"per_class": 10}, {"draws": 3}, {"views": "clean"}],
    ids=lambda c: next(iter(c)),
)
def test_every_option_changes_the_labels(workshop, changed):
    usual = matrix(workshop(LABELS), gamma=0.02)
    assert (usual - matrix(workshop(LABELS), **{"gamma": 0.02, **changed})).abs().max() > 1e-6


def test_the_target_changes_what_the_autoencoder_is_trained_for(workshop):
    images = torch.linspace(-2, 2, 12).reshape(2, 1, 2, 3)
    batch, found = Batch(images, torch.tensor([0, 1]), None), {}
    for target in ("normalised", "pixels"):
        shop = workshop(LABELS)
        encoder = shop.train("encoder", lambda n, b: torch.zeros(()))
        fitted(shop, target=target)
        found[target] = shop.losses["autoencoder"](encoder, batch)
    half = images / 2
    torch.testing.assert_close(found["normalised"], (half - images).square().mean())
    # Back to pixels: times the standard deviation of 0.25, plus the mean of 0.5.
    torch.testing.assert_close(found["pixels"], (half - (0.25 * images + 0.5)).square().mean())
    assert "target" in ReffAKD.train_options


def test_views_and_draws_are_asked_for_as_declared(workshop):
    shop = workshop(LABELS)
    fitted(shop, draws=3, views="clean", per_class=5)
    assert [a["draw"] for a in shop.asked] == [0, 1, 2]
    assert not any(a["augmented"] for a in shop.asked)
    drawn = [tuple(a["indices"].tolist()) for a in shop.asked]
    assert len(set(drawn)) == 3
    assert {len(d) for d in drawn} == {15}


def test_draws_average_similarities_not_labels(workshop):
    shops = [workshop(LABELS) for _ in range(2)]
    found = matrix(shops[0], draws=2, gamma=0.1, views="clean")
    fitted(shops[1], draws=2, views="clean")
    similarities = []
    for asked in shops[1].asked:
        embeddings = torch.tensor([shops[1].pixels(int(i)) for i in asked["indices"]], dtype=torch.float64)
        labels = torch.tensor(shops[1].labels[asked["indices"]])
        similarities.append(class_similarity(embeddings, labels, 3))
    expected = soft_label_matrix(torch.stack(similarities).mean(dim=0), 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_draws_follow_the_seed_and_repeat(workshop):
    one, again, other = (matrix(workshop(LABELS, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_class_of_one_image_is_refused(workshop):
    message = r"^class_similarity: every class needs at least two images, classes \[1\] have fewer"
    with pytest.raises(UsageError, match=message):
        fitted(workshop([0, 0, 1, 2, 2]))


def test_one_image_of_a_class_is_refused_before_anything_is_trained():
    """One image has no pair of different images, so the option can never work."""
    with pytest.raises(UsageError, match=r"per_class must be an integer in \[2, inf\), got 1"):
        build_source("reffakd", {"per_class": 1})


def test_zero_embeddings_are_like_nothing():
    embeddings = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    found = class_similarity(embeddings, torch.tensor([0, 0, 1, 1]), 2)
    root = 0.5**0.5
    torch.testing.assert_close(found, torch.tensor([[0.0, root / 2], [root / 2, 1.0]], dtype=torch.float64))


def test_similarity_knows_directions_only():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.rand(12, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(12) % 3
    lengths = torch.rand(12, 1, generator=generator, dtype=torch.float64) + 0.1
    found = class_similarity(embeddings, labels, 3)
    torch.testing.assert_close(class_similarity(lengths * embeddings, labels, 3), found)
    assert torch.equal(found, found.T)
    order = torch.randperm(12, generator=generator)
    torch.testing.assert_close(class_similarity(embeddings[order], labels[order], 3), found)


def test_smallest_gamma_may_be_negative_and_takes_the_worst_row():
    assert smallest_gamma(torch.tensor([[0.75, 0.5], [0.5, 1.0]])) == -0.25
    assert smallest_gamma(torch.tensor([[0.5, 0.75, 0.0], [0.75, 1.0, 0.0], [0.0, 0.0, 1.0]])) == 0.25
