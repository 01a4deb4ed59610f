"""Rules about one step: its numbers are finite, and what is not its own stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.checks import UsageError
from kdzoo.distillers import Distiller
from kdzoo.outputs import ModelOutput, Progress, mapped
from kdzoo.testing.contract import ContractError, Watch, seed
from kdzoo.testing.inputs import MOMENTS, POSITIONS, Case
from kdzoo.testing.subject import (
    Subject,
    check_finite,
    gradients,
    guide_of,
    leaves,
    named,
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
    for name, value in subject.other_options():
        # A choice may be another method altogether; a number is looked at on the ordinary batch.
        for case in subject.cases if isinstance(value, (bool, str)) else subject.cases[:1]:
            fresh = case.fresh()
            try:
                distiller = subject.build(fresh, **{name: value})
            except UsageError:
                continue
            check_finite(distiller, fresh, POSITIONS[-1], f" at {name}={value}")


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


def nothing_shared_is_written_to(subject: Subject) -> None:
    """Batch, guide, and both networks' outputs are as they were after a step."""
    plain = subject.ordinary
    kinds = [plain, plain._replace(probabilities=plain.teacher.logits.softmax(dim=1)).fresh()]
    for case in kinds if "soft_labels" in subject.cls.needs else kinds[:1]:
        watch = Watch()
        setting = case.setting
        watch.add({"the training labels": setting.labels})
        distiller = subject.build_for(setting)
        guide = guide_of(distiller, case)
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
