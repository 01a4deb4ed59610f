"""The training loop: a cohort in mmengine's Runner, from any position, with our own checkpoints and
evaluation."""

from __future__ import annotations

import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from kdzoo.data.pipeline import Feed
from kdzoo.training import checkpoint
from kdzoo.training.checkpoint import START, Position
from kdzoo.training.cohort import Cohort
from kdzoo.training.evaluation import evaluate
from kdzoo.training.member import Member
from kdzoo.training.optimisers import build_schedulers, replay
from kdzoo.training.recipe import Recipe
from kdzoo.training.reporter import Reporter

# A checkpoint after every epoch, and inside an epoch that takes longer than this.
CHECKPOINT_SECONDS = 300.0


@dataclass
class Training:
    """What the loop needs beside the cohort.

    Attributes:
        title: for progress.
        recipe: epochs, optimizer, schedule.
        splits: what to evaluate on after every epoch, by name.
        reporter: shows progress.
        folders: where each member keeps its checkpoints, by its name.
        references: the teacher's logits by split.
        start: position from which all members go on.
        checkpoint_seconds: longest time between two checkpoints inside an epoch.
        on_diverged: called once for a member that has diverged.
    """

    title: str
    recipe: Recipe
    splits: Mapping[str, Feed]
    reporter: Reporter
    folders: Mapping[str, Path]
    references: Mapping[str, Tensor] = field(default_factory=dict)
    start: Position = START
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    on_diverged: Callable[[Member], None] = lambda member: None


def train(cohort: Cohort, training: Training) -> None:
    """Train a cohort to its last epoch.

    Members must be fresh, or loaded from checkpoints at `training.start`. Afterwards those that neither
    diverged nor failed are at the end, with the metrics of every epoch.

    Raises:
        StorageError: a checkpoint could not be written; the older ones are still there.
    """
    optimizers = {str(i): member.optimizer for i, member in enumerate(cohort.members)}
    with tempfile.TemporaryDirectory(prefix="kdzoo-") as scratch:
        runner = _Runner(
            model=cohort,
            work_dir=scratch,
            train_dataloader=_Positions(cohort.images.steps),
            train_cfg={"type": CohortLoop, "max_epochs": training.recipe.epochs, "start": training.start},
            optim_wrapper=OptimWrapperDict(**optimizers),
            param_scheduler={
                name: build_schedulers(training.recipe, optimizer, cohort.images.steps)
                for name, optimizer in optimizers.items()
            },
            default_hooks=dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "checkpoint")),
            custom_hooks=[CohortHook(cohort, training)],
            # mmengine keeps named singletons for the whole process.
            experiment_name=f"kdzoo-{uuid.uuid4().hex}",
        )
        try:
            runner.train()
        finally:
            cohort.close()


class _Positions:
    """Stands where mmengine expects a data loader: batches are functions of (epoch, step), so steps are all
    it counts."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.dataset = self
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._steps


class CohortLoop(EpochBasedTrainLoop):  # type: ignore[misc]
    """mmengine's epoch loop, started at any position.

    Args:
        runner: the Runner.
        dataloader: knows how many steps an epoch has.
        max_epochs: how many epochs there are.
        start: the first position to train at.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, start: Position) -> None:
        super().__init__(runner, dataloader, max_epochs)
        self._epoch = start.epoch
        self._first_step = start.step
        self._iter = start.epoch * len(dataloader) + start.step

    def run_epoch(self) -> None:
        """Train the rest of the current epoch."""
        self.runner.call_hook("before_train_epoch")
        for step in range(self._first_step, len(self.dataloader)):
            self.run_iter(step, (self._epoch, step))
            if not self.runner.model.active:
                break
        self._first_step = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


class CohortHook(Hook):  # type: ignore[misc]
    """What happens around the steps: replayed schedules, evaluation, checkpoints, progress.

    Args:
        cohort: what is trained.
        training: how.
    """

    def __init__(self, cohort: Cohort, training: Training) -> None:
        self._cohort = cohort
        self._training = training
        self._saved = self._epoch_began = time.monotonic()
        self._last_steps = training.start.step

    def before_train(self, runner: Runner) -> None:
        """Bring every schedule to the starting position."""
        start, steps = self._training.start, self._cohort.images.steps
        for name, schedulers in runner.param_schedulers.items():
            replay(schedulers, runner.optim_wrapper[name], start.epoch, start.step, steps)
        self._training.reporter.start(
            self._training.title,
            [m.name for m in self._cohort.members],
            self._training.recipe.epochs,
            steps,
            start,
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock."""
        self._epoch_began = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show progress, and inside a long epoch keep a checkpoint."""
        position = Position(runner.epoch, batch_idx + 1)
        self._training.reporter.step(position)
        inside = position.step < self._cohort.images.steps
        if inside and time.monotonic() - self._saved >= self._training.checkpoint_seconds:
            self._save(position)

    def after_train_epoch(self, runner: Runner) -> None:
        """Judge every member, let go of those that diverged, and keep a checkpoint of the rest."""
        members = self._cohort.active
        trained = [m.training_means() for m in members]
        judged = evaluate(members, self._training.splits, self._training.references)
        seconds = time.monotonic() - self._epoch_began
        self._cohort.wall += seconds
        self._cohort.epochs_run += 1
        for member, train_metrics, metrics in zip(members, trained, judged, strict=True):
            if member.fault is not None:
                continue
            rate = member.optimizer.get_lr()["lr"][0]
            member.epochs.append({"epoch": runner.epoch + 1, "lr": rate, "train": train_metrics, **metrics})
            numbers = [*train_metrics.values(), *(v for split in metrics.values() for v in split.values())]
            if any(v is None for v in numbers):
                member.status = "diverged"
                self._training.on_diverged(member)
        self._save(Position(runner.epoch + 1, 0))
        self._training.reporter.epoch(runner.epoch, self._cohort.members, seconds)
        # The loop must not go on for nobody.
        runner.train_loop.stop_training = not self._cohort.active

    def after_train(self, runner: Runner) -> None:
        """End the progress display."""
        self._training.reporter.finish()

    def _save(self, position: Position) -> None:
        for member in self._cohort.active:
            with member.setting_aside():
                checkpoint.save(member, self._training.folders[member.name], position)
        self._saved = time.monotonic()


class _Runner(Runner):  # type: ignore[misc]
    """mmengine's Runner without what it does to the process: no seeding, no files, no moving of the model."""

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Leave the process alone: mmengine would choose a start method for processes and raise limits."""
        self._timestamp = time.strftime("%Y%m%d_%H%M%S")
        self._rank, self._world_size = 0, 1

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Leave the generators alone: randomness is keyed."""
        self._seed, self._deterministic = 0, False

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        """Leave the networks where they are; mmengine would move them to a GPU that the user did not ask
        for."""
        return model

    def build_logger(
        self, log_level: int | str = "ERROR", log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """Log nowhere but to the terminal, and errors only."""
        return MMLogger.get_instance(self._experiment_name, log_level=logging.ERROR)

    def build_visualizer(self, visualizer: Any = None) -> SimpleNamespace:
        """Draw nothing: loops only leave a note there. mmengine's own would open a figure of matplotlib."""
        return SimpleNamespace()

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Collect no environment: records have their own, and mmengine's takes seconds."""

    def dump_config(self) -> None:
        """Write no config: records hold all settings."""

    def _init_model_weights(self) -> None:
        """Members come with their weights."""


def seeded_network(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose initial weights are a function of the seed, whatever was drawn before.

    Args:
        build: builds it on the CPU from the default generator, so that every device starts from the same
            weights.
        seed: a key.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()
