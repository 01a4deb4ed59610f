"""Distillers that are broken on purpose, each in one way: the rule that is meant for it finds it and says so,
and besides only those rules do that its fault breaks as well. Their whole twins keep the contract."""

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple
from unittest import SkipTest

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdzoo.checks import NonNegative, Positive, UsageError
from kdzoo.distillers import Distiller
from kdzoo.outputs import ModelOutput
from kdzoo.testing import ContractError, check_distiller, distiller_checks, network_pairs
from kdzoo.testing.distillers import RULES

FINITE, COHORT, BF16, STATE, TRAINS = (
    "losses_and_gradients_are_finite", "numbers_are_the_same_alone_and_in_a_cohort",
    "networks_in_bf16_train", "state_comes_back", "every_term_trains_something",
)  # fmt: skip
# Rules that take a step, and so fail with whatever fails in every step.
STEPS = {rule.__name__ for rule in RULES} - {
    "declares_itself", "can_be_planned_before_the_teacher_is_made", "label_weight_is_a_finite_number",
    "digest_rows_stand_alone", "digest_follows_its_options", "deployed_network_gives_logits",
    "can_be_recorded",
}  # fmt: skip


class Broken(NamedTuple):
    cls: type[Distiller]
    rule: str
    words: str
    follows: tuple[str, ...]


BROKEN: list[Broken] = []


def breaks(rule: str, words: str, *follows: str) -> Callable[[type[Distiller]], type[Distiller]]:
    """Note which rule finds a class, in which words, and which other rules its fault breaks."""

    def keep(cls: type[Distiller]) -> type[Distiller]:
        BROKEN.append(Broken(cls, rule, words, follows))
        return cls

    return keep


class Twin(Distiller):
    paper = "none: a test"

    def more(self, student, guide, batch, progress) -> dict[str, Tensor]:
        """Give the terms that a broken one has beside its own."""
        return {}


class Soft(Twin):
    """CE + weight x the squared distance of the student's probabilities to the soft labels.

    Args:
        weight: of the term.
    """

    needs = frozenset({"soft_labels"})

    def __init__(self, *, weight: Positive = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, student, guide, batch, progress):
        difference = guide.soft_labels.log_probs(4.0).exp() - student.logits.softmax(dim=1)
        own = {"soft": self.weight * difference.square().mean()}
        return own | self.more(student, guide, batch, progress)


class Hint(Twin):
    """CE + weight x the squared distance of embeddings, the student's behind a linear layer.

    Args:
        weight: of the term.
    """

    needs = frozenset({"embedding"})

    def __init__(self, student: int, teacher: int, *, weight: Positive = 0.01) -> None:
        super().__init__()
        self.adapter = nn.Linear(student, teacher)
        self.weight = weight

    @classmethod
    def for_setting(cls, setting, **options):
        return cls(setting.student.embedding[0], setting.teacher.embedding[0], **options)

    def forward(self, student, guide, batch, progress):
        difference = self.adapter(student.embedding) - guide.teacher["embedding"]
        own = {"hint": self.weight * difference.square().mean()}
        return own | self.more(student, guide, batch, progress)


class Head(Hint):
    """Judged by a copy of the teacher's classifier, behind the adapter."""

    needs = frozenset({"embedding", "classifier"})

    def __init__(self, student: int, teacher: int, head: nn.Module, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, weight=weight)
        self.head = copy.deepcopy(head).requires_grad_(False).eval()

    @classmethod
    def for_setting(cls, setting, **options):
        sizes = setting.student.embedding[0], setting.teacher.embedding[0]
        return cls(*sizes, setting.teacher_head, **options)

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self.head.eval()
        return self

    def deployed(self, student: nn.Module) -> nn.Module:
        return Wrapped(student, behind, self.adapter, self.head)


class Wrapped(nn.Module):
    """Changes a student's logits, with or without parts of its own."""

    def __init__(self, student: nn.Module, change: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.change = change
        self.parts = nn.ModuleList(parts)

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.change(self.student(images), *self.parts))


def behind(output: ModelOutput, adapter: nn.Module, head: nn.Module) -> Tensor:
    return head(adapter(output.embedding))


