"""The method grammar: `distiller[:name=value]*[+source[:name=value]*]`, its shorthands and its one canonical
spelling; in place of a distiller may stand a sum of two or three.

kd    dkd:beta=4    dkd+reffakd    kd:temperature=20:alpha=0.6+reffakd:gamma=auto    reffakd = kd+reffakd
crd~kd    at~kd:alpha=0.5    at~kd+reffakd
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kdzoo.checks import (
    Problems,
    UsageError,
    checked,
    option_parts,
    options_of,
    spelled,
    told_by,
    unknown,
    usage,
)

# Doshi and Kim 2024, Table 8, from left to right, behind the teacher and the student on its own.
TABLE8 = ("at", "kd", "fitnet", "kdsvd", "pkt", "rkd", "dkd", "dkd+reffakd", "reffakd")

# Words that stand for several methods.
GROUPS = ("table8", "all")

# Between the distillers of a sum, and how many there are at most.
JOINT = "~"
MOST_JOINED = 3

# Of a canonical spelling, in characters: more no record takes.
LONGEST = 1000

# What may be registered; with the member of a family behind it, as it is spelled; and with options.
NAME = re.compile(r"[A-Za-z_][\w.-]*")
_MEMBER = re.compile(NAME.pattern + r"(:[A-Za-z_][\w./-]*)?")
_PART = re.compile(NAME.pattern + r"(:[A-Za-z_][\w.-]*=[^:]*)*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=[^:]*", re.DOTALL)
# A plus sign before a digit belongs to a number such as 1e+3.
_PLUS = re.compile(r"\+(?=[A-Za-z_])")


@dataclass(frozen=True)
class Part:
    """A distiller or a source as somebody spelled it."""

    name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """A method with every option resolved.

    Attributes:
        name: the canonical spelling, which records and tables show.
        distiller: registered name; those of a sum in alphabetical order, joined by "~".
        options: all options of the distiller; those of a sum as "crd.weight".
        source: registered name of the source of soft labels, None where the method uses none.
        source_options: all options of the source.
        source_content: what the source reads beside them, such as the hash of a file; empty until planned.
    """

    name: str
    distiller: str
    options: Mapping[str, Any]
    source: str | None
    source_options: Mapping[str, Any]
    source_content: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """What a benchmark sets where the user is silent, by distiller and by source."""

    epochs: int
    methods: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, Any]]


def parse(text: str) -> tuple[tuple[Part, ...], Part | None]:
    """Split a spelling into its distiller, or those of a sum, and its source, without asking whether they
    exist.

    Raises:
        UsageError: it does not follow the grammar.
    """
    who, (joined, *sources) = f"method {text!r}", _PLUS.split(text)
    summed = joined.split(JOINT)
    if len(sources) > 1 or not all(_PART.fullmatch(part) for part in (*summed, *sources)):
        raise UsageError(
            f"{who}: must be distiller[:name=value]*[+source[:name=value]*], for example dkd:beta=4 or "
            "kd:temperature=20+reffakd, or a sum of distillers in place of one, for example crd~kd."
        )
    distillers = tuple(_part(who, part) for part in summed)
    names = [part.name for part in distillers]
    if len(names) > MOST_JOINED or len(set(names)) < len(names):
        raise usage(who, "a sum", f"of at most {MOST_JOINED} distillers, each once", JOINT.join(names))
    return distillers, (_part(who, sources[0]) if sources else None)


def _part(who: str, text: str) -> Part:
    name, *assignments = text.split(":")
    return Part(name, _pairs(who, assignments))


def parse_part(who: str, text: str) -> Part:
    """Split the spelling of a network or a data set, without asking whether it exists.

    Args:
        who: what is spelled, for the message: "--student".
        text: `name[:option=value]*`; a name may be of a family, as in `timm:resnet50:pretrained=true`.

    Raises:
        UsageError: it does not follow the grammar.
    """
    name, *rest = text.split(":")
    if rest and "=" not in rest[0]:
        name = f"{name}:{rest.pop(0)}"
    if not _MEMBER.fullmatch(name) or not all(_ASSIGNMENT.fullmatch(part) for part in rest):
        raise usage(
            who,
            "its value",
            "name[:option=value]*",
            text,
            "For example resnet18 or timm:resnet50:pretrained=true.",
        )
    return Part(name, _pairs(who, rest))


def _pairs(who: str, assignments: list[str]) -> dict[str, str]:
    pairs = [a.split("=", 1) for a in assignments]
    doubled = sorted({n for n, _ in pairs if [m for m, _ in pairs].count(n) > 1})
    if doubled:
        raise UsageError(f"{who}: option {doubled[0]!r} is given twice. Give it once.")
    return dict(pairs)


def resolve(text: str, defaults: Defaults) -> Method:
    """Resolve a spelling against what is registered.

    Args:
        text: one method, no wildcard.
        defaults: the benchmark's.

    Raises:
        UsageError: the grammar, a name, an option or a combination is wrong.
    """
    from kdzoo.registry import DISTILLERS, SOURCES

    who = f"method {text!r}"
    distillers, source = parse(text)
    if len(distillers) == 1 and source is None and _is_source(distillers[0].name):
        shorthand = SOURCES.find(distillers[0].name).shorthand
        if shorthand:
            distillers, source = (Part(shorthand, {}),), distillers[0]
    problems = Problems()
    for part in distillers:
        with problems:
            _check_distiller(who, part.name, [p.name for p in distillers])
    problems.raise_all()
    distiller = _joined(distillers)
    cls = DISTILLERS.find(distiller.name, who)
    usual = _usual(cls, cls.scaled_options(defaults.epochs), _configured(distillers, defaults.methods), who)
    options, source_options = usual, {}
    with problems:
        options = checked(who, options_of(cls), {**usual, **distiller.options})
    name = _spelled(distiller.name, options, usual)
    if "soft_labels" not in cls.needs:
        with problems:
            if source is not None:
                SOURCES.find(source.name, who)
                raise UsageError(f"{who}: {_why_no_source(distiller.name, source.name, cls.needs)}")
        problems.raise_all()
        return Method(name, distiller.name, options, None, {})

    source = source or Part("teacher", {})
    with problems:
        kind = SOURCES.find(source.name, who)
        usual_source = _usual_source(source, defaults, who)
        source_options = checked(who, options_of(kind), {**usual_source, **source.options})
        with told_by(who):
            source_options = kind.resolved(source_options, source.options)
    problems.raise_all()
    spelled_source = _spelled(source.name, source_options, _unspelled(kind, source_options, defaults, who))
    if kind.shorthand == name:
        name = spelled_source
    elif spelled_source != "teacher":
        name = f"{name}+{spelled_source}"
    if len(name) > LONGEST:
        who = f"method {distiller.name}+{source.name}"
        raise usage(who, "its canonical spelling", f"at most {LONGEST} characters", len(name))
    return Method(name, distiller.name, options, source.name, source_options)


def _usual(target: type, scaled: Mapping[str, Any], config: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Give the options where the user is silent; one that is required may be missing."""
    return checked(who, options_of(target), {**scaled, **config}, partly=True)


