"""Sources that are broken on purpose, each in one way: the rule that is meant for it finds it and says so,
and besides only those rules do that its fault breaks as well. Their whole twins keep the contract."""

import random
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdzoo.checks import Count, Fraction, NonNegative, Positive, UsageError
from kdzoo.models import build_model
from kdzoo.outputs import Batch, SoftLabels, probabilities, scores
from kdzoo.sources import Source
from kdzoo.testing import ContractError, check_source, source_checks
from kdzoo.testing.sources import RULES

NUMBERS = {
    "soft_labels_are_distributions", "rows_follow_their_samples", "every_option_changes_a_number",
    "nothing_shared_is_written_to", "no_gradient_flows_through_it", "no_step_waits_for_the_device",
    "every_logit_method_takes_it",
}  # fmt: skip
# Rules that ask for soft labels, and so fail with whatever fails there.
ASKED = NUMBERS | {
    "asks_only_for_what_it_declares",
    "uses_what_it_declares",
    "fitting_repeats",
    "asks_the_teacher_once_a_batch",
}


class Broken(NamedTuple):
    cls: type[Source]
    rule: str
    words: str
    follows: tuple[str, ...]


BROKEN: list[Broken] = []


def breaks(rule: str, words: str, *follows: str) -> Callable[[type[Source]], type[Source]]:
    """Note which rule finds a class, in which words, and which other rules its fault breaks."""

    def keep(cls: type[Source]) -> type[Source]:
        BROKEN.append(Broken(cls, rule, words, follows))
        return cls

    return keep


class Smooth(Source):
    """The true class, and a share of the others.

    Args:
        share: of all classes together.
    """

    paper = "none: a test"

    def __init__(self, *, share: Fraction = 0.1) -> None:
        self.share = share

    def fit(self, workshop):
        self._classes = workshop.num_classes
        self._table = torch.eye(workshop.num_classes)

    def values(self, batch: Batch) -> Tensor:
        """Give the rows that a broken one changes."""
        return (1 - self.share) * self._table[batch.labels] + self.share / self._classes

    def __call__(self, batch: Batch) -> SoftLabels:
        return probabilities(self.values(batch))


class Taught(Source):
    """The teacher's scores times a factor.

    Args:
        factor: of the scores.
    """

    needs = frozenset({"teacher"})
    paper = "none: a test"

    def __init__(self, *, factor: Positive = 2.0) -> None:
        self.factor = factor

    def fit(self, workshop):
        self._workshop = workshop

    def __call__(self, batch: Batch) -> SoftLabels:
        return scores(self.factor * self._workshop.teacher(batch).logits)


class Encoded(Source):
    """How close class means are in the eyes of a network that is trained for it.

    Args:
        target: what all its features shall be.
        sharpness: of the soft labels.
    """

    trains = ("encoder",)
    train_options = ("target",)
    paper = "none: a test"

    def __init__(self, *, target: NonNegative = 1.0, sharpness: Positive = 3.0) -> None:
        self.target = target
        self.sharpness = sharpness

    def loss(self, workshop) -> Callable[[nn.Module, Batch], Tensor]:
        """Give the loss that a broken one changes."""
        return lambda network, batch: (network(batch.images).embedding - self.target).square().mean()

    def fit(self, workshop):
        network = workshop.train("encoder", self.loss(workshop))
        order = np.arange(len(workshop.labels))
        images = workshop.images(order, purpose="encoded", draw=0, augmented=False)
        with torch.no_grad():
            features = self.features(network, images)
        member = torch.eye(workshop.num_classes)[torch.from_numpy(workshop.labels)]
        means = member.T @ features / member.sum(dim=0)[:, None]
        self._rows = (-self.sharpness * torch.cdist(means, means)).softmax(dim=1)

    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """Give what a broken one gets in another way."""
        return network(images).embedding

    def __call__(self, batch: Batch) -> SoftLabels:
        return probabilities(self._rows[batch.labels])


class Placed(Smooth):
    """Every sample a number of its own, drawn by the run's key; the data must have images to spare."""

    needs = frozenset({"indices"})

    def check(self, setting):
        if len(setting.labels) < 3 * setting.classes:
            raise UsageError("Placed: every class needs three training images or more. Add images.")

    def fit(self, workshop):
        super().fit(workshop)
        draws = torch.Generator().manual_seed(workshop.key("placed"))
        self._own = torch.rand(len(workshop.labels), workshop.num_classes, generator=draws).softmax(dim=1)

    def values(self, batch):
        return (1 - self.share) * self._own[batch.indices] + self.share / self._classes


def encoder() -> nn.Module:
    return build_model("lenet5", num_classes=4, channels=1, size=32)


NETWORKS = {"encoder": encoder}


def odd(name: str, values: Callable[[Smooth, Batch], Any], *found: str, base: type[Source] = Smooth) -> None:
    """Make a source of other values."""
    members = {"values": lambda self, batch: values(self, batch), "__module__": __name__}
    breaks(*found)(type(name, (base,), members | {"__doc__": "Gives something odd."}))


