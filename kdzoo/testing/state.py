"""Rules about what lasts from step to step: the same again each time, saved, and nobody else's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from kdzoo.testing.contract import ContractError
from kdzoo.testing.inputs import POSITIONS
from kdzoo.testing.subject import Subject, class_state, leaves, numbers, place, step


def keeps_nothing_in_its_class(subject: Subject) -> None:
    """What is kept in the class is shared by all members of all cohorts; it is as it was before all rules."""
    case = subject.ordinary
    numbers(subject.build(case), case.changed())
    after = class_state(subject.cls)
    changed = [n for n in {*after, *subject.before} if after.get(n) != subject.before.get(n)]
    if changed:
        raise ContractError(
            f"{', '.join(sorted(changed))} changes while it trains, for all members. Keep it in the instance."
        )


def steps_repeat(subject: Subject) -> None:
    """The same step gives the same bits, wherever Python's and numpy's generators stand, and leaves torch's
    settings alone."""
    found: list[Any] = []
    before = _settings()
    for number in (1, 2):
        random.seed(number)
        np.random.seed(number)
        case = subject.ordinary
        found.append(numbers(subject.build(case), case))
    if found[0] != found[1]:
        raise ContractError(
            "two equal steps give different numbers. Draw from torch's default generator alone, which is "
            "seeded for every step, and keep nothing outside the instance."
        )
    if _settings() != before:
        raise ContractError(
            f"it changes torch's settings from {before} to {_settings()}, for all. Use a context manager."
        )


def _settings() -> dict[str, Any]:
    return {
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def steps_stand_alone(subject: Subject) -> None:
    """No gradient of a step flows into an earlier one, whose graph is gone by then."""
    distiller = subject.build(subject.ordinary)
    earlier: list[Tensor] = []
    for progress in POSITIONS:
        case = subject.ordinary
        total = torch.stack(list(step(distiller, case, progress).values())).sum()
        if earlier and total.requires_grad:
            reached = torch.autograd.grad(total, earlier, allow_unused=True, retain_graph=True)
            if any(gradient is not None for gradient in reached):
                raise ContractError(
                    f"a gradient flows into outputs of an earlier step, {place(case, progress)}. Detach what "
                    "is kept from step to step."
                )
        earlier += leaves(case).values()


def state_comes_back(subject: Subject) -> None:
    """After saving and loading, another instance goes on with the same numbers."""
    case = subject.ordinary
    first, second = subject.build(case, 1), subject.build(case, 2)
    # On another batch than later: what was kept of the first must not be found again by chance.
    numbers(first, case.changed(), POSITIONS[:2])
    state = {n: v.detach().clone().contiguous() for n, v in first.state_dict().items()}
    try:
        second.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)) if state else {})
    except RuntimeError as error:
        raise ContractError(
            f"another instance cannot load what was saved: {error}. Register all parameters and buffers when "
            "it is built."
        ) from error
    one, other = (numbers(distiller, case, POSITIONS[2:]) for distiller in (first, second))
    if one != other:
        raise ContractError(
            "an instance that was saved and loaded goes on with other numbers than the original. Keep what "
            "lasts from step to step in parameters and buffers."
        )