def _usual_source(source: Part, defaults: Defaults, who: str) -> dict[str, Any]:
    """Give a source's options where the user is silent; of a mixture also what is set for its sources. Who
    gives it weights gives them all."""
    from kdzoo.registry import SOURCES

    kind = SOURCES.find(source.name)
    parts, config = kind.part_names(), dict(defaults.sources.get(source.name, {}))
    inherited = _inherited(kind, defaults)
    for part in parts:
        own = _inherited(SOURCES.find(part), defaults) | dict(defaults.sources.get(part, {}))
        inherited |= {f"{part}.{option}": value for option, value in own.items()}
    if not source.options.keys().isdisjoint(parts):
        config = {option: value for option, value in config.items() if option not in parts}
    return _usual(kind, inherited, config, who)


def _inherited(kind: Any, defaults: Defaults) -> dict[str, Any]:
    """Give what a benchmark sets for the source that another follows, as far as that has these options."""
    known = options_of(kind)
    return {
        option: value for option, value in defaults.sources.get(kind.follows, {}).items() if option in known
    }


def _unspelled(kind: Any, options: Mapping[str, Any], defaults: Defaults, who: str) -> dict[str, Any]:
    """Give the options that need not be spelled, as they are the usual ones: of a mixture all of its weights
    or none."""
    from kdzoo.registry import SOURCES

    name = next(n for n in SOURCES.names() if SOURCES.find(n) is kind)
    usual = _usual_source(Part(name, {}), defaults, who)
    with suppress(UsageError, KeyError):
        usual = kind.resolved(usual, ())
    parts = kind.part_names()
    if [(n, options.get(n)) for n in parts] == [(n, usual.get(n)) for n in parts]:
        return usual
    return {option: value for option, value in usual.items() if option not in parts}


