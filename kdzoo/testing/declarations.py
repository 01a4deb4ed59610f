"""Rules about what a distiller declares: its papers and options, its needs, and the form of its terms."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from kdzoo.checks import Option, UsageError, options_of
from kdzoo.distillers import Distiller
from kdzoo.distillers.base import NEEDS
from kdzoo.testing.contract import ContractError
from kdzoo.testing.deployment import deployed_logits
from kdzoo.testing.inputs import Case
from kdzoo.testing.options import idle_option
from kdzoo.testing.subject import Subject, numbers, step, told
from kdzoo.testing.terms import EPOCHS


def declares_itself(subject: Subject) -> None:
    """Paper, version, needs, scope and options are declared and documented."""
    cls = subject.cls
    odd = sorted(cls.needs - NEEDS)
    if odd:
        raise ContractError(f"needs must be of {sorted(NEEDS)}, got {odd}.")
    if not cls.paper.strip():
        raise ContractError(
            "paper must say where the method comes from, got nothing. 'none: why' is an answer."
        )
    if not isinstance(cls.version, int) or cls.version < 1:
        raise ContractError(f"version must be an integer from 1, got {cls.version!r}.")
    if cls.digest_scope not in ("sample", "batch"):
        raise ContractError(f"digest_scope must be 'sample' or 'batch', got {cls.digest_scope!r}.")
    if not (vars(cls).get("__doc__") or "").strip():
        raise ContractError("its class must have a docstring; its first line is shown by `kdzoo list`.")
    taken = [n for n in ("terms", "loss", "detached_digest") if getattr(cls, n) is not getattr(Distiller, n)]
    if taken:
        raise ContractError(f"{taken} belong to all distillers. Override forward, label_weight or digest.")
    options = options_of(cls)
    if not isinstance(cls.digest_options, tuple):
        raise ContractError(f"digest_options must be a tuple of names, got {cls.digest_options!r}.")
    unknown = sorted(set(cls.digest_options) - set(options))
    if unknown:
        raise ContractError(f"digest_options must name options of its own, got {unknown}.")
    check_options(options)
    _check_own(cls, "sum_options", cls.sum_options)
    for epochs in EPOCHS:
        with told(f"in scaled_options({epochs})"):
            scaled = cls.scaled_options(epochs)
        _check_own(cls, "scaled_options", scaled, f"({epochs})")


def _check_own(cls: type[Distiller], what: str, given: Mapping[str, Any], at: str = "") -> None:
    """Raise where a class gives values to options that it has not, or values that they do not accept."""
    options = options_of(cls)
    strange = sorted(set(given) - set(options))
    if strange:
        raise ContractError(f"{what} must give options of its own, got {strange}.")
    for name, value in given.items():
        check_value(options[name], value, f"{what}{at}")


def check_options(options: Mapping[str, Option]) -> None:
    """Raise where an option is not documented, or its default is none that it accepts.

    Args:
        options: by name.

    Raises:
        ContractError: what is wrong.
    """
    silent = [name for name, option in options.items() if not option.doc]
    if silent:
        raise ContractError(f"options {silent} must stand in the class docstring under 'Args:', one by one.")
    for name, option in options.items():
        if not (option.required or option.absent):
            check_value(option, option.default, f"the default of {name}")


def check_value(option: Option, value: object, who: str) -> None:
    """Raise where an option does not accept a value of its own class.

    Args:
        option: of the class.
        value: that the class itself gives it.
        who: gives it, for the message.

    Raises:
        ContractError: what is accepted.
    """
    try:
        option.parse(who, value)
    except UsageError as error:
        raise ContractError(str(error)) from error


def gets_only_what_it_declares(subject: Subject) -> None:
    """It is built and runs on the declared fields alone; all others are None."""
    case, declared = subject.ordinary, f"needs = {sorted(subject.cls.needs)}"
    try:
        step(subject.build(case), case)
    except (TypeError, AttributeError, KeyError) as error:
        raise ContractError(
            f"it fails with {type(error).__name__}: {error}. It gets the fields that it declares, "
            f"{declared}, and None for all others. Declare what it reads."
        ) from error


def can_be_planned_before_the_teacher_is_made(subject: Subject) -> None:
    """It is built from shapes alone: pairs are refused before a teacher is trained or loaded."""
    case = subject.ordinary
    if "classifier" not in subject.cls.needs or case.head is None:
        return
    try:
        subject.build_for(case._replace(head=case.head.to("meta")).setting)
    except Exception as error:
        raise ContractError(
            f"it reads the numbers of the teacher's classifier when it is built ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). A plan builds it once when there are none yet: copy the module."
        ) from error


def uses_what_it_declares(subject: Subject) -> None:
    """Every declared field changes a number; what is not read costs every run a teacher for nothing."""
    for field in sorted(subject.cls.needs):
        case = subject.ordinary
        changed = _with_another(field, case)
        if changed is None or _twice(subject, case, case) != _twice(subject, case, changed):
            continue
        if field == "classifier" and _deploys_classifier(subject):
            continue
        whose = field if field == "indices" else f"the teacher's {field.replace('_', ' ')}"
        raise ContractError(f"{whose} change nothing. Take {field!r} out of needs.")


def _with_another(field: str, case: Case) -> Case | None:
    other = case.changed()
    if field == "indices":
        return case._replace(batch=case.batch._replace(indices=other.batch.indices))
    if field == "classifier":
        return case._replace(head=_another_head(case.head)) if case.head is not None else None
    if field == "soft_labels" and case.probabilities is not None:
        return case._replace(probabilities=other.probabilities)
    name = "logits" if field == "soft_labels" else field
    return case._replace(teacher=case.teacher._replace(**{name: getattr(other.teacher, name)}))


def _another_head(head: torch.nn.Module | None) -> torch.nn.Module | None:
    changed = copy.deepcopy(head)
    for parameter in changed.parameters() if changed is not None else ():
        parameter.data += 0.5
    return changed


def _twice(subject: Subject, first: Case, later: Case) -> list[Any]:
    """Give numbers of two batches in a row: positions matter to what remembers those of an earlier one."""
    distiller = subject.build(later)
    return numbers(distiller, first.fresh()) + numbers(distiller, later.fresh())


def _deploys_classifier(subject: Subject) -> bool:
    found = [deployed_logits(subject, change_head=change) for change in (lambda head: head, _another_head)]
    return any(one is not None and one != other for one, other in zip(*found, strict=True))


def every_option_changes_a_number(subject: Subject) -> None:
    """No option is parsed and ignored, and none of its choices does what another does."""
    first, *others = subject.cases
    # Some options are for networks of one shape alone.
    alike = next(((c,) for c in others if c.setting.student == c.setting.teacher), ())
    deploys = subject.cls.deployed is not Distiller.deployed

    def found(options: Mapping[str, Any]) -> list[Any]:
        results: list[Any] = []
        for case in (first, *alike):
            fresh = case.fresh()
            try:
                results.append(numbers(subject.build(fresh, **options), fresh))
            except UsageError:
                results.append(None)
        return results + (deployed_logits(subject, **options) if deploys else [])

    fault = idle_option(options_of(subject.cls), subject.options, found)
    if fault:
        raise ContractError(
            f"{fault}, no term, gradient, label weight or deployed logit. Use it, or drop it."
        )
