"""A recorder for CPUs that does what CUDA graphs do: it keeps the operations and the tensors that they were
done on, nothing of Python, and repeats them on the same memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class _Tape(TorchDispatchMode):
    """Keeps every operation, and what it wrote into as it was before."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in _written(func, args, kwargs):
            self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        result = func(*args, **kwargs)
        self.done.append((func, args, kwargs, result))
        return result


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        written = argument.alias_info is not None and argument.alias_info.is_write
        # The schema of batch norm does not say so.
        if written or argument.name in ("running_mean", "running_var"):
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (t for t in tree_iter(given) if isinstance(t, Tensor))


class _Waiting(TorchDispatchMode):
    """Notes whatever would wait for a GPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self._found.append("it waits for the device")
        return func(*args, **(kwargs or {}))


class TapeRecorder:
    """Stands for `kdzoo.training.recording.CudaRecorder` where there is no GPU.

    Attributes:
        recorded: how often something was.
    """

    recorded = 0

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Keep what a function does, and undo it."""
        tape = _Tape()
        try:
            with tape:
                result = function()
        finally:
            for tensor, content in tape.before.values():
                tensor.data.copy_(content)
        TapeRecorder.recorded += 1

        def repeat() -> None:
            # On a GPU autograd has no part in it.
            with torch.no_grad():
                for func, args, kwargs, kept in tape.done:
                    again = func(*args, **kwargs)
                    for old, new in zip(tree_iter(kept), tree_iter(again), strict=True):
                        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                            old.data.copy_(new)

        return result, repeat

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Tell what would wait for a GPU."""
        found: list[str] = []
        with _Waiting(found):
            yield found

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Nothing waits here."""
        return contextlib.nullcontext()
