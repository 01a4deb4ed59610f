"""A schedule is a function of its settings and the position: replayed, it goes on bit for bit."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import ParamSchedulerHook

from kdzoo.training.optimisers import build_optimizer, build_schedulers, replay
from kdzoo.training.recipe import Recipe

EPOCHS, STEPS = 4, 5
SCHEDULES = {
    "none": [],
    "multistep": [{"type": "MultiStepLR", "milestones": [1, 3], "gamma": 0.3}],
    "cosine": [{"type": "CosineAnnealingLR", "T_max": 4, "eta_min": 1e-4}],
    "cosine by step": [{"type": "CosineAnnealingLR", "T_max": 20, "by_epoch": False}],
    "cosine converted": [{"type": "CosineAnnealingLR", "T_max": 4, "convert_to_iter_based": True}],
    "exponential": [{"type": "ExponentialLR", "gamma": 0.7}],
    "polynomial": [{"type": "PolyLR", "power": 0.9, "end": 4, "eta_min": 1e-3}],
    "warm-up by step, then milestones": [
        {"type": "LinearLR", "start_factor": 0.01, "end": 7, "by_epoch": False},
        {"type": "MultiStepLR", "milestones": [2, 3], "gamma": 0.2},
    ],
    "warm-up, then cosine": [
        {"type": "LinearLR", "start_factor": 0.1, "end": 1, "convert_to_iter_based": True},
        {"type": "CosineAnnealingLR", "T_max": 3, "begin": 1, "end": 4},
    ],
    "one cycle by step": [{"type": "OneCycleLR", "eta_max": 0.3, "total_steps": 20, "by_epoch": False}],
    "one cycle converted": [
        {"type": "OneCycleLR", "eta_max": 0.3, "total_steps": 4, "convert_to_iter_based": True}
    ],
    "momentum too": [
        {"type": "StepLR", "step_size": 1, "gamma": 0.5},
        {"type": "CosineAnnealingMomentum", "T_max": 4, "eta_min": 0.5},
    ],
}  # fmt: skip


class Run:
    """A parameter trained step by step, its schedulers moved by mmengine's own hook, as the Runner does."""

    def __init__(self, schedule):
        recipe = Recipe(EPOCHS, 8, {"type": "SGD", "lr": 0.1, "momentum": 0.9}, tuple(schedule))
        self.parameter = torch.nn.Parameter(torch.ones(3))
        self.optimizer = build_optimizer(recipe.optimizer, [self.parameter])
        self.schedulers = build_schedulers(recipe, self.optimizer, STEPS)
        self._runner = SimpleNamespace(param_schedulers=self.schedulers)

    @property
    def rates(self) -> tuple[float, float]:
        (group,) = self.optimizer.param_groups
        return group["lr"], group["momentum"]

    def go(self, begin: int) -> list[tuple[float, float]]:
        """Train from a position to the end and tell the rates of every step, and those after the last."""
        hook, seen = ParamSchedulerHook(), []
        for position in range(begin, EPOCHS * STEPS):
            seen.append(self.rates)
            self.optimizer.update_params(self.parameter.square().sum())
            hook.after_train_iter(self._runner, position % STEPS)
            if (position + 1) % STEPS == 0:
                hook.after_train_epoch(self._runner)
        return [*seen, self.rates]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_replayed_schedule_goes_on_bit_for_bit(name):
    whole = Run(SCHEDULES[name]).go(0)
    assert len(set(whole)) > 2 or name == "none"
    for begin in range(EPOCHS * STEPS + 1):
        run = Run(SCHEDULES[name])
        replay(run.schedulers, run.optimizer, begin // STEPS, begin % STEPS, STEPS)
        assert torch.equal(run.parameter, torch.ones(3))
        assert run.go(begin) == whole[begin:]


def test_the_end_of_an_epoch_may_be_told_as_its_last_step():
    """A position (1, 5) of five steps stands after the schedulers of the epoch have moved, as (2, 0) does."""
    run, other = (Run(SCHEDULES["warm-up by step, then milestones"]) for _ in range(2))
    replay(run.schedulers, run.optimizer, 1, STEPS, STEPS)
    replay(other.schedulers, other.optimizer, 2, 0, STEPS)
    assert run.rates == other.rates


def test_milestones_take_effect_at_their_epoch():
    rates = [rate for rate, _ in Run(SCHEDULES["multistep"]).go(0)]
    assert rates[:5] == [0.1] * 5
    assert rates[5:15] == pytest.approx([0.03] * 10)
    assert rates[15:] == pytest.approx([0.009] * 6)


def test_settings_are_not_eaten_by_the_builders():
    config = {"type": "SGD", "lr": 0.1}
    schedule = {"type": "CosineAnnealingLR", "T_max": 4, "convert_to_iter_based": True}
    recipe = Recipe(EPOCHS, 8, config, (schedule,))
    for _ in range(2):
        optimizer = build_optimizer(recipe.optimizer, [torch.nn.Parameter(torch.ones(1))])
        (scheduler,) = build_schedulers(recipe, optimizer, STEPS)
        assert not scheduler.by_epoch
    assert config == {"type": "SGD", "lr": 0.1}
    assert schedule == {"type": "CosineAnnealingLR", "T_max": 4, "convert_to_iter_based": True}
