import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdzoo.results.statistics import Summary, paired, summarise


@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_mean_and_deviation_are_numpys(values):
    summary = summarise(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert summary.count == len(values)


def test_order_does_not_show_in_the_last_bit():
    values = [0.1, 76.28, 33.3333, 99.99]
    assert len({summarise(order) for order in itertools.permutations(values)}) == 1


def test_format_is_mean_spread_and_count():
    assert str(summarise([91.85, 91.97, 92.09])) == "91.97 ± 0.12 (3)"
    assert str(summarise([91.97])) == "91.97"
    assert str(summarise([])) == "-"
    assert str(summarise([None, 91.97, None])) == "91.97"
    assert summarise([1.0, 2.0]).format(4, spread=False) == "1.5000"
    assert Summary(1, 1e30, None).format() == "1e+30"


def test_advantage_is_sure_by_students_t():
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 3, 5, 31, 60):
        noise = np.resize([1.0, -1.0], count) * 1.0
        for shift in np.linspace(0, 15, 200):
            differences = noise - noise.mean() + shift
            low = stats.ttest_1samp(differences, 0).confidence_interval(0.95).low
            if abs(low) > 0.02:
                assert (paired(differences.tolist()).verdict == "better") == (low > 0), (count, shift)


def test_interval_of_paired_differences_is_students_t():
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 3, 5, 31):
        values = np.random.default_rng(count).normal(0.3, 1.0, count)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        found = paired(values.tolist())
        assert found is not None
        assert (found.count, found.mean) == (count, pytest.approx(values.mean()))
        assert (found.low, found.high) == (
            pytest.approx(expected.low, abs=2e-3),
            pytest.approx(expected.high, abs=2e-3),
        )


def test_verdict_is_which_side_of_zero_the_whole_interval_lies_on():
    verdicts = [paired(values).verdict for values in ([1.0, 1.1, 1.2], [-1.0, -1.1, -1.2], [1.0, -1.1, 1.2])]
    assert verdicts == ["better", "worse", "not resolved"]
    assert paired([0.0, 0.0]).verdict == "not resolved"
    assert str(paired([1.0, 1.0, 1.0])) == "+1.00 [+1.00, +1.00] (3)"


def test_differences_that_are_equal_by_chance_prove_nothing():
    # Two seeds, 1,000 test images: twice two images more is what chance gives, whatever the spread says.
    assert paired([0.2, 0.2]).verdict == "better"
    assert paired([0.2, 0.2], step=0.1).verdict == "not resolved"
    assert paired([2.0, 2.0], step=0.1).verdict == "better"
    assert paired([1.0, 1.2], step=0.0).high < paired([1.0, 1.2], step=0.1).high


def test_one_seed_proves_nothing():
    assert paired([5.0]) is None
    assert paired([]) is None
