import math
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdzoo.checks import (
    Count,
    Fraction,
    Interval,
    KdzooError,
    Natural,
    NonNegative,
    Positive,
    Problems,
    StorageError,
    UsageError,
    check_options_of,
    checked,
    options_of,
    unknown,
    usage,
)


class Everything:
    """Something with options.

    Args:
        rate: how fast; goes on
            over two lines.
        share: of the whole.
        mode: which way.
    """

    def __init__(
        self,
        sized: int = 0,
        *,
        rate: Positive = 4.0,
        share: Fraction = 0.5,
        count: Count = 3,
        mode: Literal["mean", "sum"] = "mean",
        gamma: NonNegative | Literal["auto"] = "auto",
        resize: Natural | None = None,
        flag: bool = False,
        label: str = "x",
        angle: Annotated[float, Interval(-180, 180, open_low=True)] = 0.0,
    ) -> None:
        pass


OPTIONS = options_of(Everything)
# More than a float holds.
HUGE = 10**400


def test_options_are_the_keyword_only_arguments_in_declared_order():
    assert list(OPTIONS) == ["rate", "share", "count", "mode", "gamma", "resize", "flag", "label", "angle"]
    assert [o.default for o in OPTIONS.values()] == [4.0, 0.5, 3, "mean", "auto", None, False, "x", 0.0]
    assert OPTIONS["rate"].doc == "how fast; goes on over two lines."
    assert OPTIONS["share"].doc == "of the whole."
    assert OPTIONS["flag"].doc == ""


def test_options_of_a_function():
    def build(classes: int, *, width: Count = 16) -> None:
        """Build.

        Args:
            classes: K.
            width: filters.
        """

    assert list(options_of(build)) == ["width"]
    assert options_of(build)["width"].doc == "filters."


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("rate", "a number in (0, inf)"),
        ("share", "a number in [0, 1]"),
        ("count", "an integer in [1, inf)"),
        ("mode", "'mean' or 'sum'"),
        ("gamma", "'auto' or a number in [0, inf)"),
        ("resize", "an integer in [0, inf)"),
        ("flag", "true or false"),
        ("label", "a text"),
        ("angle", "a number in (-180, 180]"),
    ],
)
def test_what_is_accepted_is_said_in_words(name, accepted):
    assert OPTIONS[name].accepted == accepted
    with pytest.raises(UsageError) as caught:
        OPTIONS[name].parse("method 'x'", [])
    assert str(caught.value) == f"method 'x': {name} must be {accepted}, got []."


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("rate", "20", 20.0),
        ("rate", 20, 20.0),
        ("rate", "1e+1", 10.0),
        ("share", "0", 0.0),
        ("share", "1", 1.0),
        ("count", "20", 20),
        ("count", "1e3", 1000),
        ("count", 3.0, 3),
        ("mode", "sum", "sum"),
        ("gamma", "auto", "auto"),
        ("gamma", "0.0225", 0.0225),
        ("flag", "TRUE", True),
        ("flag", "no", False),
        ("flag", "0", False),
        ("flag", True, True),
        ("label", "any text", "any text"),
        ("angle", "180", 180.0),
    ],
)
def test_texts_and_values_become_the_right_type(name, given, value):
    parsed = OPTIONS[name].parse("who", given)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("rate", x) for x in ("0", 0, -1, "nan", "inf", "", "fast", True, None, [1.0], HUGE)),
        *(("share", x) for x in ("-0.001", 1.001, "1,5")),
        *(("count", x) for x in ("0", 2.5, "2.5", True, "inf", "nan", HUGE)),
        *(("mode", x) for x in ("Mean", "", 3, None)),
        *(("gamma", x) for x in ("Auto", -1, "nan")),
        *(("flag", x) for x in ("maybe", 1, None)),
        *(("label", x) for x in (3, None)),
        ("angle", "-180"),
    ],
    ids=lambda value: "huge" if value is HUGE else None,
)
def test_everything_else_is_refused(name, given):
    with pytest.raises(UsageError, match=f"^who: {name} must be "):
        OPTIONS[name].parse("who", given)


@given(st.floats(), st.floats(-5, 5), st.floats(-5, 5), st.booleans(), st.booleans())
def test_an_interval_holds_what_its_text_says(value, low, high, open_low, open_high):
    inside = (low < value or (value == low and not open_low)) and (
        value < high or (value == high and not open_high)
    )
    assert (value in Interval(low, high, open_low, open_high)) == inside


