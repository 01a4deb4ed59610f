"""Networks that are broken on purpose, each in one way: the rule that is meant for it finds it and says so.
Their whole twin keeps the contract."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kdzoo.checks import Count
from kdzoo.outputs import ModelOutput
from kdzoo.testing import ContractError, check_model, model_checks
from kdzoo.testing.models import RULES


class Broken(NamedTuple):
    cls: Callable[..., nn.Module]
    rule: str
    words: str


BROKEN: list[Broken] = []


def breaks(rule: str, words: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Note which rule finds a class, and in which words."""

    def keep(cls: type[nn.Module]) -> type[nn.Module]:
        BROKEN.append(Broken(cls, rule, words))
        return cls

    return keep


class Whole(nn.Module):
    """Two stages and a classifier.

    Args:
        num_classes: classes K.
        channels: of its input images.
        size: of its input images in pixels.
        width: channels of the first stage.
    """

    def __init__(self, num_classes: int, channels: int, size: int, *, width: Count = 4) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(channels, width, 5, stride=4), nn.BatchNorm2d(width))
        self.coarse = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        fine = self.fine(self.seen(images))
        coarse = self.coarse(fine.relu())
        embedding = self.dropout(coarse.relu().mean(dim=(2, 3)))
        return self.changed(
            ModelOutput(self.classifier(embedding), embedding, (fine.relu(), coarse.relu()), (fine, coarse))
        )

    def seen(self, images: Tensor) -> Tensor:
        """Give the images that a broken one changes."""
        return images

    def changed(self, output: ModelOutput) -> ModelOutput:
        """Give the output that a broken one changes."""
        return output


@breaks("declares_itself", "it must have a docstring")
class Silent(Whole):
    pass


Silent.__doc__ = ""


@breaks("declares_itself", "options ['depth'] must stand in the class docstring")
class Undocumented(Whole):
    """Has an option that nobody explains."""

    def __init__(self, num_classes: int, channels: int, size: int, *, depth: Count = 4) -> None:
        super().__init__(num_classes, channels, size, width=depth)


@breaks("declares_itself", "it must take (num_classes, channels, size)")
class OtherSizes(Whole):
    """Takes its sizes in another order."""

    def __init__(self, channels: int, num_classes: int, size: int) -> None:
        super().__init__(num_classes=num_classes, channels=3, size=size)


def returns(name: str, rule: str, words: str, change: Callable[[Whole, ModelOutput], object]) -> None:
    """Make a broken network of what it returns."""
    breaks(rule, words)(type(name, (Whole,), {"__doc__": "Broken.", "changed": change}))


OUTPUT = "returns_a_model_output"
returns("Bare", OUTPUT, "it must return a kdzoo.ModelOutput, got Tensor", lambda s, o: o.logits)
returns("NoLogits", OUTPUT, "logits must be [N, num_classes]", lambda s, o: o._replace(logits=None))
returns("FewLogits", OUTPUT, "[3, 10] here, got [3, 9]", lambda s, o: o._replace(logits=o.logits[:, 1:]))
returns(
    "Flat", OUTPUT, "embedding must be [N, D]", lambda s, o: o._replace(embedding=o.embedding[:, :, None])
)
returns(
    "List", OUTPUT, "stages must be a tuple of [N, C, H, W]", lambda s, o: o._replace(stages=list(o.stages))
)
returns(
    "Backwards", OUTPUT, "stages must go from fine to coarse", lambda s, o: o._replace(stages=o.stages[::-1])
)
returns("Fewer", OUTPUT, "one for each", lambda s, o: o._replace(preactivations=o.preactivations[:1]))
returns(
    "Moody", OUTPUT, "it returns other shapes in training mode",
    lambda s, o: o if s.training else o._replace(stages=None, preactivations=None),
)  # fmt: skip
returns(
    "Elsewhere", "embedding_feeds_the_classifier", "classifier(embedding) must give the logits",
    lambda s, o: o._replace(embedding=o.embedding * 2),
)  # fmt: skip
returns(
    "Together", "samples_stand_alone", "changes with the other images of its batch",
    lambda s, o: o._replace(logits=o.logits + o.logits.sum(dim=0)),
)  # fmt: skip
returns(
    "Bfloat", "runs_in_bf16", "logits is not finite under autocast",
    lambda s, o: o._replace(logits=o.logits * (1.0 if o.logits.dtype == torch.float32 else torch.inf)),
)  # fmt: skip


