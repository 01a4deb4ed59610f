"""Networks of the user's own, or of any package, by their place in Python: module:package.module.Name."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from kdzoo.checks import UsageError, unknown
from kdzoo.models.base import Family, check_input
from kdzoo.models.external import External, told, where_possible
from kdzoo.models.external_trunk import AUTO, hooked
from kdzoo.provenance import plug_in, remember
from kdzoo.python_files import from_source
from kdzoo.registry import MODELS

# What a class or function may call the sizes that it is told.
_SYNONYMS = {
    "num_classes": ("num_classes",),
    "channels": ("channels", "in_chans", "in_channels"),
    "size": ("size", "img_size", "image_size"),
}


@MODELS.register("module")
class Module(Family):
    """Any other class or function that makes a network, by its place: module:package.module.Name."""

    example = "module:my_package.my_module.MyNet"
    where = "whatever can be imported from the Python path or the current directory"

    def __init__(self, member: str) -> None:
        self.who = f"model module:{member}"
        place, _, name = member.rpartition(".")
        if not place:
            raise UsageError(
                f"{self.who}: must say where it is, as module:package.module.Name does, for example "
                f"{self.example!r}."
            )
        found = vars(_imported(self.who, place))
        usable = [n for n, thing in found.items() if callable(thing) and not n.startswith("_")]
        if name not in found:
            raise unknown(self.who, f"class or function in {place}", name, usable or ["none"])
        if not (inspect.isclass(found[name]) or inspect.isroutine(found[name])):
            raise UsageError(f"{self.who}: {name} must be a class or a function, got {found[name]!r:.100}.")
        self._target: Callable[..., Any] = found[name]
        remember(self._target)

    @classmethod
    def members(cls) -> Sequence[str]:
        """List nothing: anything that can be imported will do."""
        return []

    def build(
        self,
        num_classes: int,
        channels: int,
        size: int,
        *,
        arguments: str = "",
        stages: str = AUTO,
        classifier: str = AUTO,
        embedding: str = AUTO,
    ) -> nn.Module:
        """Call the class or function with what its signature takes of num_classes, channels and size.

        Args:
            num_classes: classes K of its classifier.
            channels: channels of its input images, also as in_chans or in_channels.
            size: height and width of its input images in pixels, also as img_size or image_size.
            arguments: more for it, such as "depth=18,widths=(16,32)".
            stages: names of its modules whose outputs are the stages, fine to coarse, such as
                "layer1,layer2"; "auto" takes the last map of each size, at most the four coarsest, and "none"
                none.
            classifier: name of the module whose input is the embedding; "auto" takes the last linear layer
                (or convolution) that has as many outputs as there are classes.
            embedding: name of the module whose output is the embedding, in place of the classifier's input.
        """
        check_input(self.who, num_classes=num_classes, channels=channels, size=size)
        given = {"num_classes": num_classes, "channels": channels, "size": size}
        known = _taken(self._target)
        passed = {n: value for what, value in given.items() for n in _SYNONYMS[what] if n in known}
        passed |= _arguments(self.who, arguments)

        def make(real: bool) -> External:
            try:
                network = self._target(**passed)
            except Exception as error:
                what = f"{self._target.__name__}({', '.join(f'{n}={v!r}' for n, v in passed.items())}) failed"
                raise told(self.who, what, error) from error
            if not isinstance(network, nn.Module):
                raise UsageError(f"{self.who}: must give a torch.nn.Module, got {type(network).__name__}.")
            return hooked(
                self.who, network, num_classes, channels, size, stages=stages, classifier=classifier,
                embedding=embedding, do="Let it take num_classes, or give it what it takes in arguments.",
            )  # fmt: skip

        return where_possible(make)

    def origin(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Hash the files that define the network."""
        file = plug_in(self._target)
        return {"plug_in": file} if file else {}


def _imported(who: str, place: str) -> ModuleType:
    """Import a module from the Python path, or from the current directory, as scripts do."""
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        # Last, so that nothing here hides an installed package; for good, as the network may import later.
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        with from_source():
            return importlib.import_module(place)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{place}.".startswith(f"{missing}."):
            raise told(who, f"{place} cannot be imported", error) from error
    parent, _, last = missing.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    beside = [module.name for module in pkgutil.iter_modules(path)]
    raise unknown(who, f"module in {parent}" if parent else "module", last, beside or ["none"])


def _taken(target: Callable[..., Any]) -> set[str]:
    """List the arguments that a class or function takes by name."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _arguments(who: str, text: str) -> dict[str, Any]:
    """Read name=value, ...; values are Python literals, and words are texts."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        if not (isinstance(call, ast.Call) and plain and all(k.arg for k in call.keywords)):
            raise ValueError
        return {
            str(k.arg): k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
            for k in call.keywords
        }
    except (SyntaxError, ValueError):
        raise UsageError(f"{who}: arguments must be name=value,name=value, got {text!r}.") from None