def _is_source(name: str) -> bool:
    from kdzoo.registry import DISTILLERS, SOURCES

    return name not in DISTILLERS.names() and name in SOURCES.names()


def _check_distiller(who: str, name: str, names: Sequence[str]) -> None:
    """Refuse what is no distiller, one of a sum or alone."""
    from kdzoo.registry import BY_PLUGIN, DISTILLERS

    if _is_source(name):
        others = [n for n in names if n not in (name, "kd")]
        advice = f"{JOINT.join(sorted([*others, 'kd']))}+{name}"
        raise UsageError(f"{who}: {name!r} is a source of soft labels. Write {advice}.")
    if name not in DISTILLERS.names():
        raise unknown(who, "distiller", name, [*DISTILLERS.names(), *_shorthands()], BY_PLUGIN)


def _joined(distillers: Sequence[Part]) -> Part:
    """Give the distillers of a sum as one, whatever their order; one alone as it is."""
    if len(distillers) == 1:
        return distillers[0]
    ordered = sorted(distillers, key=lambda part: part.name)
    options = {f"{part.name}.{option}": value for part in ordered for option, value in part.options.items()}
    return Part(JOINT.join(part.name for part in ordered), options)


def _configured(distillers: Sequence[Part], methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Give what a benchmark sets for a distiller; for those of a sum, but what a sum has its own defaults
    for."""
    from kdzoo.registry import DISTILLERS

    names = sorted(part.name for part in distillers)
    found: dict[str, Any] = {}
    for name in names if len(names) > 1 else ():
        own, given = DISTILLERS.find(name).sum_options, methods.get(name, {})
        found |= {f"{name}.{option}": value for option, value in given.items() if option not in own}
    for name, given in methods.items():
        # A config may name the distillers of a sum in any order.
        found |= given if sorted(name.split(JOINT)) == names else {}
    return found


def _spelled(name: str, options: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """Write a distiller or a source with the options that are not the usual ones; a sum part by part."""
    other = {option: value for option, value in options.items() if (option, value) not in usual.items()}
    parts = name.split(JOINT)
    if len(parts) == 1:
        return ":".join([name, *(f"{option}={spelled(value)}" for option, value in other.items())])
    own: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for option, value in other.items():
        part, short = option_parts(option)
        own[part][short] = value
    return JOINT.join(_spelled(part, own[part], {}) for part in parts)


def _why_no_source(distiller: str, source: str, needs: frozenset[str]) -> str:
    from kdzoo.registry import DISTILLERS

    takes = [n for n in DISTILLERS.names() if "soft_labels" in DISTILLERS.find(n).needs]
    what = f"reads the teacher's {' and '.join(sorted(needs))}" if needs else "learns from the labels alone"
    advice = " or ".join(f"{n}+{source}" for n in takes[:3])
    more = f" (or with {', '.join(takes[3:])})" if takes[3:] else ""
    return f"{distiller!r} {what} and takes no soft labels. Write {distiller}, or {advice}{more}."


def _shorthands() -> list[str]:
    from kdzoo.registry import SOURCES

    return [n for n in SOURCES.names() if SOURCES.find(n).shorthand]


def universe() -> list[str]:
    """List every spelling without options that there is: each distiller, and each logit distiller with each
    source. What has options that must be given has no such spelling."""
    from kdzoo.registry import DISTILLERS

    names = _complete(DISTILLERS)
    for distiller in _complete(DISTILLERS):
        if "soft_labels" in DISTILLERS.find(distiller).needs:
            names += _with_sources(distiller)
    return names


def _complete(registry: Any) -> list[str]:
    """List what a registry has that works without any option given."""
    things = {name: registry.find(name) for name in registry.names()}
    return [
        name for name, thing in things.items()
        if not getattr(thing, "needs_options", False)
        and not any(option.required for option in options_of(thing).values())
    ]  # fmt: skip


def _with_sources(distiller: str) -> list[str]:
    """List the spellings of a distiller with each source other than its teacher."""
    from kdzoo.registry import SOURCES

    sources = [s for s in _complete(SOURCES) if s != "teacher"]
    return [s if SOURCES.find(s).shorthand == distiller else f"{distiller}+{s}" for s in sources]


def groups() -> dict[str, list[str]]:
    """Give the words that stand for several methods, and what each of them expands to."""
    from kdzoo.registry import DISTILLERS

    everything = universe()
    table8 = [m for m in TABLE8 if m in everything]
    all_methods = ["scratch", *table8, *_complete(DISTILLERS), *_with_sources("kd")]
    return dict(zip(GROUPS, (["scratch", *table8], list(dict.fromkeys(all_methods))), strict=True))


def listed(methods: str | Sequence[str]) -> list[str]:
    """Split a comma-separated list, or a list of such lists, into its words.

    Args:
        methods: as `expand` takes them.

    Raises:
        UsageError: there is none.
    """
    texts = [methods] if isinstance(methods, str) else list(methods)
    words = [word.strip() for text in texts for word in str(text).split(",") if word.strip()]
    if not words:
        raise UsageError(
            "methods: must be a comma-separated list such as scratch,dkd,reffakd, got an empty one."
        )
    return words


def expand(methods: str | Sequence[str]) -> list[str]:
    """Expand a comma-separated list, or a list of such lists, with its group words and wildcards.

    Args:
        methods: for example "dkd,reffakd", ["kd", "*+reffakd"], "table8", "all".

    Returns:
        Spellings in the order given, each once.

    Raises:
        UsageError: the list is empty, or a wildcard matches nothing.
    """
    named = groups()
    found: list[str] = []
    problems = Problems()
    for word in listed(methods):
        with problems:
            found.extend(_expanded(word, named))
    problems.raise_all()
    return list(dict.fromkeys(found))


def _expanded(word: str, named: Mapping[str, Iterable[str]]) -> list[str]:
    from kdzoo.registry import DISTILLERS, SOURCES

    if word in named:
        return list(named[word])
    if any(sign in word for sign in "*?["):
        # kd+reffakd is spelled reffakd, but *+reffakd shall find it.
        long = {m: m if "+" in m or m not in _shorthands() else f"kd+{m}" for m in universe()}
        matching = [
            m for m, text in long.items() if fnmatch.fnmatchcase(m, word) or fnmatch.fnmatchcase(text, word)
        ]
        if not matching:
            # Not every spelling: each distiller of soft labels with each source is a page of them.
            raise UsageError(
                f"methods: nothing matches {word!r}. There are: {', '.join(_complete(DISTILLERS))}; and with "
                f"sources of soft labels, as in kd+reffakd: {', '.join(_complete(SOURCES))}."
            )
        return matching
    return [word]
