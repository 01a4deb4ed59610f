"""A loop of the usual kind, written by hand: each method has its own loader, teacher pass and plain loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdzoo.functional.stages import StagePair
from kdzoo.outputs import ModelOutput

from ..losses import plain
from .clock import Contestant, Marks
from .hints import hint_of, pooled, regressor_of, stage_pairs
from .pair import Pair
from .pictures import Pictures, endless
from .surroundings import Surroundings

TEMPERATURE = 4.0


def contestants(pair: Pair, methods: Sequence[str]) -> list[Contestant]:
    """Make a loop for each method, on torch as it comes.

    Args:
        pair: networks and data.
        methods: of Table 8.
    """
    teacher, pairs = pair.teacher().eval(), stage_pairs(pair)
    pictures = Pictures(pair.data, pair.settings.views)
    made = []
    for method in methods:
        loop = _Loop(pair, method, teacher, pictures, pairs)
        surroundings = Surroundings(raised=False, kdzoo=False)
        made.append(Contestant("plain loop", method, "float32", loop, surroundings, [loop.student]))
    return made


class _Loop:
    def __init__(
        self, pair: Pair, method: str, teacher: nn.Module, pictures: Pictures, pairs: Sequence[StagePair]
    ) -> None:
        self._device, self._teacher = pair.device, teacher
        self.student = pair.student()
        self._batches = endless(DataLoader(pictures, batch_size=pair.batch_size, shuffle=True))
        hint = hint_of(pairs)
        regressor = regressor_of(hint).to(pair.device)
        rows = torch.rand(len(pair.data.classes), len(pair.data.classes)) + 0.5
        self._by_class = rows.softmax(dim=1).log().mul(TEMPERATURE).to(pair.device)
        self._reads_teacher = not method.endswith("reffakd")
        self._clips = method == "kdsvd"
        self._loss = _loss_of(method, pairs, hint, regressor)
        parameters = [*self.student.parameters(), *(regressor.parameters() if method == "fitnet" else [])]
        options = {name: value for name, value in pair.optimizer.items() if name != "type"}
        self._optimizer = getattr(torch.optim, pair.optimizer["type"])(parameters, **options)
        self.student.train()

    def __call__(self, marks: Marks) -> None:
        marks("loading")
        images, labels = (x.to(self._device) for x in next(self._batches))
        marks("training")
        guide = ModelOutput(self._by_class[labels])
        if self._reads_teacher:
            with torch.no_grad():
                guide = self._teacher(images)
        loss = self._loss(self.student(images), guide, labels)
        self._optimizer.zero_grad()
        loss.backward()
        if self._clips:
            # A plain decomposition has gradients without bound where singular values meet.
            for parameter in self.student.parameters():
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self._optimizer.step()


def _loss_of(
    method: str, pairs: Sequence[StagePair], hint: StagePair, regressor: nn.Module
) -> Callable[[ModelOutput, ModelOutput, Tensor], Tensor]:
    """Give a method's whole loss; ReffAKD's labels come as the logits that give them."""

    def stages(student: ModelOutput, guide: ModelOutput) -> tuple[list[Tensor], list[Tensor]]:
        return [student.stages[p.student] for p in pairs], [guide.stages[p.teacher] for p in pairs]

    def kd(student: ModelOutput, guide: ModelOutput, labels: Tensor) -> Tensor:
        soft = plain.plain_kd(student.logits, guide.logits, temperature=TEMPERATURE)
        return 0.1 * F.cross_entropy(student.logits, labels) + 0.9 * soft

    def fitnet(student: ModelOutput, guide: ModelOutput, labels: Tensor) -> Tensor:
        seen = pooled(student.stages[hint.student], hint.size)
        return plain.plain_fitnet(regressor(seen), pooled(guide.stages[hint.teacher], hint.size))

    terms: dict[str, tuple[float, Callable[..., Any]]] = {
        "dkd": (1.0, lambda s, t, y: plain.plain_dkd(s.logits, t.logits, y, temperature=TEMPERATURE)),
        "at": (1000.0, lambda s, t, y: plain.plain_at(*stages(s, t))),
        "pkt": (30000.0, lambda s, t, y: plain.plain_pkt(s.embedding, t.embedding)),
        "rkd": (1.0, lambda s, t, y: plain.plain_rkd(s.embedding, t.embedding)),
        "fitnet": (100.0, fitnet),
        "kdsvd": (1.0, lambda s, t, y: plain.plain_kdsvd(*stages(s, t))),
    }
    if method in ("kd", "reffakd"):
        return kd
    weight, term = terms[method.removesuffix("+reffakd")]
    return lambda s, t, y: F.cross_entropy(s.logits, y) + weight * term(s, t, y)
