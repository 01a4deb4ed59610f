import json
import re
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.checks import Count, UsageError, options_of, spelled
from kdzoo.distillers import Distiller
from kdzoo.methods import TABLE8, Defaults, _why_no_source, expand, groups, parse, resolve, universe
from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.sources import Source

PLAIN = Defaults(200, {}, {})
SET = Defaults(
    40, {"kd": {"temperature": 20, "alpha": 0.6}, "dkd": {"beta": 2}}, {"reffakd": {"gamma": 0.008}}
)

SPELLINGS = [
    ("scratch", "scratch"),
    ("kd", "kd"),
    ("kd+teacher", "kd"),
    ("kd:temperature=4", "kd"),
    ("kd:temperature=4.0:alpha=0.90", "kd"),
    ("kd:temperature=4+teacher", "kd"),
    ("kd:alpha=0.6:temperature=20", "kd:temperature=20:alpha=0.6"),
    ("kd:temperature=1e+1", "kd:temperature=10"),
    ("kd:temperature=1e+16", "kd:temperature=1e+16"),
    ("kd:temperature=.5", "kd:temperature=0.5"),
    ("kd:alpha=0", "kd:alpha=0"),
    ("kd:reduction=elementmean", "kd:reduction=elementmean"),
    ("dkd:beta=4", "dkd:beta=4"),
    ("dkd:warmup=20", "dkd"),
    ("dkd:warmup=0", "dkd:warmup=0"),
    ("dkd:warmup=1e+2+teacher", "dkd:warmup=100"),
    ("reffakd", "reffakd"),
    ("kd+reffakd", "reffakd"),
    ("kd:temperature=4+reffakd", "reffakd"),
    ("reffakd:gamma=auto", "reffakd"),
    ("kd+reffakd:per_class=40.0", "reffakd"),
    ("reffakd:gamma=0.0225", "reffakd:gamma=0.0225"),
    ("kd+reffakd:views=clean:gamma=1e-2", "reffakd:gamma=0.01:views=clean"),
    ("kd:alpha=0.5+reffakd", "kd:alpha=0.5+reffakd"),
    ("kd:temperature=1e+1+reffakd:gamma=2", "kd:temperature=10+reffakd:gamma=2"),
    ("dkd+reffakd", "dkd+reffakd"),
    ("dkd:beta=4+reffakd:draws=2", "dkd:beta=4+reffakd:draws=2"),
    ("kd+uniform", "kd+uniform"),
    ("kd+permuted:gamma=auto", "kd+permuted"),
    ("dkd+label_smoothing:target=pixels", "dkd+label_smoothing:target=pixels"),
    ("kd+teacher_mean:temperature=4.0", "kd+teacher_mean"),
    ("kd+file:kind=scores:path=a/b-1.0.npy", "kd+file:path=a/b-1.0.npy:kind=scores"),
    ("kd+file:path=1e+3=x.npy:kind=probabilities", "kd+file:path=1e+3=x.npy:kind=probabilities"),
    ("crd~kd", "crd~kd"),
    ("kd~crd", "crd~kd"),
    ("kd:alpha=1.0~crd:weight=0.80", "crd~kd"),
    ("kd:alpha=0.9~at", "at~kd:alpha=0.9"),
    ("at:p=3:weight=2~kd:temperature=1e+1+reffakd:gamma=2",
     "at:weight=2:p=3~kd:temperature=10+reffakd:gamma=2"),
    ("rkd~at~kd+teacher", "at~kd~rkd"),
    ("dkd:warmup=20~at", "at~dkd"),
    ("rkd~at", "at~rkd"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), SPELLINGS)
def test_every_method_has_one_spelling(text, name):
    method = resolve(text, PLAIN)
    assert method.name == name
    assert resolve(name, PLAIN) == method


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kd", "kd"),
        ("kd:temperature=20", "kd"),
        ("kd:temperature=4", "kd:temperature=4"),
        ("kd:alpha=0.9:temperature=4", "kd:temperature=4:alpha=0.9"),
        ("dkd:warmup=4", "dkd"),
        ("dkd:warmup=20", "dkd:warmup=20"),
        ("dkd:beta=8", "dkd:beta=8"),
        ("reffakd", "reffakd"),
        ("reffakd:gamma=0.008", "reffakd"),
        ("reffakd:gamma=8e-3", "reffakd"),
        ("reffakd:gamma=auto", "reffakd:gamma=auto"),
        ("kd:temperature=20+reffakd:gamma=0.008", "reffakd"),
        ("kd:temperature=4+reffakd", "kd:temperature=4+reffakd"),
    ],
)
def test_what_a_benchmark_sets_is_dropped_instead(text, name):
    method = resolve(text, SET)
    assert method.name == name
    assert resolve(name, SET) == method


