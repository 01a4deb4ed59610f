"""Rules about what remains: the network that is judged and exported, and what a record says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kdzoo.checks import UsageError, options_of
from kdzoo.distillers import Distiller
from kdzoo.models.base import flops
from kdzoo.outputs import ModelOutput
from kdzoo.testing.contract import ContractError, Watch
from kdzoo.testing.inputs import Case
from kdzoo.testing.networks import NetworkPair, pair_case
from kdzoo.testing.subject import Subject

Head = nn.Module | None


def first_pair(
    subject: Subject, change_head: Callable[[Head], Head] = lambda head: head, **options: Any
) -> tuple[NetworkPair, Case, Distiller] | None:
    """Give the first pair of networks that a distiller does not refuse; None if it refuses all.

    Args:
        subject: under check.
        change_head: makes the teacher's classifier another.
        options: beside the subject's own.

    Returns:
        The pair, with a student that may be changed, what it gives, and the distiller, in evaluation mode.
    """
    for pair in subject.pairs:
        case = pair_case(pair).fresh()
        case = case._replace(head=change_head(case.head))
        try:
            distiller = subject.build(case, **options)
        except UsageError:
            continue
        return pair._replace(student=copy.deepcopy(pair.student).eval()), case, distiller.eval()
    return None


@torch.no_grad()
def deployed_logits(subject: Subject, **changes: Any) -> list[Any]:
    """Give what the deployed network says of a batch, as numbers.

    Args:
        subject: under check.
        changes: as `first_pair` takes them.

    Returns:
        One entry; None where all networks are refused.
    """
    found = first_pair(subject, **changes)
    if found is None:
        return [None]
    pair, _, distiller = found
    return [_logits(distiller.deployed(pair.student), pair.images).tolist()]


def deployed_network_gives_logits(subject: Subject) -> None:
    """What is judged and exported maps each image to its logits, and leaves the student as it was."""
    found = first_pair(subject)
    if found is None:
        return
    pair, case, distiller = found
    watch = Watch()
    watch.add({f"the student's {name}": value for name, value in pair.student.state_dict().items()})
    watch.add({"the images": pair.images})
    with torch.no_grad():
        bare = pair.student(pair.images).logits
        network = distiller.deployed(pair.student)
        logits = _logits(network, pair.images)
        count = len(logits)
        alone = _logits(network, pair.images[:1].expand(count, -1, -1, -1).clone())
        if logits.shape != case.student.logits.shape or not logits.isfinite().all():
            raise ContractError(
                f"the deployed network must give finite logits of shape {tuple(case.student.logits.shape)}, "
                f"got {tuple(logits.shape)}."
            )
        if not torch.equal(_logits(network, pair.images), logits):
            raise ContractError(
                "the deployed network gives other logits each time. Leave its parts in evaluation mode."
            )
        if not torch.allclose(alone[0], logits[0], rtol=1e-3, atol=1e-4):
            raise ContractError(
                "what the deployed network says of an image depends on the rest of the batch. Leave its "
                "parts in evaluation mode."
            )
        watch.check()
        if not torch.equal(pair.student(pair.images).logits, bare):
            raise ContractError(
                "the student gives other logits once it was deployed, and goes on training. Deploy a module "
                "that holds it."
            )
    _export(network, pair.images)


def _export(network: nn.Module, images: Tensor) -> None:
    """Save weights and count operations, as a run does at its end."""
    try:
        safetensors.torch.save({n: v.contiguous().clone() for n, v in network.eval().state_dict().items()})
        flops(network, images.shape[1], images.shape[-1])
        # Where all that it knows of is without numbers, what it uses beside that shows.
        copy.deepcopy(network).to("meta")(images.to("meta"))
    except Exception as error:
        raise ContractError(
            f"the deployed network cannot be exported, {type(error).__name__}: {str(error).splitlines()[0]} "
            "Make all its parts submodules."
        ) from error


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    output: object = network(images.clone())
    if not isinstance(output, ModelOutput):
        raise ContractError(
            f"the deployed network must return a ModelOutput, got {type(output).__name__}. "
            "Return ModelOutput(logits)."
        )
    return output.logits


def can_be_recorded(subject: Subject) -> None:
    """Its record can be written, at the end of a training: options, and the stages that it pairs."""
    distiller = subject.build(subject.ordinary)
    names = list(options_of(subject.cls))
    if not isinstance(distiller, subject.cls) or list(distiller.options) != names:
        raise ContractError(
            f"for_setting must give a {subject.cls.__name__} with options {names}, got a "
            f"{type(distiller).__name__} with {list(distiller.options)}."
        )
    try:
        json.dumps([dict(distiller.options), [pair.described() for pair in distiller.pairs]], allow_nan=False)
    except (AttributeError, TypeError, ValueError) as error:
        raise ContractError(
            f"its record cannot be written, {type(error).__name__}: {error}. In `pairs` records look for "
            "kdzoo.functional.stages.StagePair; call anything else otherwise."
        ) from error
