"""Steps that a GPU repeats by itself: a member's forward pass, loss, backward pass and optimizer step as one
CUDA graph.

A small student's step is some hundred kernels of a few microseconds each, and starting them one by one from
Python takes ten times as long as they run. A graph starts them all at once: the same kernels on the same
numbers, so that no number changes. What Python would have decided anew in a step must not decide anything,
so a step is looked at before it is captured, and whatever cannot be captured runs as it always did.
"""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from kdzoo.checks import usage
from kdzoo.functional.waiting import Function, called_by
from kdzoo.outputs import Batch, Guide, Progress
from kdzoo.training.parts import parts
from kdzoo.training.runtime import seed_generators

# Terms of a loss by name, and their sums over the batch: [terms] float64.
Sums = tuple[tuple[str, ...], Tensor]
Gradients = Callable[[Batch, Guide, Progress], Sums]
Result = TypeVar("Result")
CHOICES = ("auto", "on", "off")
# Steps after which a form should have come three times.
PATIENCE = 20
# Optimizers whose step is kernels alone. Others count their steps on the CPU.
_CAPTURED = (torch.optim.SGD,)


def chosen_graphs(asked: str, device: torch.device, compiled: bool) -> tuple[bool, str | None]:
    """Choose whether members' steps are captured: "auto" does on a GPU where nothing is compiled.

    Args:
        asked: "auto", "on" or "off".
        device: where networks run.
        compiled: whether `torch.compile` makes their passes.

    Returns:
        The choice, and a remark where it is not what was asked for.

    Raises:
        UsageError: it is none of the three.
    """
    check_graphs(asked)
    if asked != "on":
        return asked == "auto" and device.type == "cuda" and not compiled, None
    if device.type == "cuda":
        return True, None
    return False, "No step becomes a CUDA graph: training is on the CPU."


def check_graphs(asked: str) -> None:
    """Check the choice before anything is trained.

    Raises:
        UsageError: it is not "auto", "on" or "off".
    """
    if asked not in CHOICES:
        raise usage("kdzoo", "cuda_graphs", "auto, on or off", asked)


class Recorder(Protocol):
    """Records what a function does to a device's memory."""

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Give what the function returned, whose tensors the repeat fills, and how to repeat it."""
        ...

    def watching(self) -> AbstractContextManager[list[str]]:
        """Give a context that fills the list that it yields with reasons against a recording."""
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

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Capture what a function starts on the device. Nothing of it is done.

        Raises:
            RuntimeError: something of it cannot be captured.
        """
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
                except BaseException:
                    # It only says that the capture was broken off.
                    with suppress(RuntimeError):
                        recording.end()
                    raise
                recording.end()
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


class Stills:
    """Tensors that stay where they are: what members share in a step is copied into them, once a step.

    A graph reads the same memory in every step, while batches, soft labels and digests are new ones.
    """

    def __init__(self) -> None:
        # For each still: itself, what it is a copy of, and that tensor's version.
        self._fed: dict[int, tuple[Tensor, weakref.ref[Tensor], int]] = {}

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Give stills of tensors, those that other members read already among them.

        Args:
            tensors: of this step.

        Returns:
            None where a still could not have the same layout.
        """
        known = {id(now()): still for still, now, _ in self._fed.values() if now() is not None}
        found = []
        for tensor in tensors:
            still = known.get(id(tensor))
            if still is None:
                still = torch.empty_like(tensor)
                if still.stride() != tensor.stride():
                    return None
                known[id(tensor)] = still
            found.append(still)
        self.feed(found, tensors)
        return found

    def feed(self, stills: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Bring stills to what a step's tensors hold.

        Args:
            stills: as `of` gave them.
            tensors: in the same order.
        """
        new = {id(s): (s, t) for s, t in zip(stills, tensors, strict=True) if not self._holds(s, t)}
        if new:
            with torch.no_grad():
                torch._foreach_copy_([s for s, _ in new.values()], [t for _, t in new.values()])
        self._fed |= {i: (s, weakref.ref(t), _version(t)) for i, (s, t) in new.items()}

    def _holds(self, still: Tensor, tensor: Tensor) -> bool:
        fed = self._fed.get(id(still))
        return fed is not None and fed[1]() is tensor and fed[2] == _version(tensor)


