"""How a contract is checked: small named rules, one by one or all together, and exemptions that say why."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor

from kdzoo.checks import FormError, KdzooError, UsageError, unknown

Rule = Callable[[Any], None]


class ContractError(KdzooError, AssertionError):
    """What does not keep the contract, and what to do about it."""


class Unusable(ContractError):
    """It cannot be built, or gives what nobody can take: no rule says more of it, so this ends the check."""


@contextmanager
def built() -> Iterator[None]:
    """Take whatever is raised while a subject is built, as its user builds it, for the end of the check."""
    try:
        yield
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"it cannot be built: {told_error(error)}") from error


def told_error(error: Exception) -> str:
    """Say what was raised; the name of an error that nobody meant is half of what it says."""
    return str(error) if isinstance(error, KdzooError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Check:
    """One rule, ready to be run on one subject; a pytest parameter.

    Attributes:
        name: of the rule.
        rule: raises `ContractError` where it is not kept.
        subject: what it is run on.
        reason: why the subject is exempt; "" if it is not.
        ended: by the name of the rule that found the subject unusable, in which words; shared by all its
            checks.
    """

    name: str
    rule: Rule
    subject: Any
    reason: str = ""
    ended: dict[str, str] = field(default_factory=dict, compare=False)

    def __call__(self) -> None:
        """Run the rule.

        Raises:
            ContractError: it is not kept, or it is kept in spite of an exemption.
            SkipTest: another rule has found that the subject cannot be used at all, which is told once.
        """
        if self.ended and self.name not in self.ended:
            raise SkipTest(f"not run: {next(iter(self.ended.values()))}")
        try:
            with _process_kept():
                self.rule(self.subject)
        except Exception as error:
            if self.reason:
                return
            if isinstance(error, (Unusable, FormError)):
                self.ended[self.name] = str(error)
                raise Unusable(str(error)) from error
            if isinstance(error, ContractError):
                raise
            raise ContractError(f"it raises {type(error).__name__}: {error}") from error
        if self.reason:
            raise ContractError(f"it is exempt ({self.reason}) and keeps the rule. Take the exemption back.")

    def __str__(self) -> str:
        return self.name


@contextmanager
def _process_kept() -> Iterator[None]:
    """Rules seed what draws, and what they check may leave anything behind: afterwards the caller's
    generators and torch's settings stand where they stood."""
    python, legacy = random.getstate(), np.random.get_state()
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def seed(number: int) -> None:
    """Seed what draws in a rule; `torch.manual_seed` takes a hundred times as long where there is no GPU."""
    torch.default_generator.manual_seed(number)


class Watch:
    """Remembers what tensors hold, to tell later which of them was written into.

    It compares values, because `x.data` and numpy leave version counters alone; those counters, because a
    write may happen to change no value; and whether gradients are asked for.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[str, Tensor, Tensor, tuple[int, bool]]] = []

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember tensors from now on, by name."""
        self._kept += [(name, t, t.detach().clone(), _marks(t)) for name, t in tensors.items()]

    def written(self) -> str | None:
        """Name the first tensor that somebody has written into; None if there is none."""
        for name, tensor, before, marks in self._kept:
            if _marks(tensor) != marks or not torch.equal(tensor, before):
                return name
        return None

    def check(self) -> None:
        """Raise where somebody has written.

        Raises:
            ContractError: with the tensor's name.
        """
        if name := self.written():
            raise ContractError(f"it writes into {name}, which others read too. Work on a copy.")


def _marks(tensor: Tensor) -> tuple[int, bool]:
    # Tensors made in inference mode count no versions; they refuse in-place operations outside of it.
    return 0 if tensor.is_inference() else tensor._version, tensor.requires_grad


def bind(rules: Sequence[Rule], subject: Any, exempt: Mapping[str, str] | None) -> list[Check]:
    """Make the checks of a subject.

    Args:
        rules: named by their functions.
        subject: what they are run on.
        exempt: reasons by the names of the rules that it does not keep.

    Returns:
        One check for each rule, in their order.

    Raises:
        UsageError: there is no rule of a name in `exempt`, or an exemption has no reason.
    """
    names = [rule.__name__ for rule in rules]
    reasons = dict(exempt or {})
    for name, reason in reasons.items():
        if name not in names:
            raise unknown("exempt", "rule", name, names)
        if not reason.strip():
            raise UsageError(f"exempt: {name!r} must have a reason, got an empty one. Say why.")
    ended: dict[str, str] = {}
    return [Check(rule.__name__, rule, subject, reasons.get(rule.__name__, ""), ended) for rule in rules]


def run_all(who: str, checks: Sequence[Check]) -> None:
    """Run every check and tell all that is wrong at once.

    Args:
        who: the subject, for the message.
        checks: as `bind` gives them.

    Raises:
        ContractError: a line for each rule that is not kept, or one line where the subject cannot be used at
            all; the first fault is its cause.
    """
    faults: dict[str, ContractError] = {}
    for check in checks:
        try:
            check()
        except Unusable as error:
            raise ContractError(f"{who}: {error}") from error
        except ContractError as error:
            faults[check.name] = error
    if faults:
        # One fault often breaks several rules; it is told once.
        told = {
            str(fault): [n for n, f in faults.items() if str(f) == str(fault)] for fault in faults.values()
        }
        lines = [f"- {', '.join(names)}: {message}" for message, names in told.items()]
        head = f"{who}: {len(faults)} of {len(checks)} rules of its contract are not kept"
        raise ContractError("\n".join([head, *lines])) from next(iter(faults.values()))