def test_options_are_resolved_from_signature_length_and_benchmark():
    own = {name: option.default for name, option in options_of(DISTILLERS.find("kd")).items()}
    assert resolve("kd", SET).options == {**own, "temperature": 20.0, "alpha": 0.6}
    assert resolve("dkd", SET).options == {
        "temperature": 4.0, "alpha": 1.0, "beta": 2.0, "warmup": 4, "standardize": False,
    }  # fmt: skip
    assert resolve("dkd:beta=3", PLAIN).options == {
        "temperature": 4.0,
        "alpha": 1.0,
        "beta": 3.0,
        "warmup": 20,
        "standardize": False,
    }
    assert resolve("reffakd", SET).source_options["gamma"] == 0.008
    longer = Defaults(40, {"dkd": {"warmup": 7}}, {})
    assert resolve("dkd", longer).options["warmup"] == 7


def test_sums_take_what_a_benchmark_sets_but_for_their_own_defaults():
    options = resolve("dkd~kd", SET).options
    assert (options["kd.temperature"], options["kd.alpha"]) == (20.0, 1.0)
    assert (options["dkd.beta"], options["dkd.warmup"]) == (2.0, 4)
    assert resolve("dkd~kd:alpha=0.6", SET).name == "dkd~kd:alpha=0.6"
    both = Defaults(40, {**SET.methods, "kd~dkd": {"kd.alpha": 0.6}}, {})
    assert resolve("kd:alpha=0.6~dkd", both).name == "dkd~kd"
    assert resolve("dkd~kd", both).options["kd.alpha"] == 0.6


def test_a_mixtures_weights_are_all_spelled_or_none():
    set_here = Defaults(40, {}, {"mixture": {"teacher": 0.5, "reffakd": 0.5}, "reffakd": {"gamma": 0.008}})
    usual = resolve("kd+mixture", set_here)
    assert usual.name == "kd+mixture"
    assert resolve("kd+mixture:reffakd=0.5:teacher=0.5", set_here) == usual
    names = {
        resolve(f"kd+mixture:uniform=0.5:{other}=0.5", set_here).name for other in ("teacher", "reffakd")
    }
    assert names == {"kd+mixture:teacher=0.5:uniform=0.5", "kd+mixture:reffakd=0.5:uniform=0.5"}
    for name in names:
        assert resolve(name, set_here).name == name
    several = Defaults(40, {}, {"ensemble": {"teachers": "teacher/resnet8"}})
    assert resolve("kd+ensemble", several).name == "kd+ensemble"
    assert resolve("kd+ensemble:teachers=resnet8/teacher", several).name == "kd+ensemble"


def test_sources_with_dots_and_odd_defaults_leave_mixtures_alone():
    class Dotted(Source):
        """Its name begins like another's."""

        def __init__(self, *, limit: Count = None) -> None: ...

    class Mine(SOURCES.find("mixture")):
        """A mixture of one's own."""

    before = resolve("kd+mixture:teacher=0.5:reffakd=0.5", PLAIN)
    SOURCES.register("reffakd.v2")(Dotted)
    SOURCES.register("mine")(Mine)
    try:
        assert resolve("kd+mixture:teacher=0.5:reffakd=0.5", PLAIN) == before
        other = resolve("kd+mixture:reffakd.v2=0.5:reffakd=0.5:reffakd.v2.limit=3", PLAIN)
        assert other.source_options["reffakd.v2.limit"] == 3
        assert other.source_options["reffakd.v2"] == 0.5
    finally:
        for name in ("reffakd.v2", "mine"):
            SOURCES._module_dict.pop(name)


FOLLOWED = Defaults(40, {}, {"reffakd": {"gamma": 0.008, "draws": 3}, "permuted": {"draws": 2}})