ARTIFACTS = "artifacts_follow_their_options"

# What it declares.


@breaks("declares_itself", "options ['power'] must stand in the class docstring under 'Args:'")
class Undocumented(Smooth):
    """An option without a word about it."""

    def __init__(self, *, share: Fraction = 0.1, power: Positive = 2.0) -> None:
        super().__init__(share=share)
        self.power = power

    def values(self, batch):
        rows = super().values(batch) ** self.power
        return rows / rows.sum(dim=1, keepdim=True)


@breaks("declares_itself", "follows must be a registered name, got 'reffak'")
class FollowsNobody(Smooth):
    """Takes the settings of a source that there is not."""

    follows = "reffak"


@breaks("declares_itself", "trains must be a tuple of names, got 'encoder'", "uses_what_it_declares")
class NoTuple(Encoded):
    """Spells what it trains letter by letter."""

    trains = "encoder"


ASKS = "asks_only_for_what_it_declares"


@breaks(ASKS, 'it asks for the teacher. Declare needs = frozenset({"teacher"})', *ASKED)
class SecretTeacher(Taught):
    """Asks for a teacher that it does not declare."""

    needs = frozenset()


@breaks(ASKS, "it trains 'encoder'. Declare it in trains, which has ()", *ASKED)
class SecretTraining(Encoded):
    """Trains what it does not declare."""

    trains = ()


@breaks(ASKS, "it builds 'encoder'. Declare it in builds, which has ()", *ASKED, ARTIFACTS)
class SecretBuilding(Encoded):
    """Builds what it does not declare."""

    def fit(self, workshop):
        workshop.untrained("encoder", "secret")
        super().fit(workshop)


@breaks(ASKS, "Positions (batch.indices) are None unless needs has 'indices'", *ASKED)
class SecretPositions(Placed):
    """Reads positions that it does not declare."""

    needs = frozenset()

    def values(self, batch):
        return self._own[batch.indices + 0]


@breaks(
    "uses_what_it_declares",
    "it never asks for ['teacher']. Take that out of needs, trains",
)
class IdleTeacher(Smooth):
    """Costs every run a teacher."""

    needs = frozenset({"teacher"})


@breaks("uses_what_it_declares", "it never asks for ['encoder']")
class IdleTraining(Smooth):
    """Declares an artifact that it never makes."""

    trains = ("encoder",)


@breaks("asks_the_teacher_once_a_batch", "it runs the teacher 1 times for each batch beside the pass that")
class SecondPass(Taught):
    """Lets the teacher see the images mirrored."""

    def __call__(self, batch):
        mirrored = self._workshop.teacher(batch._replace(images=batch.images.flip(-1)))
        return scores(self.factor * mirrored.logits)


# How it is made ready.

REPEATS, ROWS = "fitting_repeats", "rows_follow_their_samples"
for draw in (random.random, np.random.rand):
    odd(
        draw.__name__, lambda s, b, draw=draw: (Smooth.values(s, b) * (1 + draw())).softmax(dim=1),
        REPEATS, "made ready or asked again, it gives other soft labels. Key every draw", ROWS,
    )  # fmt: skip


@breaks(REPEATS, "keep nothing from one batch to the next", ROWS)
class Counting(Smooth):
    """Becomes smoother with every batch."""

    asked = 0

    def values(self, batch):
        self.asked += 1
        share = self.share**self.asked
        return (1 - share) * self._table[batch.labels] + share / self._classes


@breaks(REPEATS, "content must be texts that stay the same once it is ready")
class NewContent(Smooth):
    """Says what it depends on when it is ready, and not before."""

    def content(self):
        return {"table": str(getattr(self, "asked", 0))}

    def values(self, batch):
        self.asked = getattr(self, "asked", 0) + 1
        return super().values(batch)


@breaks(ARTIFACTS, "'encoder' is trained to other weights at target=2.0. Name 'target' in train_options")
class SecretOption(Encoded):
    """Trains by an option that it does not name."""

    train_options = ()


@breaks(ARTIFACTS, "'encoder' is trained to other weights for another seed of the run")
class SeededArtifact(Encoded):
    """Trains what all seeds share by a draw of its own seed."""

    def loss(self, workshop):
        factor = 1 + workshop.key("factor") % 7
        return lambda network, batch: (network(batch.images).embedding - self.target * factor).square().mean()


# Its soft labels.

SUMS, TAKES = "soft_labels_are_distributions", "every_logit_method_takes_it"


def too_much(self: Smooth, batch: Batch) -> Tensor:
    return self._table[batch.labels] + self.share


def lost(self: Smooth, batch: Batch) -> Tensor:
    return self._table[batch.labels] * torch.nan


def all_classes(self: Smooth, batch: Batch) -> Tensor:
    return Smooth.values(self, batch._replace(labels=torch.arange(self._classes)))


def by_place(self: Smooth, batch: Batch) -> Tensor:
    places = torch.linspace(0, self.share, len(batch.labels))[:, None]
    return (self._table[batch.labels] + places * torch.arange(self._classes)).softmax(dim=1)


