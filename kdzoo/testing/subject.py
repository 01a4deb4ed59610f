"""A distiller under check: how it is built, what one step of it gives, and all numbers of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdzoo.checks import FormError, UsageError, options_of
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.outputs import Guide, ModelOutput, Progress, Setting, mapped, probabilities, scores
from kdzoo.testing.contract import ContractError, Unusable, built, seed, told_error
from kdzoo.testing.inputs import POSITIONS, Case
from kdzoo.testing.networks import NetworkPair
from kdzoo.testing.options import alternatives


@dataclass(frozen=True)
class Subject:
    """A distiller under check.

    Attributes:
        cls: its class.
        options: set for all checks.
        cases: batches; the first is the ordinary one.
        pairs: real networks.
        before: what its class held before any rule.
    """

    cls: type[Distiller]
    options: Mapping[str, Any]
    cases: tuple[Case, ...]
    pairs: tuple[NetworkPair, ...]
    before: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", class_state(self.cls))
        if isinstance(self.cls.needs, Set) and "classifier" not in self.cls.needs:
            # Nobody gets it, and copies of modules take longer than all else that most rules do.
            object.__setattr__(self, "cases", tuple(case._replace(head=None) for case in self.cases))

    @property
    def ordinary(self) -> Case:
        """Give a copy of the ordinary case."""
        return self.cases[0].fresh()

    def build(self, case: Case, start: int = 0, /, **options: Any) -> Distiller:
        """Build the distiller for a case, in training mode as a member trains it.

        An option may have any name, "start" too.

        Raises:
            Unusable: it cannot be built for the ordinary case.
            UsageError: it refuses the case.
        """
        if options or case.name != self.cases[0].name:
            distiller = self.build_for(case.setting, start, **options)
            if distiller.needs_scores and case.probabilities is not None:
                # As a run refuses the method with a source that gives some.
                raise UsageError(f"{self.cls.__name__}: it takes no soft labels that are probabilities.")
            return distiller
        with built():
            try:
                return self.build_for(case.setting, start)
            except (TypeError, AttributeError) as error:
                raise Unusable(
                    f"it cannot be built: {told_error(error)}. It gets the fields that it declares, needs = "
                    f"{sorted(self.cls.needs)}, and None for all others."
                ) from error

    def build_for(self, setting: Setting, start: int = 0, /, **options: Any) -> Distiller:
        """Build the distiller for a setting, as if its initial weights were keyed by `start`."""
        with torch.random.fork_rng(devices=[]):
            seed(start)
            return build_distiller(self.cls, setting, {**self.options, **options}).train()

    def each_case(self) -> Iterator[tuple[Case, Distiller]]:
        """Give a copy of each case, and the distiller built for it; none that it refuses but the first."""
        for case in self.cases:
            fresh = case.fresh()
            try:
                with told(f"with {case.name!r}"):
                    distiller = self.build(fresh)
            except UsageError:
                if case is self.cases[0]:
                    raise
                continue
            yield fresh, distiller

    def other_options(self) -> Iterator[tuple[str, Any]]:
        """Give each option that is not set for all checks with each value that it accepts."""
        for name, option in options_of(self.cls).items():
            if name not in self.options:
                yield from ((name, value) for value in alternatives(option))


def class_state(cls: type[Distiller]) -> dict[str, Any]:
    """Describe what a class and those it inherits from hold, so that a change shows."""
    own = [c for c in cls.__mro__ if issubclass(c, Distiller) and c is not Distiller]
    return {f"{c.__name__}.{n}": _content(v) for c in own for n, v in vars(c).items() if n[:2] != "__"}


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value) if isinstance(value, Collection) else id(value)


def guide_of(distiller: Distiller, case: Case) -> Guide:
    """Make what a member gets, as a cohort makes it: without gradients, and seeded."""
    seed(1)
    with torch.no_grad():
        digest = distiller.detached_digest(case.teacher) if distiller.needs_teacher() else {}
        given = case.probabilities
        soft_labels: Any = None
        if "soft_labels" in distiller.needs:
            soft_labels = scores(case.teacher.logits) if given is None else probabilities(given)
    return Guide(soft_labels, copy.copy(digest))


def step(
    distiller: Distiller, case: Case, progress: Progress = POSITIONS[0], guide: Guide | None = None
) -> dict[str, Tensor]:
    """Give all terms of one step, as a member computes them."""
    guide = guide_of(distiller, case) if guide is None else guide
    batch = case.batch if "indices" in distiller.needs else case.batch._replace(indices=None)
    seed(2)
    return distiller.terms(case.student, guide, batch, progress)


def leaves(case: Case) -> dict[str, Tensor]:
    """Name the student's outputs, which take gradients."""
    return named(case.student)