@pytest.mark.parametrize(
    ("text", "name", "gamma", "draws"),
    [
        ("kd+permuted", "kd+permuted", 0.008, 2),
        ("kd+label_smoothing", "kd+label_smoothing", 0.008, 3),
        ("kd+label_smoothing:gamma=auto", "kd+label_smoothing:gamma=auto", "auto", 3),
        ("kd+permuted:draws=3:gamma=8e-3", "kd+permuted:draws=3", 0.008, 3),
        ("kd+pixels", "kd+pixels", "auto", 1),
        ("kd+random_cae", "kd+random_cae", "auto", 1),
    ],
)
def test_followers_take_what_a_benchmark_sets_for_the_source_that_they_follow(text, name, gamma, draws):
    method = resolve(text, FOLLOWED)
    assert method.name == name
    assert (method.source_options["gamma"], method.source_options["draws"]) == (gamma, draws)
    assert resolve(name, FOLLOWED) == method


def test_followers_take_only_options_that_they_have(monkeypatch):
    monkeypatch.setattr(SOURCES.find("teacher_mean"), "follows", "reffakd")
    assert resolve("kd+teacher_mean", FOLLOWED).source_options == {"temperature": 4.0, "views": "clean"}


def test_required_options_must_be_given_by_the_user_or_the_benchmark():
    with pytest.raises(UsageError) as caught:
        resolve("kd:alpha=2+file:knd=scores", PLAIN)
    assert [line.split(": ", 1)[1] for line in str(caught.value).splitlines()] == [
        "alpha must be a number in [0, 1], got '2'.",
        "there is no option 'knd'. Did you mean 'kind'?",
        "option 'path' must be given: a text.",
        "option 'kind' must be given: 'scores' or 'probabilities'.",
    ]
    half = Defaults(40, {}, {"file": {"kind": "scores"}})
    assert resolve("kd+file:path=a.npy", half).name == "kd+file:path=a.npy"
    assert resolve("kd+file:path=a.npy:kind=scores", half).name == "kd+file:path=a.npy"
    whole = Defaults(40, {}, {"file": {"kind": "scores", "path": "a.npy"}})
    assert resolve("kd+file", whole).name == "kd+file"
    with pytest.raises(UsageError, match="option 'path' must be given"):
        resolve("kd+file", half)


def test_a_spelling_that_no_record_can_hold_is_refused():
    longest = "kd+file:path=" + "a" * (1000 - len("kd+file:path=.npy:kind=scores")) + ".npy:kind=scores"
    assert len(resolve(longest, PLAIN).name) == 1000
    with pytest.raises(UsageError) as caught:
        resolve(longest.replace("kd", "dkd"), PLAIN)
    assert str(caught.value) == (
        "method dkd+file: its canonical spelling must be at most 1000 characters, got 1001."
    )


def test_options_after_reffakd_are_the_sources():
    method = resolve("reffakd:gamma=0.5:per_class=20", PLAIN)
    assert (method.distiller, method.source) == ("kd", "reffakd")
    assert method.options == resolve("kd", PLAIN).options
    assert method.source_options["gamma"] == 0.5
    assert method.source_options["per_class"] == 20
    assert method == resolve("kd+reffakd:per_class=20:gamma=0.5", PLAIN)


def test_who_takes_soft_labels_has_a_source():
    assert resolve("kd", PLAIN).source == "teacher"
    assert resolve("kd+uniform", PLAIN).source == "uniform"
    assert resolve("scratch", PLAIN).source is None


class Powered(Distiller):
    """A method whose choices are no texts."""

    def __init__(self, *, power: Literal[1, 2] = 1, mode: Literal["auto", True, 3] = "auto") -> None:
        super().__init__()


def test_choices_that_are_no_texts_keep_their_type_and_have_one_spelling(monkeypatch):
    DISTILLERS.names()
    monkeypatch.setitem(DISTILLERS.module_dict, "powered", Powered)
    for texts, name, expected in (
        (("powered", "powered:power=1", "powered:power=1.0:mode=auto"), "powered", [1, "auto"]),
        (("powered:power=2", "powered:mode=auto:power=2.0"), "powered:power=2", [2, "auto"]),
        (("powered:mode=true", "powered:mode=yes"), "powered:mode=true", [1, True]),
        (("powered:mode=3.0",), "powered:mode=3", [1, 3]),
    ):
        for text in (*texts, name):
            method = resolve(text, PLAIN)
            assert method.name == name
            # What a record holds.
            assert json.dumps(list(method.options.values())) == json.dumps(expected)
    assert resolve("powered", Defaults(1, {"powered": {"power": 2}}, {})).options["power"] == 2
    with pytest.raises(UsageError, match="power must be 1 or 2, got '3'"):
        resolve("powered:power=3", PLAIN)


