"""Each control against loops over what its docstring says."""

import pytest
import torch
from pairloops import enough, similarity, soft_labels

from kdzoo.checks import UsageError
from kdzoo.keys import permutation
from kdzoo.outputs import Batch, Setting
from kdzoo.sources import build_source

LABELS = [0] * 9 + [1] * 5 + [2] * 7 + [3] * 6
CONTROLS = ("label_smoothing", "permuted", "pixels", "random_cae", "uniform")
OF_SIMILARITIES = ("reffakd", "label_smoothing", "permuted", "pixels", "random_cae")


def matrix(shop, name, **options):
    source = build_source(name, options)
    source.fit(shop)
    every_class = Batch(torch.zeros(shop.num_classes, 1, 2, 3), torch.arange(shop.num_classes), None)
    return source(every_class).log_probs(1.0).exp().double()


def expected(shop, embed, gamma=None):
    """What ReffAKD makes of embeddings, in loops."""
    embeddings = [embed(shop.pixels(int(i), shop.seed, 0)) for i in shop.asked[0]["indices"]]
    table = similarity(embeddings, shop.labels[shop.asked[0]["indices"]].tolist(), shop.num_classes)
    return soft_labels(table, enough(table) if gamma is None else gamma)


def close(found, rows):
    torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("gamma", ["auto", 0.5])
def test_label_smoothing_keeps_the_mean_of_the_diagonal(workshop, gamma):
    shop = workshop(LABELS)
    found = matrix(shop, "label_smoothing", gamma=gamma)
    rows = expected(shop, lambda pixels: pixels, None if gamma == "auto" else gamma)
    true = sum(rows[i][i] for i in range(4)) / 4
    close(found, [[true if i == j else (1 - true) / 3 for j in range(4)] for i in range(4)])


def test_permuted_keeps_the_numbers_of_each_row_in_another_order(workshop):
    shop = workshop(LABELS, seed=3)
    found = matrix(shop, "permuted")
    rows = expected(shop, lambda pixels: pixels)
    shuffled = [list(row) for row in rows]
    for i in range(4):
        others = [j for j in range(4) if j != i]
        for place, taken in zip(others, permutation(shop.key("permuted", i), 3), strict=True):
            shuffled[i][place] = rows[i][others[taken]]
    close(found, shuffled)
    assert shuffled != rows
    plain = matrix(workshop(LABELS, seed=3), "reffakd")
    assert torch.equal(found.diagonal(), plain.diagonal())
    assert torch.equal(found.sort(dim=1).values, plain.sort(dim=1).values)


def test_pixels_are_compared_as_they_were_before_normalising(workshop):
    shop = workshop(LABELS)
    found = matrix(shop, "pixels")
    # The workshop's images were normalised with a mean of 0.5 and a standard deviation of 0.25.
    close(found, expected(shop, lambda pixels: [round(255 * (0.25 * p + 0.5)) / 255 for p in pixels]))
    assert not shop.losses


def test_black_images_have_no_direction_in_pixels(workshop):
    """Normalising and back leaves rounding errors, which must not pass for a picture."""
    shop = workshop([0, 0, 1, 1])
    shop.mean, shop.std = torch.full((1, 1, 1), 0.13), torch.full((1, 1, 1), 0.31)
    levels = torch.tensor([[0.0] * 6, [0.0] * 6, [0, 51, 255, 3, 9, 0], [0, 51, 255, 3, 9, 0]]) / 255
    normalised = (levels.reshape(4, 1, 2, 3) - shop.mean) / shop.std
    shop.images = lambda indices, **options: normalised[torch.from_numpy(indices)]
    close(matrix(shop, "pixels", gamma=0.0), soft_labels([[0.0, 0.0], [0.0, 1.0]], 0.0))


def test_random_cae_embeds_with_initial_weights_of_the_seed(workshop):
    shop = workshop(LABELS, seed=2)
    found = matrix(shop, "random_cae")
    assert shop.built == [("autoencoder", "random_cae")]
    assert not shop.losses
    weights = shop.untrained("autoencoder", "random_cae").weights.double().tolist()
    close(
        found, expected(shop, lambda p: [sum(p[k] * weights[k][d] for k in range(6)) for d in range(5)])
    )  # fmt: skip


def test_uniform_has_the_same_in_every_row(workshop):
    assert matrix(workshop(LABELS), "uniform").tolist() == [[0.25] * 4] * 4


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_repeat_follow_the_seed_and_sum_to_one(name, workshop):
    one, again, other = (matrix(workshop(LABELS, seed), name) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert torch.equal(one, other) == (name == "uniform")
    torch.testing.assert_close(one.sum(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", OF_SIMILARITIES)
def test_controls_see_the_very_images_that_reffakd_sees(name, workshop):
    shops = [workshop(LABELS) for _ in range(2)]
    for shop, source in zip(shops, ("reffakd", name), strict=True):
        matrix(shop, source, draws=2, per_class=4)
    for one, other in zip(*(shop.asked for shop in shops), strict=True):
        assert one.pop("indices").tolist() == other.pop("indices").tolist()
        assert one == other


CHANGES = [{"gamma": 0.5}, {"per_class": 3}, {"draws": 3}, {"views": "clean"}]


@pytest.mark.parametrize("name", OF_SIMILARITIES)
@pytest.mark.parametrize("changed", CHANGES, ids=lambda c: next(iter(c)))
def test_every_option_changes_the_labels(name, changed, workshop):
    usual = matrix(workshop(LABELS), name, gamma=0.02)
    assert (usual - matrix(workshop(LABELS), name, **{"gamma": 0.02, **changed})).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["label_smoothing", "permuted"])
def test_followers_train_what_reffakd_trains(name, workshop):
    images = torch.linspace(-2, 2, 12).reshape(2, 1, 2, 3)
    for target in ("normalised", "pixels"):
        losses = []
        for source in ("reffakd", name):
            shop = workshop(LABELS)
            encoder = shop.train("encoder", lambda n, b: torch.zeros(()))
            matrix(shop, source, target=target)
            losses.append(shop.losses["autoencoder"](encoder, Batch(images, torch.tensor([0, 1]), None)))
        assert torch.equal(*losses)


@pytest.mark.parametrize("name", OF_SIMILARITIES)
def test_a_class_without_a_pair_is_refused_before_anything_is_trained(name):
    setting = Setting(None, None, None, 4, torch.arange(8) % 4)
    build_source(name).check(setting)
    for labels, lonely in (([0, 0, 1, 2, 2], r"\[1, 3\]"), ([0, 0, 1, 2, 2, 3, 3], r"\[1\]")):
        message = rf"every class needs two training images or more, classes {lonely} have fewer\. Add images"
        with pytest.raises(UsageError, match=message):
            build_source(name).check(setting._replace(labels=torch.tensor(labels)))