def test_no_interval_holds_what_is_not_finite():
    assert not any(x in Interval() for x in (math.nan, math.inf, -math.inf))
    assert str(Interval()) == "in (-inf, inf)"
    assert str(Interval(0, 1, open_high=True)) == "in [0, 1)"


def test_checked_fills_in_defaults_in_declared_order():
    values = checked("who", OPTIONS, {"share": "0.25", "rate": 1})
    assert list(values) == list(OPTIONS)
    assert (values["rate"], values["share"], values["count"], values["resize"]) == (1.0, 0.25, 3, None)


def test_checked_tells_every_mistake_at_once():
    with pytest.raises(UsageError) as caught:
        checked("method 'x'", OPTIONS, {"rat": 1, "share": 2, "count": 0, "flag": "yes"})
    assert str(caught.value).splitlines() == [
        "method 'x': there is no option 'rat'. Did you mean 'rate'?",
        "method 'x': share must be a number in [0, 1], got 2.",
        "method 'x': count must be an integer in [1, inf), got 0.",
    ]


def test_checked_says_where_there_are_no_options():
    with pytest.raises(UsageError, match=r"^who: it has no options, got 'rate'\.$"):
        checked("who", {}, {"rate": 1})


class Required:
    """Something with options that must be given."""

    def __init__(self, *, path: str, kind: Literal["a", "b"], count: Count = 2) -> None:
        """Keep them.

        Args:
            path: where.
            kind: which.
            count: how many.
        """
        self.seen = (path, kind, count)


def test_what_has_no_default_must_be_given():
    options = options_of(Required)
    assert [o.required for o in options.values()] == [True, True, False]
    assert not any(o.required for o in OPTIONS.values())
    with pytest.raises(UsageError) as caught:
        checked("who", options, {"count": 0})
    assert str(caught.value).splitlines() == [
        "who: option 'path' must be given: a text.",
        "who: option 'kind' must be given: 'a' or 'b'.",
        "who: count must be an integer in [1, inf), got 0.",
    ]
    given = {"kind": "b", "path": "x"}
    assert checked("who", options, given) == {"path": "x", "kind": "b", "count": 2}


def test_defaults_may_lack_what_is_required_but_are_checked():
    options = options_of(Required)
    assert checked("who", options, {"kind": "b"}, partly=True) == {"kind": "b", "count": 2}
    with pytest.raises(UsageError, match=r"^who: kind must be 'a' or 'b', got 'c'\.$"):
        checked("who", options, {"kind": "c"}, partly=True)


class Checked:
    """The base of a family whose options are checked."""

    def __init_subclass__(cls) -> None:
        check_options_of(cls)


class Sized(Checked):
    """Has an option and a size."""

    def __init__(self, size: int, *, rate: Positive = 4.0) -> None:
        """Keep both.

        Args:
            size: no option.
            rate: how fast.
        """
        self.seen = (size, rate)


class Longer(Sized):
    """Adds an option, and passes on the other.

    Args:
        count: how many.
    """

    def __init__(self, size: int, *, rate: Positive = 1.0, count: Count = 3) -> None:
        super().__init__(size, rate=rate)
        self.count = count


class Plain(Longer):
    """Declares none of its own."""


def test_options_are_checked_before_the_body_and_kept():
    made = Sized(7, rate="0.5")
    assert (made.seen, made.options) == ((7, 0.5), {"rate": 0.5})
    with pytest.raises(UsageError, match=r"^Sized: rate must be a number in \(0, inf\), got 0\.$"):
        Sized(7, rate=0)
    with pytest.raises(UsageError, match=r"^Sized: there is no option 'rte'"):
        Sized(7, rte=0)
    with pytest.raises(TypeError, match="size"):
        Sized()


@pytest.mark.parametrize("cls", [Longer, Plain])
def test_an_inherited_constructor_checks_its_own_options(cls):
    made = cls(7, count="5")
    assert (made.seen, made.count, made.options) == ((7, 1.0), 5, {"rate": 1.0, "count": 5})
    with pytest.raises(UsageError, match=rf"^{cls.__name__}: count must be an integer"):
        cls(7, count=0)
    assert [o.doc for o in options_of(cls).values()] == ["how fast.", "how many."]


def test_the_form_of_a_message():
    error = usage("kdzoo", "epochs", "a number", "ten", "Give one.")
    assert str(error) == "kdzoo: epochs must be a number, got 'ten'. Give one."
    assert isinstance(error, KdzooError)
    assert isinstance(error, ValueError)
    assert not isinstance(StorageError("x"), UsageError)


