"""Recording what a function starts on a GPU, so that the GPU repeats it by itself."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from kdzoo.functional.waiting import Function, called_by


class Recorder(Protocol):
    """Records what a function does to a device's memory."""

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Give what the function returned, whose tensors the repeat fills, and how to repeat it."""
        ...

    def watching(self) -> AbstractContextManager[list[str]]:
        """Give a context that fills the list that it yields with reasons against a recording."""
        ...

    def waiting(self) -> AbstractContextManager[None]:
        """Give a context in which waiting for the device is meant."""
        ...


class CudaRecorder:
    """Captures CUDA graphs; all have one pool of memory, as they run one after the other.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # The first graph keeps the pool alive, and a broken one what torch's allocator may still ask.
        self._first: _Recording | None = None
        self._broken: _Recording | None = None

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Capture what a function starts on the device. Nothing of it is done.

        Raises:
            RuntimeError: something of it cannot be captured.
        """
        if self._broken is not None:
            raise RuntimeError("another member's capture was broken off")
        before, collecting = torch.cuda.current_stream(self._device), gc.isenabled()
        recording = _Recording(self._pool)
        # What the collector frees on the device would become part of the graph.
        gc.disable()
        self._stream.wait_stream(before)
        try:
            with torch.cuda.stream(self._stream), called_by(recording.interrupt):
                recording.begin()
                try:
                    result = function()
                    recording.end()
                except BaseException:
                    # What a broken capture leaves behind is torch's to know: nothing more is recorded.
                    self._broken = recording
                    with suppress(RuntimeError):
                        recording.end()
                    raise
            self._first = self._first or recording
        finally:
            before.wait_stream(self._stream)
            if collecting:
                gc.enable()
        return result, recording.repeat

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Tell what waits for the device, and what the CPU draws, meanwhile."""
        found: list[str] = []
        drawn = torch.get_rng_state()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            with _sync_debug("warn"), called_by(_unwatched):
                yield found
        for warning in heard:
            if "synchronizing CUDA operation" in str(warning.message):
                found.append("it waits for the device")
            elif "Synchronization debug mode" not in str(warning.message):
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno, source=warning.source
                )
        if not torch.equal(drawn, torch.get_rng_state()):
            found.append("it draws on the CPU")

    def waiting(self) -> AbstractContextManager[None]:
        """Let a comparison wait, whoever watches."""
        return _sync_debug("default")


@contextmanager
def _sync_debug(mode: str) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _unwatched(function: Function, argument: Tensor) -> tuple[Tensor, ...]:
    with _sync_debug("default"):
        return function(argument)


class _Recording:
    """A graph, or several with calls between them of what waits for the device.

    Args:
        pool: of memory.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._calls: list[tuple[Function, Tensor, tuple[Tensor, ...]]] = []

    def begin(self) -> None:
        """Begin with a graph."""
        self._graphs.append(torch.cuda.CUDAGraph())
        # Others' threads go on: the next batch is being made.
        self._graphs[-1].capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> None:
        """End the graph."""
        self._graphs[-1].capture_end()

    def interrupt(self, function: Function, argument: Tensor) -> tuple[Tensor, ...]:
        """Leave a call out of the graph, and go on with another graph."""
        self.end()
        # Nothing was computed yet, so there is no argument; what comes out has the right shapes.
        results = _unwatched(function, torch.zeros_like(argument))
        self._calls.append((function, argument, tuple(results)))
        self.begin()
        return results

    def repeat(self) -> None:
        """Do all of it again."""
        self._graphs[0].replay()
        for (function, argument, results), graph in zip(self._calls, self._graphs[1:], strict=True):
            for kept, found in zip(results, function(argument), strict=True):
                kept.copy_(found)
            graph.replay()