def values(option):
    """Texts that an option accepts, and some spellings of one value."""
    found = [st.sampled_from(option.choices).map(spelled)] if option.choices else []
    for kind in option.kinds:
        low = max(getattr(option.interval, "low", -9), -9)
        high = min(getattr(option.interval, "high", 999), 999)
        exclude = bool(getattr(option.interval, "open_low", False))
        if kind is bool:
            found.append(st.sampled_from(["true", "no"]))
        elif kind is str:
            found.append(st.from_regex(r"[\w./=-]{1,9}", fullmatch=True))
        elif kind is int:
            numbers = st.integers(int(low), int(high))
            found.append(numbers.flatmap(lambda n: st.sampled_from([str(n), f"{n}.0", f"{n}e+0"])))
        else:
            numbers = st.floats(low, high, exclude_min=exclude)
            found.append(numbers.map(repr) | st.integers(int(low) + exclude, int(high)).map(str))
    return st.one_of(found)


SIMPLE = [name for name in SOURCES.names() if name != "mixture"]


@st.composite
def spellings(draw):
    def part(name, cls):
        options = options_of(cls)
        chosen = draw(st.lists(st.sampled_from(list(options)), unique=True)) if options else []
        chosen += [o for o in options if options[o].required and o not in chosen]
        given = {o: "b/teacher/a" if o == "teachers" else draw(values(options[o])) for o in chosen}
        return ":".join([name, *(f"{option}={value}" for option, value in given.items())])

    def mixed():
        names = draw(st.lists(st.sampled_from(SIMPLE), min_size=2, max_size=3, unique=True))
        shares = [0.25, 0.75] if len(names) == 2 else ["5e-1", 0.125, 0.375]
        words = [f"{name}={share}" for name, share in zip(names, shares, strict=True)]
        for name in names:
            own = part(name, SOURCES.find(name)).split(":")[1:]
            words += [f"{name}.{word}" for word in own]
        return ":".join(["mixture", *draw(st.permutations(words))])

    names = draw(st.lists(st.sampled_from(DISTILLERS.names()), min_size=1, max_size=3, unique=True))
    # Two that judge networks of their own are refused.
    cls = DISTILLERS.find("~".join(names))
    text = "~".join(part(name, DISTILLERS.find(name)) for name in names)
    source = draw(st.sampled_from([None, *SOURCES.names()]))
    if source is not None and "soft_labels" in cls.needs:
        text += "+" + (mixed() if source == "mixture" else part(source, SOURCES.find(source)))
    return text


@settings(deadline=None, max_examples=150)
@given(spellings(), st.sampled_from([PLAIN, SET]))
def test_the_canonical_spelling_means_the_same_method(text, defaults):
    method = resolve(text, defaults)
    again = resolve(method.name, defaults)
    assert again == method
    assert again.name == method.name


