from typing import Annotated, Any, Literal

import pytest

from kdzoo.checks import Count, Fraction, Interval, NonNegative, Positive, options_of
from kdzoo.testing.options import alternatives, idle_option


def options(**hints):
    """Make options from annotations and defaults."""

    def function(**given): ...

    import inspect

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in hints.items()
    ]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {name: hint for name, (hint, _) in hints.items()}
    return options_of(function)


def others(hint: Any, default: Any) -> list[Any]:
    return list(alternatives(options(it=(hint, default))["it"]))


def test_alternatives_of_a_bool():
    assert others(bool, False) == [True]
    assert others(bool, True) == [False]


def test_alternatives_of_a_choice():
    assert others(Literal["a", "b", "c"], "b") == ["a", "c"]
    assert others(Literal[1, 2, 4, "auto"], 2) == [1, 4, "auto"]


def test_alternatives_of_numbers_keep_their_kind_and_range():
    whole = others(Count, 4)
    assert {5, 3, 8, 2, 1} <= set(whole)
    assert all(isinstance(v, int) and v >= 1 for v in whole)
    assert 4 not in whole
    share = others(Fraction, 0.9)
    assert {0.0, 1.0, 0.25} <= set(share)
    assert all(0 <= v <= 1 for v in share)
    assert 0.9 not in share
    assert 0.0 not in others(Positive, 1.0)
    assert 0.0 in others(NonNegative, 1.0)
    assert len(others(float, 1e-7)) > 3


def test_alternatives_are_found_in_a_narrow_range():
    narrow = others(Annotated[float, Interval(low=0.9, high=0.99)], 0.95)
    assert set(narrow) >= {0.9, 0.99}
    assert len(narrow) == 4
    assert others(Annotated[int, Interval(low=3, high=3)], 3) == []


def test_alternatives_of_a_number_or_auto():
    either = others(NonNegative | Literal["auto"], "auto")
    assert {0.0, 1.0, 2.0} <= set(either)
    assert others(NonNegative | Literal["auto"], 2.0)[0] == "auto"


def test_alternatives_of_a_required_option():
    import inspect

    empty = inspect.Parameter.empty
    assert 1.0 in others(Positive, empty)
    assert others(Literal["a", "b"], empty) == ["a", "b"]
    assert others(bool, empty) == [True, False]


def test_alternatives_of_a_text_are_none():
    assert others(str, "there") == []


def test_no_alternative_comes_twice():
    for hint, default in ((float, 1.0), (int, 2), (bool | float, 1.0), (int | Literal["auto"], "auto")):
        values = others(hint, default)
        assert len({(v, isinstance(v, bool)) for v in values}) == len(values)
        assert (default, isinstance(default, bool)) not in {(v, isinstance(v, bool)) for v in values}


def idle(numbers, given=None, **hints):
    return idle_option(options(**hints), given or {}, lambda o: [numbers(**defaults(hints) | o)])


def defaults(hints):
    return {name: default for name, (_, default) in hints.items()}


TWO = {"a": (Positive, 1.0), "b": (bool, False)}


def test_every_option_acts():
    assert idle(lambda a, b: (a, b), **TWO) is None


def test_an_option_that_is_ignored_is_named():
    assert idle(lambda a, b: a, **TWO) == "option 'b' changes nothing"
    assert idle(lambda a, b: b, **TWO) == "option 'a' changes nothing"


def test_an_option_that_acts_beside_another_alone_is_no_fault():
    assert idle(lambda a, b: (a if b else 0, b), **TWO) is None


def test_options_that_are_given_are_taken_as_they_are():
    assert idle(lambda a, b: a, given={"b": True}, **TWO) is None
    assert idle(lambda a, b: a if b else 0, given={"b": False}, **TWO) == "option 'a' changes nothing"


def test_choices_must_all_differ():
    kinds = {"kind": (Literal["a", "b", "c"], "a")}
    assert idle(lambda kind: kind, **kinds) is None
    assert idle(lambda kind: kind == "a", **kinds) == "option 'kind' does the same at 'b' as at 'c'"
    assert idle(lambda kind: kind == "c", **kinds) == "option 'kind' does the same at 'a' as at 'b'"
    late = {"kind": (Literal["a", "b", "c", "d", "e", "f"], "a")}
    assert idle(lambda kind: kind.replace("f", "e"), **late) == "option 'kind' does the same at 'e' as at 'f'"


def test_choices_may_differ_beside_another_option_alone():
    both = {"kind": (Literal["a", "b", "c"], "a"), "hard": (bool, False)}
    assert idle(lambda kind, hard: (kind if hard else kind == "a", hard), **both) is None


def test_a_number_must_be_more_than_a_switch():
    assert idle(lambda a: a > 1, a=(Positive, 1.0)) == (
        "option 'a' knows no more than two kinds of numbers, as a switch does"
    )
    assert idle(lambda a: min(a, 3), a=(Count, 40)) is None
    assert idle(lambda a: a > 3, a=(Annotated[int, Interval(low=3, high=4)], 3)) is None


def test_auto_may_be_the_same_as_a_number():
    assert idle(lambda a: 2.0 if a == "auto" else a, a=(NonNegative | Literal["auto"], "auto")) is None


def test_values_that_are_refused_are_no_difference():
    refused = {"a": (Positive, 1.0)}
    assert idle(lambda a: 0 if a < 2 else None, **refused) == "option 'a' changes nothing"
    assert idle(lambda a: 0 if a == 1 else None, **refused) is None  # there is nothing to compare


def test_an_option_that_acts_on_one_of_two_batches_is_no_fault():
    found = idle_option(options(**TWO), {}, lambda o: [o.get("a"), None if o.get("b") else 1, o.get("b")])
    assert found is None


@pytest.mark.parametrize("hint", [str, Annotated[int, Interval(low=3, high=3)]])
def test_options_without_another_value_are_passed_over(hint):
    assert idle(lambda a: 0, a=(hint, "" if hint is str else 3)) is None
