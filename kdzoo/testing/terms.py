"""Rules about the terms of a loss: their form, the weight left to the labels, and what they teach."""

from __future__ import annotations

import math

from kdzoo.outputs import Progress
from kdzoo.testing.contract import ContractError
from kdzoo.testing.inputs import POSITIONS
from kdzoo.testing.subject import Subject, gradients, place, step, told

EPOCHS = (1, 2, 40, 240)


def returns_named_scalars(subject: Subject) -> None:
    """A step gives a mapping of names to scalars, the same names whatever the batch, and one term or more."""
    names: dict[int, list[str]] = {}
    for case, distiller in subject.each_case():
        for progress in POSITIONS:
            with told(place(case, progress)):
                terms = step(distiller, case, progress)
            expected = names.setdefault(progress.epoch, list(terms))
            if list(terms) != expected:
                raise ContractError(
                    f"its terms must be the same in all steps of an epoch, got {list(terms)}, "
                    f"before that {expected}."
                )


def label_weight_is_a_finite_number(subject: Subject) -> None:
    """The factor of cross-entropy is a number from 0 on in every epoch, however many there are."""
    distiller = subject.build(subject.ordinary)
    for progress in (Progress(epoch, epochs, epoch % 2, 2) for epochs in EPOCHS for epoch in range(epochs)):
        where = f"in epoch {progress.epoch} of {progress.epochs}"
        with told(where):
            weight = distiller.label_weight(progress)
        if not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
            raise ContractError(f"label_weight must be a number from 0 on, got {weight!r} {where}.")


def every_term_trains_something(subject: Subject) -> None:
    """Every term has a gradient at some time, to student or parameters, and every parameter has one."""
    case = subject.ordinary
    distiller = subject.build(case)
    still = {n for n, p in distiller.named_parameters() if p.requires_grad}
    names: set[str] = set()
    taught: set[str] = set()
    for progress in POSITIONS:
        terms = step(distiller, case, progress)
        for name, term in terms.items():
            slopes = gradients(distiller, case, {name: term}, keep=True)
            moved = {n for n, g in slopes.items() if g is not None and g.abs().sum() > 0}
            names |= {name}
            taught |= {name} if moved else set()
            still -= moved
    if idle := sorted(names - taught):
        raise ContractError(
            f"terms {idle} never have a gradient, so nothing learns from them. Is something detached?"
        )
    if still:
        raise ContractError(
            f"its parameters {sorted(still)} never get a gradient, and are saved and counted all the same. "
            "Use them, or make them buffers."
        )