def named(output: ModelOutput) -> dict[str, Tensor]:
    """Name the tensors of an output."""
    found: dict[str, Tensor] = {}
    for part, value in output._asdict().items():
        if isinstance(value, tuple):
            found |= {f"{part}.{i}": tensor for i, tensor in enumerate(value)}
        elif value is not None:
            found[part] = value
    return found


def gradients(
    distiller: Distiller, case: Case, terms: Mapping[str, Tensor], *, keep: bool = False
) -> dict[str, Tensor | None]:
    """Give the gradient of all terms together by student's output and by parameter.

    Args:
        distiller: its parameters that take gradients.
        case: its student's outputs.
        terms: of a step.
        keep: whether the graph is needed once more.
    """
    inputs = leaves(case) | {n: p for n, p in distiller.named_parameters() if p.requires_grad}
    total = torch.stack(list(terms.values())).sum() if terms else None
    if total is None or not total.requires_grad:
        return dict.fromkeys(inputs)
    found = torch.autograd.grad(total, list(inputs.values()), allow_unused=True, retain_graph=keep)
    return dict(zip(inputs, found, strict=True))


def numbers(distiller: Distiller, case: Case, positions: Sequence[Progress] = POSITIONS) -> list[Any]:
    """Give everything that an option may change, as plain numbers: terms, gradients, label weights."""
    found: list[Any] = []
    for progress in positions:
        terms = step(distiller, case, progress)
        slopes = gradients(distiller, case, terms)
        found.append(distiller.label_weight(progress))
        found.append({n: _number(t) for n, t in terms.items()})
        found.append({n: None if g is None else _number(g.double().norm()) for n, g in slopes.items()})
    return found


def _number(scalar: Tensor) -> float | str:
    """Give a number that equals itself: what is not finite is another rule's matter."""
    value = scalar.item()
    return "nan" if math.isnan(value) else value


@contextmanager
def told(where: str) -> Iterator[None]:
    """Say where a fault was seen, of whatever is raised but refusals."""
    try:
        yield
    except (ContractError, FormError, UsageError):
        raise
    except Exception as error:
        raise ContractError(f"it raises {type(error).__name__} {where}: {error}") from error


def place(case: Case, progress: Progress) -> str:
    """Say in words where a fault was seen."""
    return f"with {case.name!r} in epoch {progress.epoch} of {progress.epochs}"


def check_finite(distiller: Distiller, case: Case, progress: Progress, also: str = "") -> None:
    """Take a step, and raise where a term or a gradient is not finite.

    Args:
        distiller: built for the case.
        case: a batch.
        progress: where training stands.
        also: what else is special, for the message.

    Raises:
        ContractError: which term or gradient, and where.
    """
    where = place(case, progress) + also
    with told(where):
        terms = step(distiller, case, progress)
        slopes = gradients(distiller, case, terms)
    for name, term in terms.items():
        if not term.isfinite().all():
            raise ContractError(f"term {name!r} is {term.flatten()[0].item()} {where}.")
    for name, gradient in slopes.items():
        if gradient is not None and not gradient.isfinite().all():
            raise ContractError(f"the gradient of {name} is not finite {where}.")


def selected(output: ModelOutput, rows: Tensor) -> ModelOutput:
    """Give some samples of an output alone."""
    return ModelOutput(*mapped(output, lambda tensor: tensor[rows]))
