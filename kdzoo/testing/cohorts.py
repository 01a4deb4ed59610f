"""Rules about real training: pairs of unlike networks, and other members beside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kdzoo.checks import UsageError
from kdzoo.data.pipeline import Pipeline
from kdzoo.data.views import Views
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.keys import key
from kdzoo.models import build_model
from kdzoo.outputs import Setting
from kdzoo.sources import build_source
from kdzoo.sources.base import Workshop
from kdzoo.testing.contract import ContractError, Watch, seed
from kdzoo.testing.inputs import POSITIONS
from kdzoo.testing.networks import NetworkPair, pair_case
from kdzoo.testing.subject import Subject, check_finite, told
from kdzoo.training.cohort import Cohort
from kdzoo.training.evaluation import observe
from kdzoo.training.loop import seeded_network
from kdzoo.training.member import Distillation, Member
from kdzoo.training.networks import SharedTeacher
from kdzoo.training.optimisers import build_optimizer

# Batches of 3 and of 2: the last of an epoch is a short one.
SIZE, CLASSES, IMAGES, BATCH, EPOCHS = 16, 4, 5, 3, 2
STUDENT, TEACHERS = "resnet8", ("resnet14", "resnet8")

Numbers = dict[str, Tensor]


def unlike_networks_work_or_are_refused(subject: Subject) -> None:
    """Pairs of real networks give finite terms and gradients, or one clear sentence before training."""
    for pair in subject.pairs:
        case = pair_case(pair).fresh()
        try:
            with told(f"with {pair.name!r}"):
                distiller = subject.build(case)
        except UsageError as error:
            message = str(error)
            if len(message) > 400 or "\n\n" in message or not message.endswith("."):
                raise ContractError(
                    f"{pair.name} must be refused in a sentence of at most 400 characters, got "
                    f"{len(message)}: {message}"
                ) from error
            continue
        for progress in POSITIONS:
            check_finite(distiller, case, progress)


def numbers_are_the_same_alone_and_in_a_cohort(subject: Subject) -> None:
    """Trained beside others, of its own kind too, its numbers are the same bits, and so are theirs."""
    teacher = _teacher_for(subject)
    if teacher is None:
        return

    def together(setting: Setting) -> list[Distiller]:
        before, after = _others(setting)
        return [before, *_siblings(subject, setting), _checked(subject, setting), after]

    (own,) = _train(lambda setting: [_checked(subject, setting)], teacher, "float32")
    before, *_, beside, after = _train(together, teacher, "float32")
    _compare(own, beside, "trained alone and in a cohort, its {} differs.")
    for one, other in zip(_without_it(teacher), (before, after), strict=True):
        _compare(one, other, "beside it, the {} of another method differs.")


def networks_in_bf16_train(subject: Subject) -> None:
    """With networks in bfloat16 a few steps go through and stay finite; losses are computed in float32."""
    teacher = _teacher_for(subject)
    if teacher is None:
        return
    (found,) = _train(lambda setting: [_checked(subject, setting)], teacher, "bf16")
    for name, value in found.items():
        if not value.isfinite().all():
            raise ContractError(f"with networks in bfloat16, its {name} is not finite after a few steps.")


def _compare(one: Numbers, other: Numbers, message: str) -> None:
    different = [n for n, v in one.items() if not torch.equal(v.nan_to_num(), other[n].nan_to_num())]
    if different:
        raise ContractError(
            f"{message.format(different[0])} Keep nothing outside the instance, draw from torch's default "
            "generator alone, and name in digest_options what its digest reads."
        )


def _checked(subject: Subject, setting: Setting, **options: Any) -> Distiller:
    with torch.random.fork_rng(devices=[]):
        seed(key(0, "adapter"))
        return build_distiller(subject.cls, setting, {**subject.options, **options})


def _siblings(subject: Subject, setting: Setting) -> list[Distiller]:
    """Build the same method with other options, and once more as it is: it then makes the digest for both."""
    found: dict[str, Distiller] = {}
    for name, value in subject.other_options():
        if name not in found:
            with suppress(UsageError):
                found[name] = _checked(subject, setting, **{name: value})
    return [*found.values(), _checked(subject, setting)]


def _others(setting: Setting) -> list[Distiller]:
    return [build_distiller(name, setting) for name in ("rkd", "kd")]


@functools.cache
def _without_it(teacher: str) -> list[Numbers]:
    return _train(_others, teacher, "float32")


def _teacher_for(subject: Subject) -> str | None:
    """Name the first teacher of a small student that it does not refuse; None if it refuses all."""
    for name in TEACHERS:
        try:
            subject.build(pair_case(_pair(name)).fresh())
        except UsageError:
            continue
        return name
    return None


@functools.cache
def _pair(teacher: str) -> NetworkPair:
    images = torch.randn(BATCH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    return NetworkPair("", _network(STUDENT), _network(teacher), images)


def _network(name: str) -> nn.Module:
    return seeded_network(
        lambda: build_model(name, num_classes=CLASSES, channels=1, size=SIZE), key(0, "check", name)
    )


def _train(build: Callable[[Setting], list[Distiller]], teacher: str, precision: str) -> list[Numbers]:
    """Train a cohort for a few epochs, as runs do, and give the numbers of each member.

    Args:
        build: the distillers of its members.
        teacher: the name of its network.
        precision: of the networks.

    Returns:
        By name the weights of each member's student and distiller, and the last logits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _trained(build, teacher, precision)
    finally:
        torch.set_num_threads(threads)


