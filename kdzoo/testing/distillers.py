"""The contract of distillers: the same rules for third parties as for the zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdzoo.checks import UsageError, checked, options_of
from kdzoo.distillers import Distiller
from kdzoo.registry import DISTILLERS
from kdzoo.testing import cohorts, declarations, deployment, devices, digests, state, steps, terms
from kdzoo.testing.contract import Check, Rule, bind, run_all
from kdzoo.testing.inputs import Case, cases
from kdzoo.testing.networks import NetworkPair, network_pairs
from kdzoo.testing.subject import Subject

RULES: tuple[Rule, ...] = (
    declarations.declares_itself,
    declarations.gets_only_what_it_declares,
    declarations.can_be_planned_before_the_teacher_is_made,
    declarations.uses_what_it_declares,
    declarations.every_option_changes_a_number,
    terms.returns_named_scalars,
    terms.label_weight_is_a_finite_number,
    terms.every_term_trains_something,
    steps.losses_and_gradients_are_finite,
    steps.teacher_stands_still,
    steps.nothing_shared_is_written_to,
    state.keeps_nothing_in_its_class,
    state.steps_repeat,
    state.steps_stand_alone,
    state.state_comes_back,
    digests.digest_rows_stand_alone,
    digests.digest_follows_its_options,
    devices.no_step_waits_for_the_device,
    deployment.deployed_network_gives_logits,
    deployment.can_be_recorded,
    cohorts.unlike_networks_work_or_are_refused,
    cohorts.numbers_are_the_same_alone_and_in_a_cohort,
    cohorts.networks_in_bf16_train,
)


def distiller_checks(
    thing: str | type[Distiller],
    *,
    options: Mapping[str, Any] | None = None,
    batches: Sequence[Case] | None = None,
    pairs: Sequence[NetworkPair] | None = None,
    exempt: Mapping[str, str] | None = None,
) -> list[Check]:
    """Give the rules for one distiller, each ready to run: parameters of a pytest test.

    Args:
        thing: a class, registered or not, or a registered name.
        options: of the distiller, for all checks; needed where an option has no default.
        batches: outputs to check on, the ordinary ones first; None takes `cases()`.
        pairs: real networks to check on; None takes `network_pairs()`.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Returns:
        A check for each rule; `str(check)` is its name.

    Raises:
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    cls = DISTILLERS.find(thing) if isinstance(thing, str) else thing
    if not (isinstance(cls, type) and issubclass(cls, Distiller)):
        raise UsageError(f"check_distiller: takes a Distiller's class or its name, got {thing!r}.")
    given = dict(options or {})
    values = checked(cls.__name__, options_of(cls), given)
    subject = Subject(
        cls,
        {name: values[name] for name in given},
        tuple(batches or cases()),
        tuple(network_pairs() if pairs is None else pairs),
    )
    return bind(RULES, subject, exempt)


def check_distiller(
    thing: str | type[Distiller],
    *,
    options: Mapping[str, Any] | None = None,
    batches: Sequence[Case] | None = None,
    pairs: Sequence[NetworkPair] | None = None,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Hold a distiller to its whole contract and tell all that is wrong at once.

    Args:
        thing: a class, registered or not, or a registered name.
        options: of the distiller, for all checks; needed where an option has no default.
        batches: outputs to check on, the ordinary ones first; None takes `cases()`.
        pairs: real networks to check on; None takes `network_pairs()`.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Raises:
        ContractError: a line for each rule that is not kept.
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    who = thing if isinstance(thing, str) else getattr(thing, "__name__", repr(thing))
    run_all(who, distiller_checks(thing, options=options, batches=batches, pairs=pairs, exempt=exempt))
