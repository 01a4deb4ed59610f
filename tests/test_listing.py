import re

import pytest

from kdzoo.checks import options_of
from kdzoo.listing import listing
from kdzoo.methods import groups
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES
from kdzoo.training.benchmark import benchmark_names, describe_benchmark

FAMILIES = {"timm", "torchvision", "module"}
PAGES = {"methods": DISTILLERS, "sources": SOURCES, "models": MODELS, "datasets": DATASETS}


@pytest.mark.parametrize("what", PAGES)
def test_pages_name_everything_registered_with_its_first_line(what):
    lines = listing(what, verbose=False).splitlines()
    for name in PAGES[what].names():
        first = PAGES[what].find(name).__doc__.splitlines()[0]
        shown = f"{name}:NAME" if name in FAMILIES else name
        assert any(line.split()[:1] == [shown] and first in line for line in lines), name


@pytest.mark.parametrize("what", PAGES)
def test_verbose_pages_have_papers_and_every_option(what):
    page = listing(what, verbose=True)
    for name in PAGES[what].names():
        thing = PAGES[what].find(name)
        if name in FAMILIES:
            thing, name = thing.build, f"{name}:NAME"
        own = page.split(f"\n\n{name}: ")[-1] if f"\n\n{name}: " in page else page
        own = own.split("\n\n")[0]
        assert getattr(thing, "paper", "").split(",")[0] in own
        if getattr(thing, "part_names", list)():
            assert {"NAME", "NAME.OPTION"} < {line.split()[0] for line in own.splitlines()}
            continue
        for option in options_of(thing).values():
            assert any(line.split()[:1] == [option.name] for line in own.splitlines()), option.name
            default = str(option.default).lower() if isinstance(option.default, bool) else option.default
            assert ("required; " if option.required else f"default {default}; ") in own


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("scratch", "nothing: no teacher"),
        ("kd", "soft labels (a teacher's, or those of any source)"),
        ("at", "a teacher and its stages"),
        ("rkd", "a teacher and its embedding"),
    ],
)
def test_methods_say_in_words_what_they_need_and_from_when_they_are(name, needs):
    pages = listing("methods", verbose=True).split("\n\n")
    (own,) = [page for page in pages if page.startswith(f"{name}: ")]
    assert re.search(rf"^  needs +{re.escape(needs)}$", own, re.MULTILINE)
    year = DISTILLERS.find(name).year
    assert bool(re.search(rf"^  year +{year}$", own, re.MULTILINE)) == bool(year)
    assert f", {year}" in own or f" {year}, " in own or not year


def test_pages_say_what_must_be_given_and_what_a_source_builds_and_follows():
    page = listing("sources", verbose=True)
    names = ("file", "random_cae", "permuted")
    own = {name: page.split(f"{name}: ", 1)[1].split("\n\n")[0] for name in names}
    assert "path     required; a text" in own["file"]
    assert "kind     required; 'scores' or 'probabilities'" in own["file"]
    assert "builds     autoencoder" in own["random_cae"]
    assert "follows    reffakd, in what a benchmark sets for it" in own["permuted"]


def test_families_say_how_many_networks_they_bring_and_what_lists_them():
    page = listing("models", verbose=False)
    counts = {name: len(MODELS.find(name).members()) for name in FAMILIES if MODELS.find(name).members()}
    assert counts["timm"] > 1000
    assert counts["torchvision"] >= 80
    for name, count in counts.items():
        assert re.search(rf"^{name}:NAME .* \({count:,} networks\)$", page, re.MULTILINE)
    assert "networks)" not in page.split("module:NAME", 1)[1].split("\n")[0]
    assert "names       timm.list_models()" in listing("models", verbose=True)


def test_methods_show_what_group_words_expand_to():
    page = listing("methods", verbose=False)
    for name, methods in groups().items():
        assert f"{name} expands to {', '.join(methods)}" in page
    assert "distiller[:name=value]*[+source[:name=value]*]" in page


@pytest.mark.parametrize("verbose", [False, True])
def test_benchmarks_are_all_there(verbose):
    page = listing("benchmarks", verbose=verbose)
    for name in benchmark_names():
        assert describe_benchmark(name) in page
        assert any(line.startswith(name) for line in page.splitlines())
    if verbose:
        assert "lenet5, 40 epochs, batch size 64" in page
        assert "'milestones': [12, 24, 32]" in page
