"""Who takes part: the limit, kdzoo, kdzoo with a warm bank, torchdistill, and a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from kdzoo.training.execution import has_bf16

from . import ours, peers, plain_loop
from .clock import Contestant, Marks
from .limit import Limit
from .pair import METHODS, Pair
from .surroundings import Surroundings

GROUPS = ("limit", "apart", "kdzoo", "bank", "alone", "torchdistill", "plain")
AS_IT_COMES = "limit, allocator as it comes"
BANK = "kdzoo, warm bank"
NO_GRAPHS = "kdzoo, no CUDA graphs"


class Line:
    """Builds the contestants that were asked for.

    Args:
        pair: networks and data.
        counts: numbers of methods, of the fixed order.
        groups: of GROUPS.
        precisions: of kdzoo and the limit.
        held: closes cohorts at the end.
        say: is told what is left out, and why.

    Attributes:
        contestants: all of them.
        resident: bytes of each method's weights, momentum and buffers.
        banks: what the teacher bank keeps of an image, in bytes by digest, for each precision.
    """

    def __init__(
        self, pair: Pair, counts: Sequence[int], groups: Collection[str], precisions: Sequence[str],
        held: ExitStack, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._pair, self._counts, self._groups, self._held = pair, sorted(counts), groups, held
        self._say = say
        self.contestants: list[Contestant] = []
        self.resident: dict[str, int] = {}
        self.banks: dict[str, dict[str, float]] = {}
        for precision in precisions:
            if precision == "auto" and not has_bf16(pair.device):
                say("precision auto: left out, this device has no bf16, so that it is float32")
            else:
                self._add_own(precision)
        if "torchdistill" in groups:
            self._add_torchdistill("auto" in precisions)
        if "plain" in groups:
            self.contestants += plain_loop.contestants(pair, METHODS[: self._counts[-1]])

    def _add(self, who: str, what: str, precision: str, cohort: ours.Steps) -> None:
        networks = [member.network for member in cohort.cohort.members]
        self.contestants.append(Contestant(who, what, precision, cohort, networks=networks))

    def _add_own(self, precision: str) -> None:
        """Add the limit, cohorts of every size, and members alone."""
        groups, most = self._groups, METHODS[: self._counts[-1]]
        for count in self._counts if "kdzoo" in groups else []:
            self._add("kdzoo", str(count), precision, self._steps(METHODS[:count], precision))
        if "limit" in groups:
            self._add_limit(precision)
        if "alone" in groups:
            for method in ("scratch", "reffakd"):
                self._add("kdzoo, alone", method, precision, self._steps([method], precision))
        if not {"bank", "alone"} & set(groups):
            return
        bank = self._pair.work / f"bank-{precision}"
        readers = [m for m in most if not m.endswith("reffakd")] if "bank" in groups else ["kd"]
        self._say(f"filling the teacher bank, {precision}")
        ours.fill_bank(self._pair, readers, precision, bank)
        self.banks[precision] = ours.bytes_of_bank(self._pair, bank)
        for count in self._counts if "bank" in groups else []:
            self._add_banked(BANK, str(count), METHODS[:count], precision, bank)
        if "alone" in groups:
            self._add_banked("kdzoo, alone", "kd, warm bank", ["kd"], precision, bank)

    def _add_banked(self, who: str, what: str, methods: Sequence[str], precision: str, bank: Path) -> None:
        """Add a cohort with a warm bank, if that spares it the teacher."""
        steps = self._steps(methods, precision, bank)
        steps()
        if steps.cohort.teacher_passes:
            self._say(f"{who}, {what}, {precision}: left out, the bank does not keep all that it reads")
        else:
            self._add(who, what, precision, steps)

    def _add_limit(self, precision: str) -> None:
        """Add the limit of every size; if asked for, the largest one in the allocator's own surroundings and
        the teacher as it comes, which tell what the allocator and the teacher's preparation bring."""
        methods = METHODS[: self._counts[-1]]
        plan = self._pair.plan(methods, precision)
        each = plan.precision_of(plan.benchmark.section("teacher")), plan.precision
        limit = Limit(self._pair, self._steps(methods, precision).cohort, each)
        self.resident = {name: bare.resident for name, bare in limit.bare.items()}
        networks = [bare.network for bare in limit.bare.values()]
        for count in self._counts:
            step = partial(limit.step, methods=methods[:count])
            self.contestants.append(Contestant("limit", str(count), precision, step, networks=networks))
        if "apart" not in self._groups:
            return
        step = partial(limit.step, methods=methods)
        surroundings, most = Surroundings(raised=False), str(self._counts[-1])
        if self._pair.device.type == "cpu":
            self.contestants.append(Contestant(AS_IT_COMES, most, precision, step, surroundings))
        teacher = self._pair.teacher().eval()
        shape = self._pair.batch_size, self._pair.data.channels, limit.size, limit.size
        images = torch.randn(shape, device=self._pair.device)

        def passing(marks: Marks) -> None:
            with torch.no_grad():
                teacher(images)

        if precision == "float32":
            self.contestants.append(Contestant("teacher as it comes", "teacher", precision, passing))
        if self._pair.device.type == "cuda":
            self._add(NO_GRAPHS, most, precision, self._steps(methods, precision, graphs="off"))

    def _steps(
        self, methods: Sequence[str], precision: str, bank: Path | None = None, graphs: str = "auto"
    ) -> ours.Steps:
        cohort = ours.cohort_of(self._pair, methods, precision, bank, graphs=graphs)
        return ours.Steps(self._held.enter_context(cohort))

    def _add_torchdistill(self, bf16: bool) -> None:
        try:
            self.contestants += peers.contestants(self._pair, bf16 and has_bf16(self._pair.device))
        except ImportError as fault:
            self._say(f"torchdistill: left out, it is not installed ({fault}): pip install 'kdzoo[peers]'")
