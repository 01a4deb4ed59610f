"""Rules about what a source declares, and about how it is made ready."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdzoo.checks import UsageError, options_of
from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.testing.contract import ContractError, seed
from kdzoo.testing.declarations import check_options
from kdzoo.testing.options import alternatives
from kdzoo.testing.soft_labels import SourceSubject, everything, labels_of


def declares_itself(subject: SourceSubject) -> None:
    """Paper, version, needs, artifacts and options are declared and documented."""
    cls, declared = subject.cls, subject.declared
    odd = sorted(set(declared.needs) - {"teacher", "indices"})
    if odd:
        raise ContractError(f"needs must be of ['indices', 'teacher'], got {odd}.")
    if not cls.paper.strip() or not (vars(cls).get("__doc__") or "").strip():
        raise ContractError("paper and class docstring must say where it comes from and what it is.")
    if not isinstance(cls.version, int) or cls.version < 1:
        raise ContractError(f"version must be an integer from 1, got {cls.version!r}.")
    options = options_of(cls)
    for name in ("trains", "classifiers", "builds", "train_options"):
        if not isinstance(getattr(declared, name), tuple):
            raise ContractError(f"{name} must be a tuple of names, got {getattr(declared, name)!r}.")
    unknown = sorted(set(declared.train_options) - set(options))
    if unknown:
        raise ContractError(f"train_options must name options of its own, got {unknown}.")
    check_options(options)
    for what, name in (("shorthand", cls.shorthand), ("follows", cls.follows)):
        if name and name not in (DISTILLERS if what == "shorthand" else SOURCES).names():
            raise ContractError(f"{what} must be a registered name, got {name!r}.")


def asks_only_for_what_it_declares(subject: SourceSubject) -> None:
    """It gets a teacher, positions and trained networks only where it declares them."""
    workshop = subject.workshop()
    try:
        labels_of(subject.ready(workshop), everything(workshop)).log_probs(1.0)
    except (TypeError, AttributeError) as error:
        raise ContractError(
            f"it fails with {type(error).__name__}: {error}. Positions (batch.indices) are None unless needs "
            "has 'indices', and a teacher's shapes unless it has 'teacher'."
        ) from error


def uses_what_it_declares(subject: SourceSubject) -> None:
    """A teacher, and what it trains or builds, are asked for: every run that names it pays for them."""
    workshop = subject.workshop()
    labels_of(subject.ready(workshop), everything(workshop)).log_probs(1.0)
    own = subject.declared
    idle = {*(own.needs & {"teacher"}), *own.trains, *own.classifiers, *own.builds} - workshop.asked
    if idle:
        raise ContractError(
            f"it never asks for {sorted(idle)}. Take that out of needs, trains, classifiers or builds."
        )


def asks_the_teacher_once_a_batch(subject: SourceSubject) -> None:
    """A step runs the teacher once, on the batch's own images, for all sources and methods together."""
    workshop = subject.workshop()
    source, batch = subject.ready(workshop), everything(workshop)
    if "teacher" in subject.declared.needs:
        workshop.teacher(batch)
    before = workshop.passes
    labels_of(source, batch).log_probs(1.0)
    if workshop.passes > before:
        raise ContractError(
            f"it runs the teacher {workshop.passes - before} times for each batch beside the pass that all "
            "share. Hand on the batch as it came."
        )


def fitting_repeats(subject: SourceSubject) -> None:
    """Made ready again, it gives the same bits: runs are resumed, and generators stand anywhere."""
    found: list[Tensor] = []
    for number in (1, 2):
        random.seed(number)
        np.random.seed(number)
        workshop = subject.workshop()
        source = subject.ready(workshop)
        batch = everything(workshop)
        found.append(labels_of(source, batch).log_probs(4.0))
        # Later in the same run, and started again: it has no state that would be saved.
        labels_of(source, workshop.batch(np.arange(2)))
        found.append(labels_of(source, batch).log_probs(4.0))
        before = dict(source.content())
        seed(1)
        source.fit(workshop)
        found.append(labels_of(source, batch).log_probs(4.0))
        if dict(source.content()) != before or not all(isinstance(v, str) for v in before.values()):
            raise ContractError(
                f"content must be texts that stay the same once it is ready, got {before}, then "
                f"{dict(source.content())}."
            )
    if not all(torch.equal(found[0], other) for other in found[1:]):
        raise ContractError(
            "made ready or asked again, it gives other soft labels. Key every draw, "
            "workshop.key(purpose, ...), and keep nothing from one batch to the next."
        )


def artifacts_follow_their_options(subject: SourceSubject) -> None:
    """What it trains depends on `train_options` alone: all runs that agree in them share it, whatever their
    seed."""
    if not subject.declared.trains:
        return
    expected = _trained(subject)
    why = "for another seed of the run. Artifacts are shared by all seeds: draw nothing by workshop.key"
    _compare(expected, _trained(subject, run=1), why)
    for name, option in options_of(subject.cls).items():
        shaping = name in subject.declared.train_options or name not in subject.declared.options
        if shaping or name in subject.options:
            continue
        for value in alternatives(option):
            try:
                found = _trained(subject, **{name: value})
            except UsageError:
                continue
            _compare(expected, found, f"at {name}={value}. Name {name!r} in train_options")
            break


def _trained(subject: SourceSubject, run: int = 0, **options: Any) -> dict[str, nn.Module]:
    workshop = subject.workshop(run=run)
    subject.ready(workshop, **options)
    return {name: network for name, network in workshop.lent if name in subject.declared.trains}


def _compare(expected: dict[str, nn.Module], found: dict[str, nn.Module], why: str) -> None:
    for name, network in found.items():
        other = expected[name].state_dict() if name in expected else {}
        if any(n not in other or not torch.equal(v, other[n]) for n, v in network.state_dict().items()):
            raise ContractError(f"{name!r} is trained to other weights {why}.")
