"""The keyed streams against SplitMix64 as it was published, step by step with Python's integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.keys import hashes, permutation, uniforms

MASK = 2**64 - 1


def splitmix64(state: int, count: int) -> list[int]:
    """Steele, Lea and Flood 2014, figure 17: the state moves on by a constant, then is mixed."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(mixed ^ (mixed >> 31))
    return found


PUBLISHED = [
    (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
               16408922859458223821]),
    (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
]  # fmt: skip


@pytest.mark.parametrize(("state", "outputs"), PUBLISHED)
def test_counters_from_one_are_the_published_outputs(state, outputs):
    """The n-th number of SplitMix64, counted from 1, is the hash of counter n; 0 stands before the first."""
    assert splitmix64(state, len(outputs)) == outputs
    assert hashes(state, range(1, len(outputs) + 1)).tolist() == outputs


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**63 - 1), st.integers(0, 200))
def test_every_counter_is_reached_alone(stream, counter):
    sequence = splitmix64((stream - 0x9E3779B97F4A7C15) & MASK, counter + 1)
    assert hashes(stream, [counter]).tolist() == [sequence[counter]]
    assert hashes(stream, np.arange(counter + 1)).tolist() == sequence


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**63 - 1), st.integers(0, 40), st.integers(1, 4))
def test_uniforms_are_the_upper_53_bits_and_permutations_sort_the_hashes(stream, count, draws):
    numbers = splitmix64((stream - 0x9E3779B97F4A7C15) & MASK, count * draws + count)
    expected = [(n >> 11) / 2**53 for n in numbers[: count * draws]]
    assert uniforms(stream, range(count), draws).flatten().tolist() == expected
    assert permutation(stream, count).tolist() == sorted(range(count), key=numbers.__getitem__)