@pytest.mark.parametrize(
    "text",
    [
        *("", "kd+", "+kd", "kd:", "kd::alpha=1", "kd:temperature", "kd:=4", "kd:4=4", "kd temperature=4"),
        *("kd+reffakd+uniform", "kd+:gamma=1", ":alpha=1", "4kd"),
    ],
)
def test_what_is_no_sentence_of_the_grammar(text):
    with pytest.raises(UsageError) as caught:
        resolve(text, PLAIN)
    assert str(caught.value) == (
        f"method {text!r}: must be distiller[:name=value]*[+source[:name=value]*], "
        "for example dkd:beta=4 or kd:temperature=20+reffakd, or a sum of distillers in place of one, "
        "for example crd~kd."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kd:alpha=1:alpha=0", "option 'alpha' is given twice. Give it once."),
        ("reffakd:draws=1:draws=1", "option 'draws' is given twice."),
        ("crd~kd~at~pkt", "a sum must be of at most 3 distillers, each once, got 'crd~kd~at~pkt'."),
        ("kd~kd:alpha=0", "a sum must be of at most 3 distillers, each once, got 'kd~kd'."),
        ("crd~reffakd", "'reffakd' is a source of soft labels. Write crd~kd+reffakd."),
        ("dkd~kd~uniform", "'uniform' is a source of soft labels. Write dkd~kd+uniform."),
        ("at~kdd", "there is no distiller 'kdd'. Did you mean "),
        ("at~kd:pp=2", "there is no option 'kd.pp'. "),
        ("at:p=0~kd", "at.p must be a number in [1, inf), got '0'."),
        ("at~fitnet+reffakd", "'at~fitnet' reads the teacher's stages and takes no soft labels."),
        ("kdd", "there is no distiller 'kdd'. Did you mean "),
        ("refakd", "there is no distiller 'refakd'. Did you mean 'reffakd'"),
        ("kd+refakd", "there is no source 'refakd'. Did you mean 'reffakd'"),
        ("kd+kd", "there is no source 'kd'."),
        ("kd:temprature=4", "there is no option 'temprature'. Did you mean 'temperature'?"),
        ("kd+reffakd:temperature=4", "there is no option 'temperature'. "),
        ("kd:temperature=0", "temperature must be a number in (0, inf), got '0'."),
        ("kd:temperature=", "temperature must be a number in (0, inf), got ''."),
        ("kd:temperature=nan", "temperature must be a number in (0, inf), got 'nan'."),
        ("kd:temperature=inf", "temperature must be a number in (0, inf), got 'inf'."),
        ("kd:temperature=hot", "temperature must be a number in (0, inf), got 'hot'."),
        ("kd:alpha=1.5", "alpha must be a number in [0, 1], got '1.5'."),
        ("kd:reduction=sum", "reduction must be 'batchmean' or 'elementmean', got 'sum'."),
        ("dkd:warmup=2.5", "warmup must be an integer in [0, inf), got '2.5'."),
        ("dkd:beta=-1", "beta must be a number in [0, inf), got '-1'."),
        ("reffakd:gamma=-1", "gamma must be 'auto' or a number in [0, inf), got '-1'."),
        ("kd+reffakd:views=none", "views must be 'augmented' or 'clean', got 'none'."),
        ("scratch:alpha=1", "it has no options, got 'alpha'."),
        ("kd+uniform:gamma=1", "it has no options, got 'gamma'."),
        (
            "scratch+reffakd",
            "'scratch' learns from the labels alone and takes no soft labels. Write scratch, or ",
        ),
        ("scratch+teacher", "'scratch' learns from the labels alone"),
        ("teacher", "'teacher' is a source of soft labels. Write kd+teacher."),
        ("uniform", "'uniform' is a source of soft labels. Write kd+uniform."),
        ("reffakd+teacher", "'reffakd' is a source of soft labels. Write kd+reffakd."),
    ],
)
def test_every_mistake_is_answered_in_a_line(text, message):
    with pytest.raises(UsageError) as caught:
        resolve(text, PLAIN)
    assert str(caught.value).startswith(f"method {text!r}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_method_is_told_who_takes_the_source():
    takers = [n for n in DISTILLERS.names() if "soft_labels" in DISTILLERS.find(n).needs]
    with pytest.raises(UsageError) as caught:
        resolve("scratch+reffakd", PLAIN)
    advice = str(caught.value).partition("Write scratch, or ")[2]
    assert advice.split(" (")[0].rstrip(".").split(" or ") == [f"{n}+reffakd" for n in takers[:3]]


def test_many_takers_are_told_in_a_line(monkeypatch):
    monkeypatch.setattr(type(DISTILLERS), "names", lambda registry: ["ctkd", "dist", "dkd", "kd", "ls"])
    monkeypatch.setattr(type(DISTILLERS), "find", lambda *name: DISTILLERS._module_dict["kd"])
    assert _why_no_source("at", "uniform", frozenset()).endswith(
        "Write at, or ctkd+uniform or dist+uniform or dkd+uniform (or with kd, ls)."
    )


def test_all_mistakes_of_a_method_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        resolve("kd:temperature=0:alfa=1+reffakd:gamma=-1:draws=0", PLAIN)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for word in ("temperature", "alfa", "gamma", "draws"):
        assert sum(word in line.split(": ", 2)[-1] for line in lines) == 1


def test_parse_asks_nothing_of_the_registry():
    (distiller,), source = parse("nosuch:a=1:b=x=y+other:c=1e+3")
    assert (distiller.name, distiller.options) == ("nosuch", {"a": "1", "b": "x=y"})
    assert source is not None
    assert (source.name, source.options) == ("other", {"c": "1e+3"})
    assert parse("a.b-c")[0][0].name == "a.b-c"
    assert [part.name for part in parse("b~a:x=1~c+d")[0]] == ["b", "a", "c"]


def test_groups_and_lists():
    table8 = ["scratch", *(m for m in TABLE8 if m in universe())]
    assert groups()["table8"] == table8
    assert {"kd", "dkd", "dkd+reffakd", "reffakd"} <= set(table8)
    assert expand("table8") == table8
    everything = expand("all")
    assert everything[: len(table8)] == table8
    assert set(DISTILLERS.names()) <= set(everything)
    used = {resolve(m, PLAIN).source for m in everything}
    assert used - {None} == set(SOURCES.names()) - {"file", "ensemble", "mixture"}
    assert len(set(everything)) == len(everything)


def test_what_cannot_stand_alone_is_no_method_of_a_list(monkeypatch):
    """A file must be named; so must whatever else a plug-in requires."""

    class Needy(DISTILLERS.find("kd")):
        def __init__(self, *, given: str) -> None:
            super().__init__()

    DISTILLERS.names()
    monkeypatch.setitem(DISTILLERS._module_dict, "needy", Needy)
    for names in (universe(), expand("all"), expand("*"), expand("kd+*"), expand("*+*")):
        assert not [n for n in names if "file" in n or "needy" in n]
        assert "kd+label_smoothing" in names
    with pytest.raises(UsageError, match=r"nothing matches '\*\+file'"):
        expand("*+file")
    assert expand("kd+file:path=a.npy:kind=scores") == ["kd+file:path=a.npy:kind=scores"]


def test_every_spelling_there_is_resolves_to_itself():
    names = universe()
    assert len(set(names)) == len(names)
    assert [resolve(n, PLAIN).name for n in names] == names


def test_lists_keep_their_order_and_hold_each_once():
    assert expand("dkd, scratch,,dkd , kd") == ["dkd", "scratch", "kd"]
    assert expand(["kd:alpha=1", "reffakd,kd:alpha=1"]) == ["kd:alpha=1", "reffakd"]
    assert expand("kd,table8")[:2] == ["kd", "scratch"]
    assert expand("kd,table8").count("kd") == 1


def test_wildcards_match_every_spelling():
    takers = [n for n in DISTILLERS.names() if "soft_labels" in DISTILLERS.find(n).needs]
    with_reffakd = [m for m in universe() if resolve(m, PLAIN).source == "reffakd"]
    assert expand("*+reffakd") == with_reffakd
    assert len(with_reffakd) == len(takers)
    assert "reffakd" in with_reffakd
    assert expand("*") == universe()
    assert expand("kd+*") == [m for m in universe() if m == "reffakd" or m.startswith("kd+")]
    assert expand("?kd") == [n for n in DISTILLERS.names() if len(n) == 3 and n.endswith("kd")]
    assert set(expand("[dk]kd*,scratch")) >= {"dkd", "dkd+reffakd", "scratch"}


@pytest.mark.parametrize("methods", ["", " , ", [], [""]])
def test_an_empty_list_is_refused(methods):
    with pytest.raises(UsageError, match=r"^methods: must be a comma-separated list .* got an empty one\.$"):
        expand(methods)


def test_wildcards_that_match_nothing_are_all_named():
    with pytest.raises(UsageError) as caught:
        expand("x*,kd,*+zzz")
    lines = str(caught.value).splitlines()
    assert [line.split(".")[0] for line in lines] == [
        "methods: nothing matches 'x*'", "methods: nothing matches '*+zzz'",
    ]  # fmt: skip
    for names in (DISTILLERS.names(), set(SOURCES.names()) - {"file", "ensemble", "mixture"}):
        assert all(re.search(rf"\b{name}\b", lines[0]) for name in names)
    assert not any(name in lines[0] for name in ("file", "ensemble", "mixture"))
    assert len(lines[0]) < 500
