import numpy as np
import pytest

from kdzoo.data.order import draw_per_class, epoch_order, shuffled_classes
from kdzoo.keys import key


@pytest.mark.parametrize("count", [1, 2, 257, 6000])
def test_order_has_every_sample_once(count: int) -> None:
    order = epoch_order(3, 2, count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_order_is_a_function_of_seed_and_epoch_and_they_do_not_collide() -> None:
    places = [(seed, epoch) for seed in range(8) for epoch in range(8)]
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed, epoch in places}
    assert len(orders) == len(places)
    np.testing.assert_array_equal(epoch_order(1, 5, 50), epoch_order(1, 5, 50))


def test_order_is_no_sorted_one() -> None:
    positions = np.argsort(epoch_order(0, 0, 10_000))
    assert abs(np.corrcoef(positions, np.arange(10_000))[0, 1]) < 0.05


def test_draw_takes_distinct_samples_of_each_class_up_to_the_number() -> None:
    labels = np.array([2] * 9 + [0] * 3 + [5] * 30 + [2] * 9)
    drawn = draw_per_class(labels, 5, key(0, "test"))
    assert len(set(drawn.tolist())) == len(drawn) == 3 + 5 + 5
    assert labels[drawn].tolist() == [0] * 3 + [2] * 5 + [5] * 5


def test_smaller_draw_begins_a_larger_one() -> None:
    labels = np.repeat([0, 1], 50)
    few, many = (draw_per_class(labels, n, key(0, "test")) for n in (4, 20))
    np.testing.assert_array_equal(few[:4], many[:4])
    np.testing.assert_array_equal(few[4:], many[20:24])


def test_draw_of_a_class_does_not_depend_on_where_the_others_stand() -> None:
    """The same places within the class are drawn, wherever the class stands and whatever else there is."""
    alone, stream = np.full(30, 4), key(7, "test")
    mixed = np.random.default_rng(0).permutation(np.repeat([1, 4, 9], [17, 30, 60]))
    drawn = draw_per_class(mixed, 6, stream)
    ranks = np.searchsorted(np.flatnonzero(mixed == 4), drawn[mixed[drawn] == 4])
    np.testing.assert_array_equal(ranks, draw_per_class(alone, 6, stream))


def test_draws_differ_between_streams_and_between_classes() -> None:
    labels = np.repeat([0, 1], 40)
    first, second = (draw_per_class(labels, 10, key(seed, "test")) for seed in (0, 1))
    assert first.tolist() != second.tolist()
    assert first[:10].tolist() != (first[10:] - 40).tolist()


def test_every_place_in_a_class_is_drawn_equally_often() -> None:
    labels = np.zeros(20, np.int64)
    drawn = [draw_per_class(labels, 5, key(seed, "test")) for seed in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    # 500 expected, standard deviation 19.4; four of them to either side.
    assert counts.min() > 420
    assert counts.max() < 580


def test_no_samples_give_no_draw() -> None:
    assert draw_per_class([], 3, key(0, "test")).shape == (0,)
    assert shuffled_classes([], key(0, "test")) == []
