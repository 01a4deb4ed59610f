"""Sums of methods, as in crd~kd: the terms of two or three methods together, and one label term.

The public benchmarks add KD to a method of features so (the rows "CRD+KD" of Tian, Krishnan and Isola 2020,
"Contrastive Representation Distillation", https://arxiv.org/abs/1910.10699): labels and KD's term both have
weight 1, and the other method its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from kdzoo.checks import Option, UsageError, option_parts, options_of
from kdzoo.distillers.base import PREFIX_END, Digest, Distiller, build_distiller, check_terms, declared
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


class Sum(Distiller):
    """The terms of several methods, and one label term of the least weight that one of them leaves it.

    Options, terms and digests are those of the methods, called "crd.weight", "rkd/angle" and "at/map.0"; a
    method's only term is called by the method's name.

    Attributes:
        made_of: the methods' classes by name, in alphabetical order.
    """

    made_of: ClassVar[Mapping[str, type[Distiller]]] = {}
    # Of the rules for sums, beside the methods' own.
    version = 0

    def __init__(self, methods: Mapping[str, Distiller]) -> None:
        super().__init__()
        # A name may have a dot, which a module's may not.
        self._names = tuple(methods)
        self._methods = nn.ModuleList(methods.values())
        self.needs_scores = any(method.needs_scores for method in methods.values())
        self.pairs = tuple(dict.fromkeys(pair for method in methods.values() for pair in method.pairs))

    @property
    def methods(self) -> dict[str, Distiller]:
        """Give the methods by name."""
        return dict(zip(self._names, self._methods, strict=True))  # type: ignore[arg-type]

    @classmethod
    def stated_options(cls) -> dict[str, Option]:
        """Give the options of all methods, with the defaults that they have in a sum."""
        found = {}
        for name, part in cls.made_of.items():
            for option in options_of(part).values():
                default = part.sum_options.get(option.name, option.default)
                whole = f"{name}.{option.name}"
                found[whole] = replace(option, name=whole, default=default)
        return found

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Build each method for the pair of networks, as if it were alone."""
        methods = {}
        for name, part in cls.made_of.items():
            parted = {option_parts(option): value for option, value in options.items()}
            own = {option: value for (owner, option), value in parted.items() if owner == name}
            methods[name] = build_distiller(part, setting, own)
        built = cls(methods)
        built.options = options
        return built

    @classmethod
    def scaled_options(cls, epochs: int) -> dict[str, Any]:
        """Give those of the methods, but where a sum has defaults of its own."""
        return {
            f"{name}.{option}": value
            for name, part in cls.made_of.items()
            for option, value in part.scaled_options(epochs).items()
            if option not in part.sum_options
        }

    def label_weight(self, progress: Progress) -> float:
        """Leave the labels the least that one of the methods leaves them."""
        return min(method.label_weight_in_sum(progress) for method in self.methods.values())

    def readers(self) -> Mapping[str, Distiller]:
        """Give the methods, each with a digest of its own."""
        return {f"{name}{PREFIX_END}": method for name, method in self.methods.items()}

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep what each method keeps, which begins with its name."""
        return {
            f"{prefix}{name}": tensor
            for prefix, method in self.readers().items()
            if method.needs_teacher()
            for name, tensor in method.digest(declared(teacher, method.needs)).items()
        }

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the terms of all methods; each sees what it would see alone."""
        found: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            seen = declared(student, method.needs)._replace(logits=student.logits)
            read = batch if "indices" in method.needs else batch._replace(indices=None)
            own = method(seen, self._guide(name, method, guide), read, progress)
            check_terms(type(method).__name__, own)
            only = len(own) == 1
            found |= {name if only else f"{name}{PREFIX_END}{term}": value for term, value in own.items()}
        return found

    def _guide(self, name: str, method: Distiller, guide: Guide) -> Guide:
        start = f"{name}{PREFIX_END}"
        kept = {n.removeprefix(start): t for n, t in guide.teacher.items() if n.startswith(start)}
        soft_labels: Any = guide.soft_labels if "soft_labels" in method.needs else None
        return Guide(soft_labels, Digest(kept))

    def deployed(self, student: nn.Module) -> nn.Module:
        """Give the network that the one method judges which does not judge the student alone."""
        for method in self.methods.values():
            if _deploys(type(method)):
                return method.deployed(student)
        return student


def _deploys(method: type[Distiller]) -> bool:
    return method.deployed is not Distiller.deployed


@DISTILLERS.join
def summed(methods: Mapping[str, type[Distiller]]) -> type[Sum]:
    """Make the class of a sum.

    Args:
        methods: classes by name.

    Returns:
        A class that declares what all of them declare.

    Raises:
        UsageError: more than one of them judges another network than the student.
    """
    name, classes = "~".join(methods), list(methods.values())
    if taken := sorted(methods.keys() & {"label", "loss"}):
        raise UsageError(f"{name}: a sum cannot have {taken[0]!r}, which is the name of a term. Rename it.")
    deploying = [part for part in methods if _deploys(methods[part])]
    if len(deploying) > 1:
        raise UsageError(
            f"{name}: {' and '.join(deploying)} each judge a network of their own, not the student alone. "
            "Take one of them."
        )
    reading = [part for part in classes if part.needs_teacher()]
    read = [f"{part}.{option}" for part, own in methods.items() for option in own.digest_options]
    declares: dict[str, Any] = {
        "__doc__": f"The sum of {' and '.join(methods)}: their terms, and one label term.",
        "__module__": __name__,
        "made_of": dict(methods),
        "needs": frozenset().union(*(part.needs for part in classes)),
        "paper": "; ".join(part.paper for part in classes),
        "year": max(part.year for part in classes),
        # It rises whenever that of one of them does.
        "version": Sum.version + sum(part.version for part in classes),
        "digest_options": tuple(read),
        "digest_scope": "batch" if any(part.digest_scope == "batch" for part in reading) else "sample",
    }  # fmt: skip
    if deploying:
        own = methods[deploying[0]]
        declares["redeployed"] = classmethod(lambda cls, student, weights: own.redeployed(student, weights))
    return type(name, (Sum,), declares)