@breaks("gradients_are_finite_and_reach_everything", "idle.weight gets no gradient")
class Idle(Whole):
    """Has a layer that nothing uses."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__(num_classes, channels, size)
        self.idle = nn.Linear(2, 2)


@breaks("gradients_are_finite_and_reach_everything", "is not finite on ordinary images")
class Rooted(Whole):
    """Takes the root of 0."""

    def changed(self, output: ModelOutput) -> ModelOutput:
        return output._replace(logits=output.logits + (output.stages[0] * 0).sqrt().sum())


@breaks("forward_passes_repeat", "draws from something other than torch's default generator")
class Dice(Whole):
    """Draws from Python's generator."""

    def changed(self, output: ModelOutput) -> ModelOutput:
        return output._replace(logits=output.logits + random.random()) if self.training else output


@breaks("forward_passes_repeat", "Keep nothing from one pass to the next")
class Counting(Whole):
    """Counts its passes."""

    passes = 0

    def changed(self, output: ModelOutput) -> ModelOutput:
        self.passes += not self.training
        return output._replace(logits=output.logits * self.passes) if self.passes > 1 else output


@breaks("initial_weights_follow_the_seed", "do not follow torch's default generator")
class Unkeyed(Whole):
    """Draws its weights from Python's generator."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__(num_classes, channels, size)
        self.classifier.bias.data.fill_(random.random())


@breaks("initial_weights_follow_the_seed", "are the same for every seed")
class Constant(Whole):
    """Begins with constants."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__(num_classes, channels, size)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)


@breaks("nothing_given_is_written_to", "it writes into its images")
class Writing(Whole):
    """Normalises its images in place."""

    def seen(self, images: Tensor) -> Tensor:
        return images.mul_(0.5)


@breaks("state_comes_back", "a network that was saved and loaded gives other numbers")
class Forgetful(Whole):
    """Keeps a running mean in a plain attribute."""

    mean: Tensor | float = 0.0

    def changed(self, output: ModelOutput) -> ModelOutput:
        if self.training:
            self.mean = output.logits.detach().mean()
        return output._replace(logits=output.logits + self.mean)


@breaks("can_be_planned_without_weights", "it raises ")
class Peeking(Whole):
    """Reads its weights when it is built."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__(num_classes, channels, size)
        self.scale = self.classifier.weight.abs().max().item()


@breaks("can_be_planned_without_weights", "its shapes on the meta device are")
class OtherShapes(Whole):
    """Gives other shapes where there are no numbers."""

    def changed(self, output: ModelOutput) -> ModelOutput:
        return output._replace(embedding=None) if output.logits.is_meta else output


@breaks("everything_stays_on_the_device", "logits is on cpu, not where the images are")
class AtHome(Whole):
    """Answers on the CPU."""

    def changed(self, output: ModelOutput) -> ModelOutput:
        return output._replace(logits=output.logits.cpu())


@breaks("can_be_recorded", "a pass in evaluation mode changes seen")
class Remembering(Whole):
    """Counts images in a buffer, whatever its mode."""

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__(num_classes, channels, size)
        self.register_buffer("seen_images", torch.zeros(()))

    def seen(self, images: Tensor) -> Tensor:
        self.seen_images += len(images)
        return images


@breaks("every_option_changes_it", "option 'depth' changes nothing")
class Ignoring(Whole):
    """Ignores its option.

    Args:
        depth: of nothing.
    """

    def __init__(self, num_classes: int, channels: int, size: int, *, depth: Count = 4) -> None:
        super().__init__(num_classes, channels, size)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.cls.__name__)
def test_broken_network_is_found_by_the_rule_for_it(broken: Broken) -> None:
    (check,) = (c for c in model_checks(broken.cls) if c.name == broken.rule)
    with pytest.raises(ContractError) as caught:
        check()
    assert broken.words in str(caught.value)


def test_whole_twin_keeps_the_contract() -> None:
    check_model(Whole)
    check_model(Whole, options={"width": 2}, num_classes=3, channels=1, size=64)


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_every_rule_finds_something_that_is_broken(rule: str) -> None:
    assert rule in {broken.rule for broken in BROKEN}


def test_an_autoencoder_may_have_no_logits_and_a_network_no_features() -> None:
    check_model("autoencoder")

    class LogitsAlone(Whole):
        """Logits alone."""

        def changed(self, output: ModelOutput) -> ModelOutput:
            return ModelOutput(output.logits)

    check_model(LogitsAlone)


@pytest.mark.parametrize(
    ("thing", "words"),
    [("lenet6", "Did you mean 'lenet5'"), (3, "takes a class, a function or a name, got 3")],
)
def test_what_is_no_network_is_refused(thing: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_model(thing)  # type: ignore[arg-type]


# A fast one of each family; tests/models holds all of them to as much and more.
@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
def test_the_zoos_own_keep_the_contract(name: str) -> None:
    check_model(name)
