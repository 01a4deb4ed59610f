"""Optimizers and schedules from mmengine's builders, and the replay that brings a schedule back to where it
was."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

if TYPE_CHECKING:
    from kdzoo.training.recipe import Recipe


def build_optimizer(config: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]) -> OptimWrapper:
    """Build an optimizer in mmengine's wrapper.

    Args:
        config: `type` and arguments, for example dict(type="AdamW", lr=1e-3).
        parameters: what it moves.
    """
    optimizer = OPTIMIZERS.build({**copy.deepcopy(dict(config)), "params": list(parameters)})
    return OptimWrapper(optimizer)


def build_schedulers(recipe: Recipe, optimizer: OptimWrapper, steps: int) -> list[_ParamScheduler]:
    """Build a recipe's schedulers for one optimizer.

    Args:
        recipe: with its `param_scheduler`.
        optimizer: whose learning rate (or momentum) they move.
        steps: steps of an epoch, for schedulers that convert themselves to steps.
    """
    built = []
    for config in recipe.param_scheduler:
        settings = copy.deepcopy(dict(config))
        if settings.pop("convert_to_iter_based", False):
            kind = PARAM_SCHEDULERS.get(settings.pop("type"))
            built.append(kind.build_iter_from_epoch(optimizer=optimizer, **settings, epoch_length=steps))
        else:
            built.append(PARAM_SCHEDULERS.build({**settings, "optimizer": optimizer}))
    return built


def replay(
    schedulers: list[_ParamScheduler], optimizer: OptimWrapper, epoch: int, step: int, steps: int
) -> None:
    """Step fresh schedulers through everything up to a position, so that rates come out bit for bit as they
    were.

    Nothing of a schedule is stored: it is a function of its settings and the position.

    Args:
        schedulers: freshly built.
        optimizer: theirs; its parameters are not touched.
        epoch: finished epochs.
        step: finished steps of the current epoch.
        steps: steps of an epoch.
    """
    # mmengine warns when a scheduler moves before its optimizer did; here the optimizer moved in another
    # process.
    optimizer._global_step = 0
    by_step = [s for s in schedulers if not s.by_epoch]
    by_epoch = [s for s in schedulers if s.by_epoch]
    for position in range(epoch * steps + step):
        for scheduler in by_step:
            scheduler.step()
        if (position + 1) % steps == 0:
            for scheduler in by_epoch:
                scheduler.step()