class Bank(Hint):
    """Draws noise, and remembers each sample's embedding: by position, in a buffer, without its graph."""

    needs = frozenset({"embedding", "indices"})

    def __init__(self, student: int, teacher: int, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, weight=weight)
        self.register_buffer("seen", torch.zeros(1000, student))

    def more(self, student, guide, batch, progress):
        noise = torch.randn_like(student.embedding)
        distance = (student.embedding + noise - self.seen[batch.indices]).square().mean()
        self.seen[batch.indices] = student.embedding.detach()
        return {"bank": self.weight * distance}


def soft(name: str, more: Callable[..., Tensor], *found: str, base: type[Distiller] = Soft) -> None:
    """Make a distiller with one more term of student, guide, batch and progress; it is called "more"."""
    members = {"more": lambda self, *given: {"more": more(*given)}, "__module__": __name__}
    breaks(*found)(type(name, (base,), members | {"__doc__": "Has a term too many."}))


def writing(name: str, write: Callable[..., object], *found: str, base: type[Distiller] = Soft) -> None:
    """Make a distiller that writes into what it is given."""
    members = {"more": lambda self, *given: [write(*given), {}][1], "__module__": __name__}
    cls = type(name, (base,), members | {"__doc__": "Writes into what it is given."})
    breaks("nothing_shared_is_written_to", *found)(cls)


def deploying(name: str, deploy: Callable[[nn.Module], nn.Module], *found: str) -> None:
    """Make a distiller whose judged network is odd."""
    members = {"deployed": lambda self, student: deploy(student), "__module__": __name__}
    breaks(*found)(type(name, (Soft,), members | {"__doc__": "Deploys something odd."}))


# What it declares.


@breaks("declares_itself", "options ['power'] must stand in the class docstring under 'Args:'")
class Undocumented(Soft):
    """An option without a word about it."""

    def __init__(self, *, weight: Positive = 1.0, power: Positive = 2.0) -> None:
        super().__init__(weight=weight)
        self.power = power

    def more(self, student, guide, batch, progress):
        return {"more": student.logits.abs().clamp(0.1, 10.0).pow(self.power).mean()}