def test_an_unknown_name_is_answered_with_the_nearest():
    known = ["dkd", "fitnet", "kd", "kdsvd", "ReffAKD"]
    assert str(unknown("who", "source", "refakd", known)).startswith(
        "who: there is no source 'refakd'. Did you mean 'ReffAKD'"
    )
    hint = str(unknown("who", "distiller", "kdd", known))
    assert "'kd'" in hint
    assert "'dkd'" in hint
    assert hint.count("'") == 2 + 2 * 3
    assert (
        str(unknown("who", "distiller", "zzz", ["a", "b"]))
        == "who: there is no distiller 'zzz'. There are: a, b."
    )


def test_problems_gathers_all_and_each_once():
    problems = Problems()
    for message in ("first", "second\nthird", "first"):
        with problems:
            raise UsageError(message)
    with problems:
        pass
    with pytest.raises(UsageError) as caught:
        problems.raise_all()
    assert str(caught.value).splitlines() == ["first", "second", "third"]


def test_problems_is_silent_without_mistakes_and_lets_faults_through():
    problems = Problems()
    problems.raise_all()
    for fault in (ValueError("a fault"), StorageError("full"), KeyboardInterrupt()):
        with pytest.raises(type(fault)), problems:
            raise fault
    problems.raise_all()


def test_an_option_without_annotation_is_of_its_defaults_type():
    def made(*, weight=1.5, count=2, fast=False, name="x"): ...

    options = options_of(made)
    assert [o.kinds for o in options.values()] == [(float,), (int,), (bool,), (str,)]
    assert checked("made", options, {"weight": "2"})["weight"] == 2.0


def test_an_option_of_a_type_that_no_command_line_can_give_is_refused():
    def made(*, sizes: tuple[float, ...] = ()): ...

    with pytest.raises(UsageError, match="made: option 'sizes' must be annotated with float, int, bool, str"):
        options_of(made)


def chosen(hint, default=None):
    def made(*, power=default): ...

    made.__annotations__ = {"power": hint}
    return options_of(made)["power"]


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [
        *((Literal[1, 2], given, 2) for given in (2, 2.0, "2", "2.0", "2e0")),
        *((Literal[1, 2] | None, given, 1) for given in (1, "1")),
        *((Literal["auto", 0, -3], given, given) for given in ("auto", 0, -3)),
        *((Literal["auto", 0, -3], str(given), given) for given in (0, -3)),
        *((Literal["auto", True, False], given, True) for given in (True, "true", "TRUE", "1", "yes")),
        (Literal["auto", True, False], "false", False),
        (Literal["auto", 3] | bool, "true", True),
        (Literal["auto", 3] | NonNegative, "3", 3),
        (Literal["auto", 3] | NonNegative, "3.5", 3.5),
        (Literal["mean", None], "mean", "mean"),
    ],
)
def test_a_choice_is_of_its_own_type_however_it_is_written(hint, given, value):
    found = chosen(hint).parse("who", given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "given", "accepted"),
    [
        *((Literal[1, 2], given, "1 or 2") for given in (3, "3", 1.5, True, "true", "one", None, [1], HUGE)),
        *((Literal["auto", 1], given, "'auto' or 1") for given in ("Auto", True, 0, "yes")),
        *((Literal[True, "auto"], given, "true or 'auto'") for given in (1, False, "false", "0")),
    ],
    ids=lambda value: "huge" if value is HUGE else None,
)
def test_what_is_no_choice_is_refused(hint, given, accepted):
    with pytest.raises(UsageError) as caught:
        chosen(hint).parse("who", given)
    assert str(caught.value) == f"who: power must be {accepted}, got {given!r}."


@pytest.mark.parametrize(
    "hint", [Literal[1, True], Literal["1", 1], Literal["true", True], Literal[False, "0"]]
)
def test_choices_that_are_written_alike_are_refused(hint):
    with pytest.raises(
        UsageError, match="made: option 'power' must have choices that are written apart, got"
    ):
        chosen(hint)


def test_a_choice_that_no_command_line_can_give_is_refused():
    with pytest.raises(UsageError, match=r"a Literal of texts, integers or truth values, .*, got b'x'\."):
        chosen(Literal["x", b"x"])


def test_a_positional_argument_with_a_default_is_refused_when_the_class_is_made():
    class Checked:
        def __init_subclass__(cls):
            check_options_of(cls)

    with pytest.raises(UsageError, match=r"Mine: 'weight' has a default, so it is an option: put it behind"):

        class Mine(Checked):
            def __init__(self, size, weight=1.0): ...
