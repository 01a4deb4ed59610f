"""Functions that wait for the device, told apart so that what surrounds them need not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch import Tensor

Function = Callable[[Tensor], tuple[Tensor, ...]]
Caller = Callable[[Function, Tensor], tuple[Tensor, ...]]
Outputs = TypeVar("Outputs", bound=tuple[Tensor, ...])
_CALLER: ContextVar[Caller | None] = ContextVar("waiting", default=None)


def waiting(function: Callable[[Tensor], Outputs], argument: Tensor) -> Outputs:
    """Call a function that waits for the device, such as a decomposition that looks whether it succeeded.

    Whoever records what is done around it (a CUDA graph) can leave it out and call it again in every step.

    Args:
        function: of a tensor alone; shapes of what it gives depend on shapes alone, and zeros are no fault.
        argument: [...], of any shape, without gradient.
    """
    caller = _CALLER.get()
    return function(argument) if caller is None else caller(function, argument)  # type: ignore[return-value]


@contextmanager
def called_by(caller: Caller) -> Iterator[None]:
    """Let somebody else call functions that wait, for a while.

    Args:
        caller: takes the function and its argument, and gives what it gave.
    """
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)