odd(
    "TooMuch",
    too_much,
    SUMS,
    "rows must sum to 1, got 1.4 (with 4 classes and 24 training images, a batch of 1",
)
odd("Lost", lost, SUMS, "rows must sum to 1, got nan", REPEATS, ROWS, TAKES)
odd("Whole", all_classes, SUMS, "must be floating-point [1, 4], got torch.float32 (4, 4)", ROWS, TAKES)
odd("Together", by_place, ROWS, "a sample's soft labels depend on the rest of the batch")


@breaks("every_option_changes_a_number", "option 'power' changes nothing, no soft label")
class Ignored(Smooth):
    """An option that does nothing.

    Args:
        power: nothing.
    """

    def __init__(self, *, share: Fraction = 0.1, power: Count = 1) -> None:
        super().__init__(share=share)


@breaks("every_option_changes_a_number", "option 'kind' does the same at 'odd' as at 'strange'")
class SameChoice(Smooth):
    """Two names for one thing.

    Args:
        kind: of what.
    """

    def __init__(self, *, share: Fraction = 0.1, kind: Literal["even", "odd", "strange"] = "even") -> None:
        super().__init__(share=share if kind == "even" else share / 2)


SHARED = "nothing_shared_is_written_to"


def spoilt(self: Smooth, batch: Batch) -> Tensor:
    batch.images.data.mul_(0.5)
    return Smooth.values(self, batch)


odd("WritesImages", spoilt, SHARED, "it writes into batch.images, which others read too")


@breaks(SHARED, "it writes into the teacher's logits, which others read too")
class WritesTeacher(Taught):
    """Works in place on what the teacher said to all."""

    def __call__(self, batch):
        logits = self._workshop.teacher(batch).logits
        return scores(logits.copy_(self.factor * logits.clone().clamp(-1, 1) / self.factor) * self.factor)


@breaks(SHARED, "it writes into workshop.labels, which others read too")
class WritesLabels(Smooth):
    """Works in place on the training labels."""

    def fit(self, workshop):
        super().fit(workshop)
        workshop.labels[0] = (workshop.labels[0] + 1) % workshop.num_classes


@breaks(SHARED, "it writes into conv1.1.running_mean of encoder, which others read too")
class MovesStatistics(Encoded):
    """Leaves the network that it shares in training mode."""

    def features(self, network, images):
        network.train()(images)
        return network.eval()(images).embedding


@breaks(SHARED, "it leaves encoder in training mode")
class LeavesTraining(Encoded):
    """Leaves the network that it shares in training mode, and that does not show yet."""

    def features(self, network, images):
        features = network(images).embedding
        network.train()
        return features


@breaks("no_gradient_flows_through_it", "its soft labels take gradients. Make them under torch.no_grad()")
class Learning(Smooth):
    """Gives soft labels that could be trained."""

    def fit(self, workshop):
        super().fit(workshop)
        self._table.requires_grad_()


WAITS = "no_step_waits_for_the_device"
GPU = "a step on a GPU would fail or wait: D"
odd("Item", lambda s, b: Smooth.values(s, b) * (1 if b.images.max().item() < 1e9 else 0), WAITS, GPU)
odd("Indexing", lambda s, b: Smooth.values(s, b)[b.labels >= 0], WAITS, GPU)


@breaks("every_logit_method_takes_it", "it raises KeyError in ")
class FewTemperatures(Taught):
    """Knows but the temperatures that somebody thought of."""

    def __call__(self, batch):
        return Tables(super().__call__(batch))


class Tables:
    def __init__(self, soft_labels: SoftLabels) -> None:
        self.tables = {t: soft_labels.log_probs(t) for t in (0.5, 1.0, 4.0, 20.0)}

    def log_probs(self, temperature: float) -> Tensor:
        return self.tables[temperature]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.cls.__name__)
def test_broken_source_is_found_by_the_rule_for_it(broken: Broken) -> None:
    faults: dict[str, str] = {}
    expected = {broken.rule, *broken.follows}
    for check in source_checks(broken.cls, networks=NETWORKS):
        # The rule that trains under every method takes most of the time, and runs where it shall find
        # something; of whole sources it runs below.
        if check.name in expected or check.name != "every_logit_method_takes_it":
            try:
                check()
            except ContractError as error:
                faults[check.name] = str(error)
    assert broken.words in faults.get(broken.rule, "kept"), faults
    assert set(faults) == expected, faults


@pytest.mark.parametrize("twin", [Smooth, Taught, Encoded, Placed], ids=lambda twin: twin.__name__)
def test_whole_twin_keeps_the_contract(twin: type[Source]) -> None:
    check_source(twin, networks=NETWORKS)


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_every_rule_finds_something_that_is_broken(rule: str) -> None:
    assert rule in {broken.rule for broken in BROKEN}


def test_check_source_raises_with_the_name_of_the_rule() -> None:
    with pytest.raises(ContractError) as caught:
        check_source(Learning)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"Learning: 1 of {len(RULES)} rules of its contract are not kept"
    assert lines[1].startswith("- no_gradient_flows_through_it: its soft labels take gradients.")
