"""The contract of networks: the same rules for third parties as for the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdzoo.checks import UsageError, checked, options_of
from kdzoo.models.base import find_model
from kdzoo.testing import model_rules
from kdzoo.testing.contract import Check, Rule, bind, run_all

RULES: tuple[Rule, ...] = (
    model_rules.declares_itself,
    model_rules.returns_a_model_output,
    model_rules.embedding_feeds_the_classifier,
    model_rules.gradients_are_finite_and_reach_everything,
    model_rules.samples_stand_alone,
    model_rules.forward_passes_repeat,
    model_rules.initial_weights_follow_the_seed,
    model_rules.nothing_given_is_written_to,
    model_rules.state_comes_back,
    model_rules.can_be_planned_without_weights,
    model_rules.everything_stays_on_the_device,
    model_rules.runs_in_bf16,
    model_rules.can_be_recorded,
    model_rules.every_option_changes_it,
)


def model_checks(
    thing: str | Callable[..., nn.Module],
    *,
    options: Mapping[str, Any] | None = None,
    num_classes: int = 10,
    channels: int = 3,
    size: int = 32,
    exempt: Mapping[str, str] | None = None,
) -> list[Check]:
    """Give the rules for one network, each ready to run: parameters of a pytest test.

    Args:
        thing: a class or a function that builds it from (num_classes, channels, size), or a name of
            `kdzoo list models` or of a family, as in "timm:resnet18".
        options: of the network, for all checks; needed where an option has no default.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Returns:
        A check for each rule; `str(check)` is its name.

    Raises:
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    make: Callable[..., nn.Module] = find_model(thing) if isinstance(thing, str) else thing
    if not callable(make):
        raise UsageError(f"check_model: takes a class, a function or a name, got {thing!r}.")
    values = checked(_who(thing), options_of(make), options or {})
    given = {name: values[name] for name in options or {}}
    return bind(RULES, model_rules.ModelSubject(make, given, num_classes, channels, size), exempt)


def check_model(
    thing: str | Callable[..., nn.Module],
    *,
    options: Mapping[str, Any] | None = None,
    num_classes: int = 10,
    channels: int = 3,
    size: int = 32,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Hold a network to its whole contract and tell all that is wrong at once.

    Args:
        thing: a class or a function that builds it from (num_classes, channels, size), or a name of
            `kdzoo list models` or of a family, as in "timm:resnet18".
        options: of the network, for all checks; needed where an option has no default.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Raises:
        ContractError: a line for each rule that is not kept.
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    checks = model_checks(
        thing, options=options, num_classes=num_classes, channels=channels, size=size, exempt=exempt
    )
    run_all(_who(thing), checks)


def _who(thing: Any) -> str:
    return thing if isinstance(thing, str) else str(getattr(thing, "__name__", repr(thing)))