@breaks("declares_itself", "scaled_options(1): weight must be a number in (0, inf), got 0")
class ShortTraining(Soft):
    """Scales an option out of its range."""

    @classmethod
    def scaled_options(cls, epochs: int) -> dict[str, Any]:
        return {"weight": epochs // 10}


@breaks("declares_itself", "sum_options must give options of its own, got ['wieght']")
class Summed(Soft):
    """Has a default for sums that is for no option."""

    sum_options: ClassVar[Mapping[str, Any]] = {"wieght": 1.0}


@breaks("declares_itself", "['terms'] belong to all distillers. Override forward, label_weight or digest")
class Takeover(Soft):
    """Computes the whole loss in its own way."""

    def terms(self, student, guide, batch, progress):
        label = nn.functional.cross_entropy(student.logits, batch.labels)
        return {"label": label} | self(student, guide, batch, progress)


DECLARED = "gets_only_what_it_declares"
soft(
    "Undeclared",
    lambda s, g, b, p: s.stages[0].mean(),
    DECLARED,
    "it fails with TypeError: 'NoneType'",
    *STEPS,
)
soft(
    "UndeclaredIndices", lambda s, g, b, p: (s.logits.mean(dim=1) * (b.indices + 1)).mean(),
    DECLARED, "the fields that it declares, needs = ['soft_labels'], and None for all others.", *STEPS,
)  # fmt: skip


@breaks(
    DECLARED, "it cannot be built: AttributeError: 'NoneType' object has no attribute 'embedding'. It gets"
)
class UndeclaredTeacher(Soft):
    """Reads the shapes of a teacher that it does not declare."""

    @classmethod
    def for_setting(cls, setting, **options):
        return cls(**options) if setting.teacher.embedding else cls()


@breaks("can_be_planned_before_the_teacher_is_made", "it reads the numbers of the teacher's classifier")
class ReadsHead(Head):
    """Sets a weight by the size of the teacher's classifier."""

    def __init__(self, student: int, teacher: int, head: nn.Module, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, head, weight=weight)
        self.weight *= float(next(head.parameters()).detach().norm())


@breaks("uses_what_it_declares", "the teacher's preactivations change nothing. Take 'preactivations' out")
class Idle(Hint):
    """Costs every run fields that it does not read."""

    needs = frozenset({"embedding", "preactivations"})


@breaks("uses_what_it_declares", "the teacher's classifier change nothing")
class IdleHead(Head):
    """Takes a classifier and does nothing with it."""

    def deployed(self, student):
        return student


@breaks("uses_what_it_declares", "indices change nothing")
class IdleIndices(Soft):
    """Takes positions and does nothing with them."""

    needs = frozenset({"soft_labels", "indices"})


# The form of its terms.

soft(
    "Vector", lambda s, g, b, p: s.logits.square().mean(dim=1), DECLARED,
    "Vector.forward: term 'more' must be a floating-point scalar tensor, got torch.float32 [8]. Reduce it",
)  # fmt: skip
soft(
    "LateVector", lambda s, g, b, p: s.logits.square().mean(dim=1) if p.epoch > 30 else s.logits.mean(),
    "uses_what_it_declares", "LateVector.forward: term 'more' must be a floating-point scalar tensor, got",
)  # fmt: skip


def ending(name: str, members: dict[str, Any], words: str) -> None:
    """Make a distiller of which the first rule that builds it says all that there is to say."""
    own = members | {"__module__": __name__, "__doc__": "Can be no member."}
    breaks(DECLARED, words)(type(name, (Soft,), own))


def unbuilt(self: Distiller) -> None:
    raise ValueError("a fault of __init__")


ending(
    "Lone", {"forward": lambda self, s, g, b, p: s.logits.mean()},
    'Lone.forward must return a dict of named scalar terms, got a Tensor. Return {"lone": loss}.',
)  # fmt: skip
ending("Unsaid", {"forward": lambda *given: None}, "must return a dict of named scalar terms, got None. Retu")
ending(
    "Items", {"forward": lambda self, s, g, b, p: {"item": 1.5}},
    "Items.forward: term 'item' must be a scalar tensor, got 1.5. Compute it with torch alone, without",
)  # fmt: skip
ending("Unbuilt", {"__init__": unbuilt}, "it cannot be built: ValueError: a fault of __init__")


@breaks("returns_named_scalars", "must be the same in all steps of an epoch", COHORT, BF16)
class StepNames(Soft):
    """Names its term after the step."""

    def more(self, student, guide, batch, progress):
        return {f"step{progress.step}": student.logits.square().mean()}


@breaks("returns_named_scalars", "must be the same in all steps of an epoch")
class NoPairs(Soft):
    """Leaves a term out where a batch has one sample."""

    def more(self, student, guide, batch, progress):
        return {"pairs": student.logits.square().mean()} if len(batch.labels) > 1 else {}


@breaks(
    "returns_named_scalars",
    "there is nothing to train for in epoch 39: no term, and label_weight 0.",
)
class Exhausted(Distiller):
    """Has no term in the last epoch, not even the labels'."""

    paper = "none: a test"

    def label_weight(self, progress):
        return float(progress.epoch < 39)

    def forward(self, student, guide, batch, progress):
        return {}


@breaks("label_weight_is_a_finite_number", "must be a number from 0 on, got -0.0")
class Negative(Soft):
    """Turns against the labels in the last epochs of a long training."""

    def label_weight(self, progress):
        return 1 - progress.epoch / 230


@breaks("label_weight_is_a_finite_number", "must be a number from 0 on, got nan in epoch 0 of 1", FINITE)
class NaNWeight(Soft):
    """Loses its number where there is one epoch."""

    def label_weight(self, progress):
        return 1.0 if progress.epochs > 1 else float("nan")


@breaks("label_weight_is_a_finite_number", "it raises ZeroDivisionError in epoch 0 of 1", FINITE)
class ShortSchedule(Soft):
    """Divides by one epoch less than there are."""

    def label_weight(self, progress):
        return progress.epoch / (progress.epochs - 1)


# Its options.


class Powered(Soft):
    """An option beside the weight.

    Args:
        power: something.
    """

    def __init__(self, *, weight: Positive = 1.0, power: NonNegative = 2.0) -> None:
        super().__init__(weight=weight)
        self.power = power


@breaks("every_option_changes_a_number", "option 'power' changes nothing, no term")
class Ignored(Powered):
    """Parses an option and leaves it at that."""


@breaks("every_option_changes_a_number", "option 'power' knows no more than two kinds of numbers")
class Switch(Powered):
    """Takes a number for a switch."""

    def more(self, student, guide, batch, progress):
        return {"more": student.logits.square().mean() * (2 if self.power else 1)}


@breaks("every_option_changes_a_number", "option 'kind' does the same at 'mean' as at 'average'")
class SameChoice(Soft):
    """Two names for one thing.

    Args:
        kind: how to reduce.
    """

    def __init__(self, *, weight: Positive = 1.0, kind: Literal["sum", "mean", "average"] = "sum") -> None:
        super().__init__(weight=weight)
        self.kind = kind

    def more(self, student, guide, batch, progress):
        squares = student.logits.square()
        return {"more": squares.sum() if self.kind == "sum" else squares.mean()}


# Its numbers.


def spread(values: Tensor, dim: int) -> Tensor:
    """Give the variance, with one degree of freedom less than values."""
    squares = (values - values.mean(dim=dim, keepdim=True)).square().sum(dim=dim)
    return (squares / (values.shape[dim] - 1)).mean()


def cross(student: ModelOutput, log_probs: Tensor) -> Tensor:
    return (log_probs.exp() * (log_probs - student.logits)).mean()


def unlike(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the mean distance between samples of different classes, and forget that all may be of one."""
    others = (labels[:, None] != labels) | torch.tensor(len(labels) == 1)
    return (torch.cdist(logits, logits).square() * others).sum() / others.sum()


def positive_share(logits: Tensor, power: float) -> Tensor:
    return (logits.relu() / (logits.relu() + power)).mean()


soft(
    "TwoClasses", lambda s, g, b, p: spread(s.logits[:, 1:], 1),
    FINITE, "term 'more' is nan with 'two classes' in epoch 0 of 40.",
)  # fmt: skip
soft("OneSample", lambda s, g, b, p: spread(s.logits, 0), FINITE, "term 'more' is nan with 'one sample'")
soft(
    "Overflow", lambda s, g, b, p: s.logits.exp().mean(), FINITE, "term 'more' is inf with 'outputs of +-1e4'"
)
soft(
    "RootOfZero", lambda s, g, b, p: (s.embedding - s.embedding[:, :1]).square().sum(dim=1).sqrt().mean(),
    FINITE, "the gradient of embedding is not finite with 'constant features'", base=Hint,
)  # fmt: skip
soft(
    "LogOfZero", lambda s, g, b, p: cross(s, g.soft_labels.log_probs(4.0)),
    FINITE, "term 'more' is nan with 'soft labels with zeros'",
)  # fmt: skip
soft(
    "Late", lambda s, g, b, p: s.logits.square().mean() / (p.epoch != 23),
    FINITE, "term 'more' is inf with 'ordinary' in epoch 23 of 40.",
)  # fmt: skip


@breaks(FINITE, "term 'more' is nan with 'ordinary' in epoch 39 of 40 at power=0")
class EndOfRange(Powered):
    """Accepts an option that it cannot take."""

    def more(self, student, guide, batch, progress):
        return {"more": positive_share(student.logits, self.power)}


soft(
    "OneClass", lambda s, g, b, p: unlike(s.logits, b.labels).mean(),
    FINITE, "term 'more' is nan with 'samples of one class' in epoch 0 of 40.",
)  # fmt: skip


@breaks(
    FINITE,
    "it raises RuntimeError with 'narrow maps' in epoch 0 of 40: Calculated padded input size",
    "returns_named_scalars",
)
class NarrowMaps(Soft):
    """Convolves whatever maps there are, down to a single pixel."""

    needs = frozenset({"soft_labels", "stages"})

    def more(self, student, guide, batch, progress):
        maps = student.stages[-1].mean(dim=1, keepdim=True)
        weights = guide.teacher["stages.0"].mean().expand(1, 1, 2, 2)
        return {"more": nn.functional.conv2d(maps, weights).square().mean()}


@breaks(FINITE, "term 'more' is nan with 'one sample' in epoch 39 of 40 at kind=spread")
class OtherChoice(Soft):
    """Works at its default, and not at every choice.

    Args:
        kind: of what.
    """

    def __init__(self, *, weight: Positive = 1.0, kind: Literal["mean", "spread"] = "mean") -> None:
        super().__init__(weight=weight)
        self.kind = kind

    def more(self, student, guide, batch, progress):
        logits = student.logits
        return {"more": logits.square().mean() if self.kind == "mean" else spread(logits, 0)}


@breaks(TRAINS, "its parameters ['spare.bias', 'spare.weight'] never get a gradient")
class Spare(Hint):
    """Saves and counts a layer that it never uses."""

    def __init__(self, student: int, teacher: int, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, weight=weight)
        self.spare = nn.Linear(2, 2)


soft(
    "Detached", lambda s, g, b, p: (s.logits.detach() - g.soft_labels.log_probs(4.0).exp()).square().mean(),
    TRAINS, "terms ['more'] never have a gradient, so nothing learns from them",
)  # fmt: skip


# What is not its own.


@breaks("teacher_stands_still", "are the teacher's and would be trained. Freeze a copy", COHORT, BF16)
class TrainsHead(Head):
    """Trains the teacher's classifier."""

    def __init__(self, student: int, teacher: int, head: nn.Module, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, head, weight=weight)
        self.head = head.requires_grad_(True)

    def more(self, student, guide, batch, progress):
        logits = self.head(self.adapter(student.embedding))
        return {"more": nn.functional.cross_entropy(logits, batch.labels)}


@breaks("teacher_stands_still", "the teacher's classifier is in training mode or changes")
class HeadInTraining(Head):
    """Leaves the teacher's batch norm in training mode."""

    def __init__(self, student: int, teacher: int, head: nn.Module, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, head, weight=weight)
        self.head = head.requires_grad_(False)

    def train(self, mode: bool = True) -> Distiller:
        return nn.Module.train(self, mode)


SHARED = "nothing_shared_is_written_to"
writing("Images", lambda s, g, b, p: b.images.mul_(0.5), "writes into batch.images, which", COHORT, BF16)
writing("ImageData", lambda s, g, b, p: b.images.data.mul_(0.5), "writes into batch.images, which", COHORT)
writing("Labels", lambda s, g, b, p: b.labels.data.zero_(), "writes into batch.labels, which", COHORT, STATE)
writing("LogitData", lambda s, g, b, p: s.logits.data.mul_(0.5), "into the student's logits, which", STATE)
writing(
    "Logits", lambda s, g, b, p: s.logits.mul_(0.5), "into what it is given (a leaf", *STEPS - {COHORT, BF16}
)
writing(
    "Digest", lambda s, g, b, p: g.teacher["embedding"].data.zero_(),
    "writes into guide.teacher['embedding'], which", COHORT, STATE, "digest_follows_its_options", base=Hint,
)  # fmt: skip
writing(
    "StoredSoftLabels", lambda s, g, b, p: g.soft_labels.log_probs(4.0).clamp_(-1e9),
    "writes into guide.soft_labels, which",
)  # fmt: skip


writing("AsksForGradients", lambda s, g, b, p: b.images.requires_grad_(), "writes into batch.images, which")


@breaks(SHARED, "writes into the training labels, which others read too")
class SortsLabels(Soft):
    """Sorts the training labels where they lie."""

    @classmethod
    def for_setting(cls, setting, **options):
        setting.labels.copy_(setting.labels.sort().values)
        return cls(**options)


@breaks(SHARED, "writes into the teacher's embedding, which others read too", COHORT, BF16)
class TeacherInPlace(Hint):
    """Writes into the teacher's output, where it happens to change no number."""

    def digest(self, teacher):
        return {"embedding": teacher.embedding.relu_().clone()}


# Draws and state.

KEEPS = "keeps_nothing_in_its_class"

for draw in (random.random, np.random.rand):
    soft(
        draw.__name__, lambda s, g, b, p, draw=draw: s.logits.mean() * float(draw()),
        "steps_repeat", "two equal steps give different numbers. Draw from", STATE, COHORT,
    )  # fmt: skip


@breaks("steps_repeat", "it changes torch's settings from {'grad': True, 'dtype': torch.float32", COHORT)
class Precise(Soft):
    """Makes float64 the default for everybody."""

    def more(self, student, guide, batch, progress):
        torch.set_default_dtype(torch.float64)
        return {}


@breaks("steps_stand_alone", "a gradient flows into outputs of an earlier step", STATE, COHORT, BF16)
class HoldsGraph(Soft):
    """Keeps the last step's logits with all that they hang on."""

    last: Tensor | None = None

    def more(self, student, guide, batch, progress):
        before = student.logits if self.last is None else self.last
        self.last = student.logits
        return {"more": (2 * student.logits.mean() - before.mean()).square()}


@breaks(KEEPS, "KeptOnce.scale changes while it trains, for all members. Keep it in")
class KeptOnce(Soft):
    """Measures a constant on the first batch of all, for all its instances."""

    scale: ClassVar[Tensor | None] = None

    def more(self, student, guide, batch, progress):
        if KeptOnce.scale is None:
            KeptOnce.scale = torch.ones(1)
        return {"more": student.logits.square().mean()}


@breaks(STATE, "goes on with other numbers than the original")
class PlainState(Soft):
    """Counts its steps where no checkpoint sees it."""

    steps = 0

    def more(self, student, guide, batch, progress):
        self.steps += 1
        return {"more": student.logits.square().mean() / self.steps}


@breaks(STATE, "goes on with other numbers than the original")
class FirstBatch(Soft):
    """Measures a constant on the first batch, where no checkpoint sees it."""

    scale: Tensor | None = None

    def more(self, student, guide, batch, progress):
        if self.scale is None:
            self.scale = student.logits.detach().abs().mean()
        return {"more": student.logits.square().mean() / (self.scale + 1)}


@breaks(STATE, "another instance cannot load what was saved")
class LateBuffer(Soft):
    """Registers a buffer when it is first used."""

    def more(self, student, guide, batch, progress):
        if not hasattr(self, "centre"):
            self.register_buffer("centre", student.logits.detach().mean())
        return {"more": (student.logits - self.centre).square().mean()}


# Its digest.

ROWS = "digest_rows_stand_alone"


@breaks(ROWS, "rows of digest 'embedding' depend on the rest of the batch, 4 of 8 samples with 'ordinary'")
class Centred(Hint):
    """Digests each sample against the mean of its batch."""

    def digest(self, teacher):
        return {"embedding": teacher.embedding - teacher.embedding.mean(dim=0)}


@breaks(ROWS, "rows of digest 'embedding' depend on the rest of the batch, 1 of 8 samples with 'ordinary'")
class AloneOther(Hint):
    """Digests a sample that comes alone in another way."""

    def digest(self, teacher):
        return {"embedding": teacher.embedding * (2 if len(teacher.embedding) == 1 else 1)}


@breaks(ROWS, "digest 'embedding' must have a row for each sample, or digest_scope = 'batch'")
class Summary(Hint):
    """Digests a batch to one row."""

    def digest(self, teacher):
        return {"embedding": teacher.embedding.mean(dim=0, keepdim=True)}


@breaks(DECLARED, "Nested.digest must return a dict of named tensors, got a tuple under 'sizes'")
class Nested(Hint):
    """Digests to a tuple."""

    def digest(self, teacher):
        return {"embedding": teacher.embedding, "sizes": tuple(teacher.embedding.shape)}


@breaks("digest_follows_its_options", "depends on option 'weight'. Name it in digest_options", COHORT)
class SecretOption(Hint):
    """Digests by an option that it does not name."""

    def digest(self, teacher):
        return {"embedding": teacher.embedding * (1 + self.weight)}


@breaks("digest_follows_its_options", "is another for other initial weights. Read none of its parameters")
class LearntDigest(Hint):
    """Digests behind a layer of its own."""

    def __init__(self, student: int, teacher: int, *, weight: Positive = 0.01) -> None:
        super().__init__(student, teacher, weight=weight)
        self.bias = nn.Parameter(torch.rand(teacher))

    def digest(self, teacher):
        return {"embedding": teacher.embedding + self.bias}

    def more(self, student, guide, batch, progress):
        return {"more": self.bias.square().mean()}


@breaks(
    "digest_follows_its_options", "it raises AttributeError where another instance made the digest", COHORT
)
class LeftBehind(Hint):
    """Leaves in the instance what only the one that made the digest has then."""

    def digest(self, teacher):
        self.mean = teacher.embedding.mean()
        return {"embedding": teacher.embedding}

    def more(self, student, guide, batch, progress):
        return {"more": (student.embedding.mean() - self.mean).square()}


# Devices.

DEVICE = "no_step_waits_for_the_device"
FAILS = "a step on a GPU fails with "
soft("Item", lambda s, g, b, p: s.logits.mean() * s.logits.max().item(), DEVICE, FAILS + "DataDependent")
soft("Bool", lambda s, g, b, p: s.logits.mean() * (2 if s.logits.max() > 0 else 1), DEVICE, FAILS + "DataDep")
soft(
    "LateItem", lambda s, g, b, p: s.logits.mean() * (s.logits.max().item() if p.epoch > 30 else 1.0),
    DEVICE, FAILS + "DataDependent",
)  # fmt: skip
soft("Indexing", lambda s, g, b, p: s.logits[s.logits > -1e9].mean(), DEVICE, FAILS + "DynamicOutputShape")
soft(
    "OnCPU",
    lambda s, g, b, p: (s.logits * torch.ones(s.logits.shape)).mean(),
    DEVICE,
    FAILS,
)
soft("TermOnCPU", lambda s, g, b, p: s.logits.mean().cpu(), DEVICE, "terms ['more'] are not on the student's")


@breaks(DEVICE, "register what is kept as parameters and buffers")
class Unregistered(Soft):
    """Keeps a tensor that does not move with it."""

    def __init__(self, *, weight: Positive = 1.0) -> None:
        super().__init__(weight=weight)
        self.scale = torch.full((1,), 0.5)

    def more(self, student, guide, batch, progress):
        return {"more": (self.scale * student.logits).square().mean()}


@breaks(DEVICE, FAILS + "DataDependent")
class OtherPath(Soft):
    """Waits for the device at one of its choices.

    Args:
        hard: whether to wait.
    """

    def __init__(self, *, weight: Positive = 1.0, hard: bool = False) -> None:
        super().__init__(weight=weight)
        self.hard = hard

    def more(self, student, guide, batch, progress):
        factor = student.logits.max().item() if self.hard else 1.0
        return {"more": factor * student.logits.square().mean()}


# The network that is judged, unlike networks, and others beside.


def halved(student: nn.Module) -> nn.Module:
    for parameter in student.parameters():
        parameter.data.mul_(0.5)
    return student


def reordered(output: ModelOutput) -> Tensor:
    logits = torch.zeros(output.logits.shape)
    logits[:, torch.arange(logits.shape[1])] = output.logits
    return logits


class Bare(nn.Module):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images).logits


JUDGED, OPTIONS = "deployed_network_gives_logits", "every_option_changes_a_number"
deploying(
    "TooFew", lambda student: Wrapped(student, lambda output: output.logits[:, 1:]),
    JUDGED, "must give finite logits of shape (3, 10), got (3, 9).",
)  # fmt: skip
deploying(
    "Together", lambda student: Wrapped(student, lambda output: output.logits - output.logits.mean(dim=0)),
    JUDGED, "what the deployed network says of an image depends on the rest of the batch",
)  # fmt: skip
deploying("InPlace", halved, JUDGED, "it writes into the student's ")
deploying("BareLogits", Bare, JUDGED, "must return a ModelOutput, got Tensor", OPTIONS, COHORT, BF16)
deploying(
    "FloatOnly", lambda student: Wrapped(student, reordered),
    BF16, "training fails with RuntimeError: Index put requires the source and destination dtypes match",
)  # fmt: skip


@breaks(JUDGED, "the deployed network cannot be exported, RuntimeError")
class HiddenParts(Head):
    """Deploys parts that are no submodules, so that they would not be saved."""

    def deployed(self, student):
        return Wrapped(student, lambda output: behind(output, self.adapter, self.head))


@breaks(JUDGED, "the deployed network cannot be exported, RuntimeError")
class HiddenHead(Head):
    """Deploys the teacher's classifier as no submodule, so that it would not be saved."""

    def deployed(self, student):
        return Wrapped(student, lambda output, adapter: behind(output, adapter, self.head), self.adapter)


deploying(
    "Dropping", lambda student: Wrapped(student, lambda output: nn.functional.dropout(output.logits)),
    JUDGED, "the deployed network gives other logits each time", COHORT,
)  # fmt: skip


@breaks(
    "can_be_recorded", "its record cannot be written, AttributeError: 'tuple' object has no attribute 'desc"
)
class OddPairs(Soft):
    """Calls something of its own pairs."""

    def __init__(self, *, weight: Positive = 1.0) -> None:
        super().__init__(weight=weight)
        self.pairs = ((0, 1),)


@breaks("can_be_recorded", "for_setting must give a Disguised with options ['weight'], got a Soft")
class Disguised(Soft):
    """Builds another method."""

    @classmethod
    def for_setting(cls, setting, **options):
        return Soft(**options)


@breaks("unlike_networks_work_or_are_refused", "in a sentence of at most 400 characters, got 499: No. No.")
class Talkative(Hint):
    """Refuses a pair in 500 characters."""

    @classmethod
    def for_setting(cls, setting, **options):
        if setting.teacher.embedding == (2048,):
            raise UsageError(("No. " * 125).strip())
        return super().for_setting(setting, **options)


@breaks(
    "unlike_networks_work_or_are_refused", "it raises ValueError with 'resnet18 under resnet50': unexpected"
)
class Crashing(Hint):
    """Falls over a pair rather than to refuse it."""

    @classmethod
    def for_setting(cls, setting, **options):
        if setting.teacher.embedding == (2048,):
            raise ValueError("unexpected")
        return super().for_setting(setting, **options)


@breaks("steps_repeat", "keep nothing outside the instance", STATE, COHORT, KEEPS)
class ClassState(Soft):
    """Counts the steps of all its instances together."""

    steps: ClassVar[list[int]] = [0]

    def more(self, student, guide, batch, progress):
        self.steps[0] += 1
        return {"more": student.logits.square().mean() / self.steps[0]}


@breaks(COHORT, "trained alone and in a cohort, its student's", STATE, KEEPS)
class ClassStateReset(ClassState):
    """Counts the steps of all its instances since the last was built."""

    def __init__(self, *, weight: Positive = 1.0) -> None:
        super().__init__(weight=weight)
        self.steps[0] = 0


@breaks(COHORT, "training fails with RuntimeError: The size of tensor", BF16)
class FirstSize(Soft):
    """Keeps a mask of the first batch's size, and meets the last batch of the epoch."""

    mask: Tensor | None = None

    def more(self, student, guide, batch, progress):
        if self.mask is None:
            self.mask = torch.eye(len(batch.labels), device=student.logits.device)
        return {"more": ((student.logits @ student.logits.T) * self.mask).mean()}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.cls.__name__)
