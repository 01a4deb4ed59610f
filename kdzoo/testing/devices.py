"""The rule about GPUs, checked without one: tensors without numbers know what cannot be known in time."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from kdzoo.checks import UsageError
from kdzoo.distillers import Distiller
from kdzoo.outputs import Batch, ModelOutput, mapped
from kdzoo.testing.contract import ContractError
from kdzoo.testing.inputs import POSITIONS, Case
from kdzoo.testing.subject import Subject, gradients, step


def no_step_waits_for_the_device(subject: Subject) -> None:
    """On a GPU nothing is read back (.item(), bool, data-dependent shapes), and all is on the device.

    It is built on the CPU and moved, as members are. Only the forward pass pretends to be on a GPU: the
    backward pass would ask for its driver.
    """
    _check(subject, "cuda", {})
    _check(subject, "cpu", {})
    for name, value in subject.other_options():
        if isinstance(value, (bool, str)):
            with suppress(UsageError):
                _check(subject, "cuda", {name: value})


def _check(subject: Subject, device: str, options: Mapping[str, Any]) -> None:
    given = subject.ordinary
    distiller = subject.build(given, **options)
    # What is made once and kept, such as constant matrices, is made of numbers.
    step(copy.deepcopy(distiller), given.fresh())
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    distiller = _without_numbers(distiller, given.head, mode, device)
    with mode, _quiet():
        case = _case(given, device)
        try:
            # Another path may be taken in a later epoch.
            for progress in POSITIONS[: 1 if options else None]:
                terms = step(distiller, case, progress)
                if device == "cpu":
                    gradients(distiller, case, terms)
        except Exception as error:
            raise ContractError(
                f"a step on a GPU fails with {type(error).__name__}: {str(error).splitlines()[0]} Use masks "
                "in place of data-dependent indexing, make tensors on the device of what is given, and "
                "register what is kept as parameters and buffers."
            ) from error
    astray = [name for name, term in terms.items() if term.device.type != device]
    if astray:
        raise ContractError(f"terms {astray} are not on the student's device. Make them there.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging what is told better here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _without_numbers(
    distiller: Distiller, head: nn.Module | None, mode: FakeTensorMode, device: str
) -> Distiller:
    """Copy a distiller as `.to(device)` would leave it: what is registered is moved, and nothing else. The
    teacher's classifier is there already."""
    memo: dict[int, object] = {}
    with mode:
        for module in (distiller, *([head] if head is not None else [])):
            for parameter in module.parameters():
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            for buffer in module.buffers():
                memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    with FakeCopyMode(mode):
        return copy.deepcopy(distiller, memo)


def _case(given: Case, device: str) -> Case:
    def empty(tensor: Tensor) -> Tensor:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        return made.requires_grad_(tensor.requires_grad)

    return given._replace(
        student=ModelOutput(*mapped(given.student, empty)),
        teacher=ModelOutput(*mapped(given.teacher, empty)),
        batch=Batch(*(None if t is None else empty(t) for t in given.batch)),  # type: ignore[arg-type]
        probabilities=None if given.probabilities is None else empty(given.probabilities),
    )
