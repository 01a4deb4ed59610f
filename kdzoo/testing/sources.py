"""The contract of sources of soft labels: the same rules for third parties as for the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdzoo.checks import UsageError, checked, options_of
from kdzoo.registry import SOURCES
from kdzoo.sources import Source
from kdzoo.testing import fitting, soft_labels
from kdzoo.testing.contract import Check, Rule, bind, run_all
from kdzoo.testing.soft_labels import SourceSubject
from kdzoo.testing.workshop import Builders

RULES: tuple[Rule, ...] = (
    fitting.declares_itself,
    fitting.asks_only_for_what_it_declares,
    fitting.uses_what_it_declares,
    fitting.asks_the_teacher_once_a_batch,
    fitting.fitting_repeats,
    fitting.artifacts_follow_their_options,
    soft_labels.soft_labels_are_distributions,
    soft_labels.rows_follow_their_samples,
    soft_labels.every_option_changes_a_number,
    soft_labels.nothing_shared_is_written_to,
    soft_labels.no_gradient_flows_through_it,
    soft_labels.no_step_waits_for_the_device,
    soft_labels.every_logit_method_takes_it,
)


def source_checks(
    thing: str | type[Source],
    *,
    options: Mapping[str, Any] | None = None,
    networks: Builders | None = None,
    exempt: Mapping[str, str] | None = None,
) -> list[Check]:
    """Give the rules for one source, each ready to run: parameters of a pytest test.

    Args:
        thing: a class, registered or not, or a registered name.
        options: of the source, for all checks; needed where an option has no default. There are 4 classes and
            24 training images.
        networks: for each section that the source trains or builds, other than "autoencoder", a function that
            builds a network for [N, 1, 32, 32] images.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Returns:
        A check for each rule; `str(check)` is its name.

    Raises:
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    cls = SOURCES.find(thing) if isinstance(thing, str) else thing
    if not (isinstance(cls, type) and issubclass(cls, Source)):
        raise UsageError(f"check_source: takes a Source's class or its name, got {thing!r}.")
    given = dict(options or {})
    values = checked(cls.__name__, options_of(cls), given)
    subject = SourceSubject(cls, {name: values[name] for name in given}, dict(networks or {}))
    return bind(RULES, subject, exempt)


def check_source(
    thing: str | type[Source],
    *,
    options: Mapping[str, Any] | None = None,
    networks: Builders | None = None,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Hold a source of soft labels to its whole contract and tell all that is wrong at once.

    Args:
        thing: a class, registered or not, or a registered name.
        options: of the source, for all checks; needed where an option has no default. There are 4 classes and
            24 training images.
        networks: for each section that the source trains or builds, other than "autoencoder", a function that
            builds a network for [N, 1, 32, 32] images.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Raises:
        ContractError: a line for each rule that is not kept.
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    who = thing if isinstance(thing, str) else getattr(thing, "__name__", repr(thing))
    run_all(who, source_checks(thing, options=options, networks=networks, exempt=exempt))
