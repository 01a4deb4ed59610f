import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.keys import fingerprint, hashes, key, permutation, uniforms

places = st.lists(st.integers(0, 2**31) | st.text(max_size=5), max_size=3)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**31 - 1), st.text(max_size=10), places)
def test_a_key_fits_every_seeding_function(seed, purpose, place):
    value = key(seed, purpose, *place)
    assert 0 <= value < 2**63
    assert value == key(seed, purpose, *place)


def test_keys_of_different_draws_differ():
    drawn = [
        (seed, purpose, *place)
        for seed in range(6)
        for purpose in ("order", "views", "forward")
        for place in [
            (),
            *itertools.product(range(12)),
            *itertools.product(range(6), range(6)),
            ("1",),
            ("1", 2),
        ]
    ]
    assert len({key(*d) for d in drawn}) == len(drawn)
    assert key(0, "order", 1) != key(1, "order", 0)
    assert key(0, "order", 12) != key(0, "order", 1, 2)
    assert key(0, "order", 1) != key(0, "order", "1")


def test_keys_are_the_same_for_ever():
    """Stored numbers hang on them: a change here is a change of every result."""
    assert key(0, "order", 0) == 4450048964101087113
    assert key(7, "views", 3, 12) == 1915877783265067702
    assert permutation(key(0, "order", 0), 8).tolist() == [0, 7, 5, 3, 6, 4, 1, 2]


def test_a_numpy_seed_is_the_same_seed():
    assert key(np.int64(3), "order", 1) == key(3, "order", 1)


def test_hashes_keep_the_shape_and_need_no_other_counter():
    counters = np.arange(12).reshape(3, 4)
    whole = hashes(5, counters)
    assert whole.shape == (3, 4)
    assert whole.dtype == np.uint64
    assert hashes(5, counters[2, 1:3]).tolist() == whole[2, 1:3].tolist()
    assert hashes(6, counters).tolist() != whole.tolist()


@pytest.mark.parametrize("stream", [0, 3, 2**62, 2**63 - 1])
def test_hashes_take_a_single_counter(stream):
    assert hashes(stream, 3) == hashes(stream, [3])[0]


def test_a_row_of_uniforms_depends_on_its_index_alone():
    whole = uniforms(key(0, "views", 1), range(50), 3)
    assert whole.shape == (50, 3)
    assert uniforms(key(0, "views", 1), [31, 4], 3).tolist() == whole[[31, 4]].tolist()
    assert len(np.unique(whole)) == whole.size


def test_uniforms_are_uniform():
    values = uniforms(key(1, "views"), range(20000), 2)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    expected = values.size / 20
    # 19 degrees of freedom: one in a million streams exceeds 60.
    assert ((counts - expected) ** 2 / expected).sum() < 60
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.03


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**63 - 1), st.integers(0, 300))
def test_a_permutation_holds_each_once(stream, count):
    order = permutation(stream, count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_permutations_of_different_streams_differ():
    assert len({tuple(permutation(key(s, "order", e), 10)) for s in range(20) for e in range(20)}) == 400


def test_a_fingerprint_is_of_the_content_not_of_the_order():
    one = {"a": 1, "b": [1, {"c": None, "d": "x"}]}
    assert fingerprint(one) == fingerprint({"b": [1, {"d": "x", "c": None}], "a": 1})
    assert len(fingerprint(one)) == 64
    for other in ({"a": 2}, {"b": [{"c": None, "d": "x"}, 1]}, {"a": True}, {"a": "1"}, {"e": 0}):
        assert fingerprint({**one, **other}) != fingerprint(one)
    assert fingerprint(json.loads(json.dumps(one))) == fingerprint(one)


def test_a_fingerprint_refuses_what_is_no_json():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})
    with pytest.raises(TypeError):
        fingerprint({"a": object()})
