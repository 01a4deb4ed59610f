"""What every argument of a method means stands in its docstring, for people who do not know the code."""

import importlib
import inspect
import pkgutil
import re

import pytest
import torch

import kdzoo.distillers
import kdzoo.functional
import kdzoo.sources
from kdzoo.checks import options_of


def public():
    for package in (kdzoo.distillers, kdzoo.functional, kdzoo.sources):
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            for name, thing in vars(module).items():
                own = getattr(thing, "__module__", None) == module.__name__
                if own and not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
                    yield f"{module.__name__}.{name}", thing


THINGS = dict(public())
FUNCTIONS = [name for name, thing in THINGS.items() if inspect.isfunction(thing)]
CLASSES = [name for name, thing in THINGS.items() if inspect.isclass(thing)]


def documented(thing) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", inspect.getdoc(thing) + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section.group(1), re.MULTILINE) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def test_what_this_version_brings_is_looked_at():
    assert {"kdzoo.distillers.kd.kd_loss", "kdzoo.functional.divergences.kl_divergence"} <= set(FUNCTIONS)
    assert {"kdzoo.distillers.dkd.DKD", "kdzoo.sources.reffakd.ReffAKD"} <= set(CLASSES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_document_each_argument(name):
    thing = THINGS[name]
    parameters = list(inspect.signature(thing).parameters)
    assert list(documented(thing)) == parameters


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_come_with_their_shapes(name):
    thing = THINGS[name]
    # Annotations are texts, as everywhere in the package.
    tensors = [
        n for n, p in inspect.signature(thing).parameters.items() if p.annotation in ("Tensor", "SoftLabels")
    ]
    for parameter in tensors:
        assert "[" in documented(thing)[parameter], parameter
    if inspect.signature(thing).return_annotation == "Tensor":
        assert re.search(r"^Returns:\n    .*(\[|[Ss]calar)", inspect.getdoc(thing), re.MULTILINE)
    assert torch.Tensor.__name__ == "Tensor"


@pytest.mark.parametrize("name", CLASSES)
def test_classes_document_each_option_and_each_method(name):
    cls = THINGS[name]
    assert inspect.getdoc(cls)
    for option in options_of(cls).values():
        assert option.doc, option.name
    for method, function in vars(cls).items():
        if inspect.isfunction(function) and not method.startswith("_"):
            assert inspect.getdoc(function), method
