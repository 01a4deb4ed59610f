"""What there is: the pages of `kdzoo list`."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from tabulate import tabulate

from kdzoo.checks import options_of
from kdzoo.distillers import Distiller
from kdzoo.methods import groups
from kdzoo.models.base import is_family
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES, Registry
from kdzoo.results.costs import cost_of
from kdzoo.results.words import counted
from kdzoo.training.benchmark import benchmark_names, describe_benchmark, load_benchmark


def listing(what: str, *, verbose: bool) -> str:
    """Make one of the pages.

    Args:
        what: "methods", "sources", "benchmarks", "models" or "datasets".
        verbose: with papers, needs, versions and options.
    """
    if what == "methods":
        words = [f"{name} expands to {', '.join(methods)}" for name, methods in groups().items()]
        grammar = (
            "grammar: distiller[:name=value]*[+source[:name=value]*], with a sum of distillers such as "
            "crd~kd in place of one; wildcards such as *+reffakd expand"
        )
        return "\n\n".join([_registered(DISTILLERS, verbose), "\n".join([grammar, *words])])
    if what == "sources":
        return _registered(SOURCES, verbose)
    if what == "benchmarks":
        return _benchmarks(verbose)
    return _registered({"models": MODELS, "datasets": DATASETS}[what], verbose)


def _registered(registry: Registry, verbose: bool) -> str:
    things = {name: registry.find(name) for name in registry.names()}
    if not verbose:
        rows = [[_spelling(name, thing), _summary(thing)] for name, thing in things.items()]
        return str(tabulate(rows, tablefmt="plain"))
    return "\n\n".join(_page(_spelling(name, thing), thing) for name, thing in things.items())


def _spelling(name: str, thing: Any) -> str:
    return f"{name}:NAME" if is_family(thing) else name


def _summary(thing: Any) -> str:
    first = (inspect.getdoc(thing) or "").split("\n\n", 1)[0].replace("\n", " ")
    count = len(thing.members()) if is_family(thing) else 0
    return f"{first} ({count:,} networks)" if count else first


def _page(name: str, thing: Any) -> str:
    facts = [["paper", getattr(thing, "paper", "")], ["year", getattr(thing, "year", 0) or ""]]
    facts.append(["version", getattr(thing, "version", "")])
    if hasattr(thing, "needs"):
        told = getattr(thing, "follows_options", False)
        facts.append(["needs", "what its options name" if told else _needs(thing.needs)])
    if is_family(thing):
        facts.append(["names", thing.where])
    for what in ("trains", "classifiers", "builds"):
        if getattr(thing, what, ()):
            facts.append([what, ", ".join(getattr(thing, what))])
    if isinstance(thing, type) and issubclass(thing, Distiller):
        facts.append(["cost", cost_of(name)])
    if getattr(thing, "follows", ""):
        facts.append(["follows", f"{thing.follows}, in what a benchmark sets for it"])
    rows = [[k, v] for k, v in facts if v != ""]
    made_of_others = bool(getattr(thing, "part_names", list)())
    if made_of_others:
        rows.append(["NAME", "default 0; the weight of the source of that name"])
        rows.append(["NAME.OPTION", "an option of the source of that name"])
    options = {} if made_of_others else options_of(thing.build if is_family(thing) else thing)
    for option in options.values():
        default = str(option.default).lower() if isinstance(option.default, bool) else option.default
        usual = "required" if option.required else f"default {default}"
        rows.append([option.name, f"{usual}; {option.accepted}"])
        if option.doc:
            rows.append(["", option.doc])
    table = tabulate(rows, tablefmt="plain", maxcolwidths=[None, 88])
    return f"{name}: {_summary(thing)}\n{textwrap.indent(table, '  ')}"


def _needs(needs: frozenset[str]) -> str:
    """Say in words what a distiller or a source asks of others."""
    words = {
        "soft_labels": "soft labels (a teacher's, or those of any source)",
        "classifier": "a teacher and its classifier",
        "indices": "the samples' positions in the training set",
        "teacher": "a teacher",
    }
    features = sorted(needs - words.keys())
    said = [f"a teacher and its {' and '.join(features)}"] if features else []
    return "; ".join(said + [words[n] for n in sorted(needs & words.keys())]) or "nothing: no teacher"


def _benchmarks(verbose: bool) -> str:
    rows = [[name, describe_benchmark(name)] for name in benchmark_names()]
    if not verbose:
        return str(tabulate(rows, tablefmt="plain"))
    pages = []
    for name, words in rows:
        found = load_benchmark(name)
        facts = [[key, f"{s.network}, {counted(s.recipe.epochs, 'epochs')}, batch size {s.recipe.batch_size}"]
                 for key, s in {"student": found.student, **found.sections}.items()]  # fmt: skip
        facts += [["data", found.data], ["optimizer", str(dict(found.student.recipe.optimizer))]]
        facts += [["schedule", str([dict(s) for s in found.student.recipe.param_scheduler])]]
        pages.append(f"{name}: {words}\n{textwrap.indent(tabulate(facts, tablefmt='plain'), '  ')}")
    return "\n\n".join(pages)
