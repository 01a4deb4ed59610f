"""Rules about the numbers of one step: finite, repeatable, and nobody else's touched."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from kdzoo.checks import UsageError, options_of
from kdzoo.distillers import Distiller
from kdzoo.outputs import ModelOutput, Progress, mapped
from kdzoo.testing.contract import ContractError, Watch, seed
from kdzoo.testing.inputs import MOMENTS, POSITIONS, Case
from kdzoo.testing.options import alternatives
from kdzoo.testing.subject import (
    Subject,
    check_finite,
    gradients,
    guide_of,
    leaves,
    named,
    numbers,
    place,
    step,
)


def losses_and_gradients_are_finite(subject: Subject) -> None:
    """No NaN and no infinity on ordinary, extreme and degenerate batches, in any epoch, at any option."""
    for case, distiller in subject.each_case():
        for progress in POSITIONS:
            check_finite(distiller, case, progress)
    distiller = subject.build(subject.ordinary)
    for progress in MOMENTS:
        check_finite(distiller, subject.ordinary, progress)
    for name, option in options_of(subject.cls).items():
        for value in alternatives(option) if name not in subject.options else ():
            case = subject.ordinary
            try:
                distiller = subject.build(case, **{name: value})
            except UsageError:
                continue
            check_finite(distiller, case, POSITIONS[-1], f" at {name}={value}")


def teacher_stands_still(subject: Subject) -> None:
    """No gradient reaches the teacher, no optimizer holds its parameters, and nothing of it moves."""
    case = subject.ordinary
    teacher = ModelOutput(*mapped(case.teacher, lambda tensor: tensor.requires_grad_()))
    parameters = {} if case.head is None else dict(case.head.named_parameters())
    watch = Watch()
    watch.add({} if case.head is None else case.head.state_dict())
    distiller = subject.build(case)
    own = {id(p) for p in parameters.values()}
    held = [n for n, p in distiller.named_parameters() if id(p) in own and p.requires_grad]
    if held:
        raise ContractError(f"its parameters {held} are the teacher's and would be trained. Freeze a copy.")
    for progress in POSITIONS:
        loss = _loss(distiller, case, teacher, progress)
        if loss.requires_grad:
            torch.autograd.backward(loss)
    reached = [t for t in (*named(teacher).values(), *parameters.values()) if t.grad is not None]
    if reached or any(p.requires_grad for p in parameters.values()):
        raise ContractError("a gradient reaches the teacher. Detach what comes from it.")
    moved = watch.written()
    if moved or (case.head is not None and any(m.training for m in case.head.modules())):
        raise ContractError(
            f"the teacher's classifier is in training mode or changes ({moved or 'nothing yet'}) while it "
            "trains. Keep the teacher's modules in evaluation mode: override train() so that they stay so, "
            "or copy the weights that you need."
        )


def _loss(distiller: Distiller, case: Case, teacher: ModelOutput, progress: Progress) -> Tensor:
    seed(2)
    return distiller.loss(
        case.student, case.batch.labels, teacher=teacher, images=case.batch.images,
        indices=case.batch.indices, epoch=progress.epoch, epochs=progress.epochs,
    )  # fmt: skip


def every_term_trains_something(subject: Subject) -> None:
    """Every term has a gradient at some time, to student or parameters, and every parameter has one."""
    case = subject.ordinary
    distiller = subject.build(case)
    still = {n for n, p in distiller.named_parameters() if p.requires_grad}
    names: set[str] = set()
    taught: set[str] = set()
    for progress in POSITIONS:
        terms = step(distiller, case, progress)
        for name, term in terms.items():
            slopes = gradients(distiller, case, {name: term}, keep=True)
            moved = {n for n, g in slopes.items() if g is not None and g.abs().sum() > 0}
            names |= {name}
            taught |= {name} if moved else set()
            still -= moved
    if idle := sorted(names - taught):
        raise ContractError(
            f"terms {idle} never have a gradient, so nothing learns from them. Is something detached?"
        )
    if still:
        raise ContractError(
            f"its parameters {sorted(still)} never get a gradient, and are saved and counted all the same. "
            "Use them, or make them buffers."
        )


def steps_repeat(subject: Subject) -> None:
    """The same step gives the same bits, wherever Python's and numpy's generators stand, and leaves torch's
    settings alone."""
    found: list[Any] = []
    before = _settings()
    for number in (1, 2):
        random.seed(number)
        np.random.seed(number)
        case = subject.ordinary
        found.append(numbers(subject.build(case), case))
    if found[0] != found[1]:
        raise ContractError(
            "two equal steps give different numbers. Draw from torch's default generator alone, which is "
            "seeded for every step, and keep nothing outside the instance."
        )
    if _settings() != before:
        raise ContractError(
            f"it changes torch's settings from {before} to {_settings()}, for all. Use a context manager."
        )


def _settings() -> dict[str, Any]:
    return {
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def steps_stand_alone(subject: Subject) -> None:
    """No gradient of a step flows into an earlier one, whose graph is gone by then."""
    distiller = subject.build(subject.ordinary)
    earlier: list[Tensor] = []
    for progress in POSITIONS:
        case = subject.ordinary
        total = torch.stack(list(step(distiller, case, progress).values())).sum()
        if earlier and total.requires_grad:
            reached = torch.autograd.grad(total, earlier, allow_unused=True, retain_graph=True)
            if any(gradient is not None for gradient in reached):
                raise ContractError(
                    f"a gradient flows into outputs of an earlier step, {place(case, progress)}. Detach what "
                    "is kept from step to step."
                )
        earlier += leaves(case).values()


def nothing_shared_is_written_to(subject: Subject) -> None:
    """Batch, guide, and both networks' outputs are as they were after a step."""
    plain = subject.ordinary
    kinds = [plain, plain._replace(probabilities=plain.teacher.logits.softmax(dim=1)).fresh()]
    for case in kinds if "soft_labels" in subject.cls.needs else kinds[:1]:
        distiller = subject.build(case)
        guide = guide_of(distiller, case)
        watch = Watch()
        watch.add({f"batch.{n}": t for n, t in case.batch._asdict().items() if t is not None})
        digest = {n: t for n, t in guide.teacher.items() if isinstance(t, Tensor)}
        watch.add({f"guide.teacher[{n!r}]": t for n, t in digest.items()})
        watch.add({f"the teacher's {n}": t for n, t in named(case.teacher).items()})
        watch.add({f"the student's {n}": t for n, t in leaves(case).items()})
        if guide.soft_labels is not None:
            watch.add({"guide.soft_labels": guide.soft_labels.log_probs(4.0)})
        for progress in POSITIONS:
            try:
                gradients(distiller, case, step(distiller, case, progress, guide))
                guide_of(distiller, case)
            except RuntimeError as error:
                if "in-place" not in str(error) and "inplace" not in str(error):
                    raise
                raise ContractError(f"it writes into what it is given ({error}). Work on a copy.") from error
            watch.check()


def state_comes_back(subject: Subject) -> None:
    """After saving and loading, another instance goes on with the same numbers."""
    case = subject.ordinary
    first, second = subject.build(case, 1), subject.build(case, 2)
    # On another batch than later: what was kept of the first must not be found again by chance.
    numbers(first, case.changed(), POSITIONS[:2])
    state = {n: v.detach().clone().contiguous() for n, v in first.state_dict().items()}
    try:
        second.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)) if state else {})
    except RuntimeError as error:
        raise ContractError(
            f"another instance cannot load what was saved: {error}. Register all parameters and buffers when "
            "it is built."
        ) from error
    one, other = (numbers(distiller, case, POSITIONS[2:]) for distiller in (first, second))
    if one != other:
        raise ContractError(
            "an instance that was saved and loaded goes on with other numbers than the original. Keep what "
            "lasts from step to step in parameters and buffers."
        )
