"""Steps that a GPU repeats by itself: a member's forward pass, loss, backward pass and optimizer step as one
CUDA graph.

A small student's step is some hundred short kernels, and Python takes longer to start them one by one than
the device to run them. A graph starts them all at once: the same kernels on the same numbers, so that no
number changes. What Python would have decided anew in a step must not decide anything, so a step is looked
at before it is captured, a member's first graph is compared bit for bit with the step as it comes, and
whatever cannot be captured runs as it always did.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from kdzoo.checks import usage
from kdzoo.outputs import Batch, Guide, Progress
from kdzoo.training.parts import parts
from kdzoo.training.recording import Recorder
from kdzoo.training.runtime import seed_generators
from kdzoo.training.stills import Stills, version_of
from kdzoo.training.watched import Watched, state_of

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
    _proved: bool = False
    _whole: bool = field(init=False)

    def __post_init__(self) -> None:
        kind = type(self.optimizer.optimizer)
        # Clipping reports the norm, for which it waits.
        self._whole = kind in _CAPTURED and not self.optimizer.clip_grad_kwargs
        if not kind.__module__.startswith("torch.optim."):
            # It may keep gradients, into which a graph writes anew.
            self.reason = "its optimizer is none of torch's"

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
        tensors = [part for _, part in found if isinstance(part, Tensor)]
        # Two that are the same one share memory in a graph, so that it matters which are.
        first = {id(tensor): place for place, tensor in reversed(list(enumerate(tensors)))}
        form = [*((name, _form_of(part)) for name, part in found), [first[id(tensor)] for tensor in tensors]]
        step = _Step(batch, guide, progress, seed, form, tensors, found)
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
        if self._plain < 3 and len(self._forms) > PATIENCE:
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
        watched, before = Watched(step.progress), state_of(self.modules)
        with self.recorder.watching() as reasons:
            result = function(watched)
        after = state_of(self.modules)
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
        return self._repeat(graph, step.seed) if self._proved else self._proof(graph, step)

    def _proof(self, graph: _Graph, step: _Step) -> Sums:
        """Take a step as it comes and by the member's first graph, from the same state, and compare all bits.

        It waits for the device, once in a training.
        """
        before, known = self._numbers(), set(self.optimizer.optimizer.state)
        names, sums = self._as_it_comes(*step[:4])
        if set(self.optimizer.optimizer.state) != known:
            # There is no way back to where the optimizer had nothing of a parameter.
            self._graph, self.reason = None, "a parameter of it learns only now"
            return names, sums
        wanted = [*self._numbers(), sums.clone()]
        self._restore(before)
        found = self._repeat(graph, step.seed)
        with self.recorder.waiting():
            self._proved = _same_bits(wanted, [*self._numbers(), found[1]])
        if self._proved:
            return found
        self._graph, self.reason = None, "a graph of it gives other numbers"
        self.repeated -= 1
        self._restore(wanted[:-1])
        return names, wanted[-1]

    def _numbers(self) -> list[Tensor]:
        """Copy all tensors that a step may change."""
        return [tensor.detach().clone() for tensor in self._changing()]

    def _restore(self, numbers: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, kept in zip(self._changing(), numbers, strict=True):
                tensor.copy_(kept)

    def _changing(self) -> Iterator[Tensor]:
        for module in self.modules:
            yield from module.parameters()
            yield from module.buffers()
        for state in self.optimizer.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

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
        versions, rates = list(map(version_of, stills)), self._rates() if self._whole else None
        kept = self.optimizer.optimizer.state
        known = set(kept)
        self.optimizer.zero_grad()
        try:
            (sums, gradients), repeat = self._watched(
                step, lambda progress: self.recorder.record(lambda: self._recorded(batch, guide, progress))
            )
        except RuntimeError as fault:
            self.reason = f"it cannot be captured: {str(fault).splitlines()[0]}"
            return None
        finally:
            # Nothing was computed: what was made for a parameter is no number.
            born = [kept.pop(parameter) for parameter in set(kept) - known]
        if born:
            self.reason = "a parameter of it learns only now"
        elif versions != list(map(version_of, stills)):
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
        gradients = [(p, p.grad) for group in groups for p in group["params"] if p.grad is not None]
        # Else the next backward pass would add to what the graph fills.
        self.optimizer.zero_grad()
        return sums, gradients

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
    parts: list[tuple[str, Any]]

    @property
    def modules(self) -> list[nn.Module]:
        """Networks that soft labels hold, which are read where they are."""
        return [part for _, part in self.parts if isinstance(part, nn.Module)]


def _form_of(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.shape, part.stride(), part.dtype, part.requires_grad
    return part


def _same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Compare tensors bit for bit: NaN is itself, and 0 is not -0."""
    return all(
        torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
        for a, b in zip(one, other, strict=True)
    )