def test_broken_distiller_is_found_by_the_rule_for_it(broken: Broken) -> None:
    faults: dict[str, str] = {}
    skipped: list[str] = []
    expected = {broken.rule, *broken.follows}
    for check in distiller_checks(broken.cls, pairs=network_pairs()[:3]):
        # The two rules that train cohorts take most of the time, and run where they shall find something.
        if check.name in expected or check.name not in (COHORT, BF16):
            try:
                check()
            except ContractError as error:
                faults[check.name] = str(error)
            except SkipTest as reason:
                skipped.append(str(reason))
    assert broken.words in faults.get(broken.rule, "kept"), faults
    # Where it cannot be used at all, the rule that is meant for it has said so.
    assert set(skipped) <= {f"not run: {faults[broken.rule]}"}
    assert set(faults) == expected, faults


@pytest.mark.parametrize("twin", [Soft, Hint, Head, Bank], ids=lambda twin: twin.__name__)
def test_whole_twin_keeps_the_contract(twin: type[Distiller]) -> None:
    check_distiller(twin)


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_every_rule_finds_something_that_is_broken(rule: str) -> None:
    assert rule in {broken.rule for broken in BROKEN}


def test_check_distiller_raises_with_the_name_of_the_rule() -> None:
    with pytest.raises(ContractError) as caught:
        check_distiller(Negative, pairs=())
    lines = str(caught.value).splitlines()
    assert lines[0] == f"Negative: 1 of {len(RULES)} rules of its contract are not kept"
    assert lines[1].startswith("- label_weight_is_a_finite_number: label_weight must be")
