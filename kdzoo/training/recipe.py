"""Recipes: epochs, batch size, optimizer and schedule, read from a config and tried out before training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kdzoo.checks import Problems, UsageError, unknown, usage

# What a record may hold.
MOST_EPOCHS = 100_000

_RECIPE = ("epochs", "batch_size", "optimizer", "param_scheduler", "schedule_epochs")
# Lengths in epochs, which scale with training; a scheduler that counts steps (by_epoch=False) is left alone.
_LENGTHS = ("milestones", "T_max", "begin", "end", "step_size", "total_steps", "periods")


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step; the last, shorter batch of an epoch is kept.
        optimizer: for mmengine's builder: `type` and its arguments.
        param_scheduler: for mmengine's builder, already scaled to `epochs`.
    """

    epochs: int
    batch_size: int
    optimizer: Mapping[str, Any]
    param_scheduler: tuple[Mapping[str, Any], ...]


def read_recipe(who: str, config: Mapping[str, Any], least: int = 1) -> Recipe:
    """Read a recipe from a config, scale its schedule to its epochs, and check that it can be carried out.

    Args:
        who: whose it is, for messages.
        config: `epochs`, `batch_size`, `optimizer`, `param_scheduler`, `schedule_epochs`.
        least: epochs that there must be.

    Raises:
        UsageError: all that is wrong, a line each.
    """
    problems = Problems()
    for key in config:
        with problems:
            if key not in _RECIPE:
                raise unknown(who, "recipe entry", key, _RECIPE)
    for key in ("epochs", "batch_size", "schedule_epochs"):
        with problems:
            value = config.get(key)
            lowest = least if key == "epochs" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                advice = "Only a teacher with pretrained=true may go untrained." if value == 0 else ""
                raise usage(who, key, f"an integer of at least {lowest}", value, advice)
        with problems:
            if key == "epochs" and isinstance(value, int) and value > MOST_EPOCHS:
                raise usage(who, key, f"at most {MOST_EPOCHS}", value)
    problems.raise_all()
    optimizer, schedulers = config.get("optimizer"), config.get("param_scheduler") or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    if not isinstance(optimizer, dict):
        raise usage(who, "optimizer", "a dict such as dict(type='SGD', lr=0.1)", optimizer)
    if not isinstance(schedulers, (list, tuple)) or not all(isinstance(s, dict) for s in schedulers):
        raise usage(
            who,
            "param_scheduler",
            "a list of dicts such as dict(type='MultiStepLR', milestones=[60])",
            schedulers,
        )
    ratio = config["epochs"] / config["schedule_epochs"]
    recipe = Recipe(
        config["epochs"],
        config["batch_size"],
        optimizer,
        # What scales to nothing, such as a warm-up of 5 in 200 epochs when there is only 1, is left out.
        tuple(
            s
            for s in (_scaled(who, s, ratio) for s in schedulers)
            if s.get("begin", 0) < s.get("end", math.inf)
        ),
    )
    _check_builds(who, recipe)
    return recipe


def _scaled(who: str, scheduler: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    for name in _LENGTHS:
        given = scheduler.get(name, 0)
        numbers = given if isinstance(given, (list, tuple)) else [given]
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
            raise usage(f"{who}, param_scheduler", name, "a number or a list of numbers", given)
    if not scheduler.get("by_epoch", True):
        return dict(scheduler)

    def scale(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [scale(v) for v in value]
        return max(1, round(value * ratio)) if isinstance(value, (int, float)) and value > 0 else value

    return {k: scale(v) if k in _LENGTHS else v for k, v in scheduler.items()}


def _check_builds(who: str, recipe: Recipe) -> None:
    """Run optimizer and schedule over all epochs for a stand-in parameter, so that what is wrong with them is
    found before training."""
    import torch
    from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

    from kdzoo.training.optimisers import build_optimizer, build_schedulers, replay

    kind = recipe.optimizer.get("type")
    if not isinstance(kind, str) or kind not in OPTIMIZERS:
        raise unknown(who, "optimizer", str(kind), sorted(OPTIMIZERS.module_dict))
    for scheduler in recipe.param_scheduler:
        name = scheduler.get("type")
        if not isinstance(name, str) or name not in PARAM_SCHEDULERS or "ReduceOnPlateau" in name:
            known = sorted(n for n in PARAM_SCHEDULERS.module_dict if "ReduceOnPlateau" not in n)
            raise unknown(who, "param_scheduler", str(name), known)
    try:
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = build_optimizer(recipe.optimizer, [parameter])
        schedulers = build_schedulers(recipe, optimizer, steps=1)
        optimizer.update_params(parameter.sum())
        # Once beyond the last epoch, as mmengine does too.
        replay(schedulers, optimizer, recipe.epochs, 0, 1)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise UsageError(
            f"{who}: optimizer or schedule cannot be built: {error}. Settings: {asdict(recipe)}."
        ) from error
    rate = recipe.optimizer.get("lr", 0.0)
    if not isinstance(rate, (int, float)) or not math.isfinite(rate):
        raise usage(who, "optimizer.lr", "a finite number", rate)