def _trained(build: Callable[[Setting], list[Distiller]], teacher: str, precision: str) -> list[Numbers]:
    draw = np.random.default_rng(7)
    images = Pipeline(
        draw.integers(0, 256, (IMAGES, 1, SIZE, SIZE), np.uint8), np.arange(IMAGES) % CLASSES,
        views=Views(flip=True), mean=(0.5,), std=(0.25,), batch_size=BATCH, seed=0, device="cpu",
    )  # fmt: skip
    network = _network(teacher)
    watch = Watch()
    watch.add(network.state_dict())
    setting = pair_case(_pair(teacher)).setting._replace(teacher_head=network.classifier)  # type: ignore[arg-type]
    shared, source = SharedTeacher(network, precision), build_source("teacher")
    members = [_member(f"{i}", d, precision) for i, d in enumerate(build(setting))]
    source.fit(cast(Workshop, SimpleNamespace(teacher=shared)))
    cohort = Cohort(members, images, EPOCHS, shared, {"teacher": source})
    for epoch in range(EPOCHS):
        for position in range(images.steps):
            cohort.train_step((epoch, position))
        logits = observe(cohort.active, images)
        for member in members:
            member.training_means()
    for fault in (member.fault for member in members):
        if fault is not None:
            raise ContractError(f"training fails with {type(fault).__name__}: {fault}") from fault
    if moved := watch.written():
        raise ContractError(f"the teacher's {moved} changed while a student was trained.")
    return [_numbers(member, last) for member, last in zip(members, logits, strict=True)]


def _numbers(member: Member, logits: Tensor | None) -> Numbers:
    assert member.distiller is not None
    assert logits is not None
    kept = {"student": member.network, "distiller": member.distiller}
    weights = {f"{role}'s {n}": v for role, part in kept.items() for n, v in part.state_dict().items()}
    return weights | {"logits": logits}


def _member(name: str, distiller: Distiller, precision: str) -> Member:
    network = _network(STUDENT)
    parameters = [*network.parameters(), *(p for p in distiller.parameters() if p.requires_grad)]
    optimizer = build_optimizer(dict(type="SGD", lr=0.01, momentum=0.9), parameters)
    source = "teacher" if "soft_labels" in distiller.needs else None
    member = Member(name, network, Distillation(distiller, precision), optimizer, 0, source)
    member.train_mode(True)
    return member