@dataclass
class _Graph:
    """A captured step.

    Attributes:
        form: shapes and layouts of its inputs, and plain values among them.
        stills: that it reads.
        epoch: that it was captured in; None where the step does not read it.
        rates: of the optimizer, None where its step is not part of it.
        sums: that it fills.
        gradients: that it fills, by parameter, where the optimizer's step is not part of it.
        repeat: it.
        device: of the batch.
        uses: how often it was.
    """

    form: Any
    stills: list[Tensor]
    epoch: int | None
    rates: Any
    sums: Sums
    gradients: list[tuple[nn.Parameter, Tensor]]
    repeat: Callable[[], None]
    device: torch.device
    uses: int = 0


@dataclass
class GraphedStep:
    """A member's steps: some as they come, until what they do is known, and then a graph's.

    Args:
        gradients: does all but the optimizer's step, and leaves gradients at the parameters.
        optimizer: moves them.
        modules: network and distiller.
        stills: shared by the cohort.
        recorder: of the device.

    Attributes:
        reason: why the member's steps run as they come, None where they need not.
        repeated: steps that a graph took.
    """

    gradients: Gradients
    optimizer: OptimWrapper
    modules: Sequence[nn.Module]
    stills: Stills
    recorder: Recorder
    reason: str | None = None
    repeated: int = 0
    _plain: int = 0
    _forms: list[Any] = field(default_factory=list)
    _graph: _Graph | None = None
    _read: frozenset[str] = frozenset()
    _whole: bool = field(init=False)

    def __post_init__(self) -> None:
        kind = type(self.optimizer.optimizer)
        # Clipping reports the norm, for which it waits.
        self._whole = kind in _CAPTURED and not self.optimizer.clip_grad_kwargs

    def __call__(self, batch: Batch, guide: Guide, progress: Progress, seed: int) -> Sums:
        """Take a step.

        Args:
            batch: of the step.
            guide: the member's.
            progress: where training stands.
            seed: of whatever the step draws.

        Returns:
            Names and sums of the loss's terms, the latter good until the next step.
        """
        if self.reason is not None:
            return self._as_it_comes(batch, guide, progress, seed)
        found = list(parts((batch, guide), ""))
        form = [(name, _form_of(part)) for name, part in found]
        step = _Step(batch, guide, progress, seed, form, [p for _, p in found if isinstance(p, Tensor)])
        graph = self._graph
        if graph is None:
            return self._captured(step) if self._known(form) else self._looked_at(step)
        if form != graph.form:
            # The last batch of an epoch may be a short one.
            return self._as_it_comes(batch, guide, progress, seed)
        same_epoch = graph.epoch in (None, progress.epoch)
        if same_epoch and graph.rates in (None, self._rates()):
            self.stills.feed(graph.stills, step.tensors)
            return self._repeat(graph, seed)
        if same_epoch and graph.uses < 2:
            # Rates that move in every step would make a graph of every step.
            self._whole = False
        return self._captured(step, graph.stills)

    def _known(self, form: Any) -> bool:
        """Say whether two steps of this form were taken: in the first, kernels are chosen and optimizers make
        their state; the second is looked at."""
        self._forms.append(form)
        self._plain = self._forms.count(form)
        if len(self._forms) > PATIENCE:
            self.reason = "what it is given differs from step to step"
        return self._plain > 2

    def _as_it_comes(self, batch: Batch, guide: Guide, progress: Progress, seed: int) -> Sums:
        seed_generators(seed, batch.images.device)
        sums = self.gradients(batch, guide, progress)
        self._move()
        return sums

    def _move(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _looked_at(self, step: _Step) -> Sums:
        """Take a step as it comes; the second of its form is looked at."""
        if self._plain < 2 or self.reason is not None:
            return self._as_it_comes(*step[:4])
        sums = self._watched(step, lambda progress: self.gradients(step.batch, step.guide, progress))
        self._move()
        return sums

    def _watched(self, step: _Step, function: Callable[[Progress], Result]) -> Result:
        """Call what a graph is to repeat, and find out what it could not repeat."""
        seed_generators(step.seed, step.batch.images.device)
        watched, before = _Watched(step.progress), _state(self.modules)
        with self.recorder.watching() as reasons:
            result = function(watched)
        after = _state(self.modules)
        self._read |= watched.read
        if "step" in self._read:
            self.reason = "it reads the step's number"
        elif reasons:
            self.reason = reasons[0]
        elif changed := sorted(name for name in after if before.get(name) != after[name]):
            self.reason = f"it changes {changed[0]} in Python"
        return result

    def _captured(self, step: _Step, stills: list[Tensor] | None = None) -> Sums:
        """Capture the step, and take it.

        Args:
            step: what is given to it.
            stills: that the member reads already.
        """
        self._graph = None
        if stills is None:
            stills = self.stills.of(step.tensors)
        else:
            self.stills.feed(stills, step.tensors)
        graph = None if stills is None else self._graph_of(step, stills)
        if stills is None:
            self.reason = "what it reads overlaps in memory"
        if graph is None or self.reason is not None:
            self.optimizer.zero_grad()
            return self._as_it_comes(*step[:4])
        self._graph = graph
        return self._repeat(graph, step.seed)

    def _graph_of(self, step: _Step, stills: list[Tensor]) -> _Graph | None:
        memo: dict[int, Any] = {id(t): s for t, s in zip(step.tensors, stills, strict=True)}
        memo |= {id(part): part for part in step.modules}
        try:
            batch, guide = copy.deepcopy((step.batch, step.guide), memo)
        except Exception as fault:
            # Soft labels are whatever a source made them, a lock or an open file among it.
            self.reason = f"what it reads cannot be copied: {str(fault).splitlines()[0]}"
            return None
        if any(isinstance(found, Tensor) and not any(found is s for s in stills) for found in memo.values()):
            self.reason = "it reads tensors that are hidden in objects"
            return None
        versions, rates = list(map(_version, stills)), self._rates() if self._whole else None
        self.optimizer.zero_grad()
        try:
            (sums, gradients), repeat = self._watched(
                step, lambda progress: self.recorder.record(lambda: self._recorded(batch, guide, progress))
            )
        except RuntimeError as fault:
            self.reason = f"it cannot be captured: {str(fault).splitlines()[0]}"
            return None
        if versions != list(map(_version, stills)):
            # Whoever writes into what all share is found where the step runs as it comes.
            self.reason = "it writes into what it is given"
        epoch = step.progress.epoch if "epoch" in self._read else None
        return _Graph(step.form, stills, epoch, rates, sums, gradients, repeat, step.batch.images.device)

    def _recorded(
        self, batch: Batch, guide: Guide, progress: Progress
    ) -> tuple[Sums, list[tuple[nn.Parameter, Tensor]]]:
        sums = self.gradients(batch, guide, progress)
        if self._whole:
            self._move()
            return sums, []
        groups = self.optimizer.param_groups
        return sums, [(p, p.grad) for group in groups for p in group["params"] if p.grad is not None]

    def _repeat(self, graph: _Graph, seed: int) -> Sums:
        seed_generators(seed, graph.device)
        graph.repeat()
        graph.uses += 1
        self.repeated += 1
        if graph.rates is None:
            for parameter, gradient in graph.gradients:
                parameter.grad = gradient
            self._move()
        return graph.sums

    def _rates(self) -> list[dict[str, Any]]:
        groups = self.optimizer.param_groups
        return [{name: value for name, value in group.items() if name != "params"} for group in groups]


class _Step(NamedTuple):
    """What is given to a member for a step; `form` and `tensors` are what its parts look like."""

    batch: Batch
    guide: Guide
    progress: Progress
    seed: int
    form: Any
    tensors: list[Tensor]

    @property
    def modules(self) -> list[nn.Module]:
        """Networks that soft labels hold, which are read where they are."""
        return [part for _, part in self.form if isinstance(part, nn.Module)]


class _Watched(Progress):
    """Progress that notes what is read of it."""

    read: set[str]

    def __new__(cls, progress: Progress) -> _Watched:
        made = super().__new__(cls, *progress)
        made.read = set()
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in Progress._fields:
            self.read.add(name)
        return super().__getattribute__(name)

    def __getitem__(self, index: Any) -> Any:
        self.read.update(Progress._fields[index] if isinstance(index, slice) else (Progress._fields[index],))
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self.read.update(Progress._fields)
        return super().__iter__()


def _state(modules: Sequence[nn.Module]) -> dict[str, Any]:
    """Note what Python keeps in modules: the objects themselves, of containers and numbers what they hold."""
    return {
        f"{type(module).__name__}.{name}": _noted(value)
        for root in modules
        for module in root.modules()
        for name, value in vars(module).items()
    }


def _noted(value: Any) -> Any:
    if isinstance(value, (int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, dict):
        return {name: _noted(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [type(value), *map(_noted, value)]
    return _Same(value)


@dataclass(frozen=True, eq=False)
class _Same:
    """An object that equals itself alone; it is held, so that no other gets its place in memory."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _version(tensor: Tensor) -> int:
    # Tensors made under inference_mode count no versions; nobody can write into them, either.
    return 0 if tensor.is_inference() else tensor._version


def _form_of(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.shape, part.stride(), part.dtype, part.requires_grad
    return part
