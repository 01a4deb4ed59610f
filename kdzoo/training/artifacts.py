"""Artifacts: networks that are trained once, found again by the hash of all settings that made them, and
reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import Timeout
from torch import Tensor, nn

from kdzoo.checks import KdzooError, UsageError
from kdzoo.data.pipeline import Feed
from kdzoo.files import open_lock, write_atomic, write_json
from kdzoo.keys import fingerprint, key
from kdzoo.models import build_model
from kdzoo.models.base import model_origin, names_in_file
from kdzoo.results.store import slug
from kdzoo.training import checkpoint
from kdzoo.training.benchmark import Section
from kdzoo.training.cohort import Cohort
from kdzoo.training.evaluation import observe
from kdzoo.training.execution import laid_out
from kdzoo.training.loop import Training, seeded_network, train
from kdzoo.training.member import Member, Objective
from kdzoo.training.optimisers import build_optimizer
from kdzoo.training.recording import Recorder
from kdzoo.training.reporter import Reporter
from kdzoo.training.runtime import environment

SCHEMA = 1
# Of artifacts, not of students: all seeds of students share them.
SEED = 0


@dataclass(frozen=True)
class ArtifactPlan:
    """What an artifact is, before it exists.

    Attributes:
        name: its section in the config: "teacher", "autoencoder".
        section: network and recipe.
        channels: of its input images.
        size: of its input images in pixels.
        classes: number of classes.
        settings: everything that its weights depend on.
        work_dir: where artifacts are kept.
        given: the user's own checkpoint, None to train one.
    """

    name: str
    section: Section
    channels: int
    size: int
    classes: int
    settings: Mapping[str, Any]
    work_dir: Path
    given: Path | None = None

    @property
    def key(self) -> str:
        """Hash of all settings, 64 hexadecimal digits."""
        return fingerprint(self.settings)

    @property
    def precision(self) -> str:
        """Of its passes: "float32" or "bf16"."""
        return str(self.settings["precision"])

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.work_dir / "artifacts" / f"{self.name}-{slug(self.section.network)}-{self.key[:8]}"

    @property
    def ready(self) -> bool:
        """Whether it has been made."""
        return (self.folder / "settings.json").is_file() and (self.folder / "weights.safetensors").is_file()

    def weights(self) -> str | None:
        """Give the SHA-256 of its weights; None before it has been made."""
        if not self.ready:
            return None
        return hashlib.sha256((self.folder / "weights.safetensors").read_bytes()).hexdigest()

    @property
    def origin(self) -> str:
        """Say where its weights come from, as records do."""
        if self.given is not None:
            return "checkpoint"
        return "trained" if self.section.recipe.epochs else "pretrained"

    def described(self) -> dict[str, Any]:
        """Give the settings under the names that records use, so that a reader sees where they differ from
        the student's; the data is the record's own."""
        settings = dict(self.settings)
        sometimes = ("checkpoint", "options", "weights", "source", "plug_in")
        kept = {name: settings[name] for name in sometimes if settings.get(name)}
        shared = {"precision": settings["precision"], "views": settings["data"]["views"]}
        return {**settings.get("recipe", {}), **shared, **kept}

    def build(self, *, filled: bool = False) -> nn.Module:
        """Build its network on the CPU, with the initial weights of an artifact.

        Args:
            filled: whether its weights are at hand, so that no published ones are fetched.
        """
        options = dict(self.section.options)
        if filled:
            options.pop("pretrained", None)
        return seeded_network(
            lambda: build_model(
                self.section.network, num_classes=self.classes, channels=self.channels, size=self.size,
                options=options,
            ),
            key(SEED, "artifact", self.name),
        )  # fmt: skip


@dataclass
class Artifact:
    """A network that is ready, in evaluation mode on its device.

    Attributes:
        plan: what it is.
        network: the weights.
        notes: what records say of it: key, network, origin, seed, score, settings.
        outputs: what its objective keeps of every image of a split (a teacher's logits), by split.
    """

    plan: ArtifactPlan
    network: nn.Module
    notes: dict[str, Any]
    outputs: dict[str, Tensor] = field(default_factory=dict)


def artifact_settings(
    name: str,
    section: Section,
    data: Mapping[str, Any],
    precision: str,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather what an artifact's weights depend on.

    Args:
        name: of the artifact.
        section: network and recipe.
        data: training images and how they are seen: fingerprint, statistics, views.
        precision: of its training.
        source: name, version and options of the source whose loss trains it; None for a classifier.
    """
    # Weights that are taken as they come know of no optimizer.
    recipe = plain_recipe(section) if section.recipe.epochs else {"epochs": 0}
    return {
        "artifact": name, "seed": SEED, **described_network(section),
        "recipe": recipe, "data": dict(data), "precision": precision, "source": source,
        # The usual layout is left out, so that it changes no key.
        **({"layout": "channels_last"} if precision == "bf16" else {}),
    }  # fmt: skip


def described_network(section: Section) -> dict[str, Any]:
    """Name a section's network and its options; of one from outside also the hash of its file, and published
    weights that it starts from."""
    origin = model_origin(section.network, section.options)
    return {"network": section.network, "options": dict(section.options), **origin}


def plain_recipe(section: Section) -> dict[str, Any]:
    """Give a recipe as JSON can hold it."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(section.recipe)))
    return content


def checkpoint_settings(
    section: Section, path: Path, data: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Gather what tells a user's own teacher from others: the content of the file, and on what it is
    measured.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--teacher-checkpoint: {path} cannot be read: {error.strerror}.") from error
    return {
        "artifact": "teacher", "checkpoint": digest, **described_network(section),
        "data": dict(data), "precision": precision,
    }  # fmt: skip


@dataclass
class Foundry:
    """Makes artifacts, or fetches them.

    Attributes:
        images: the training images as an artifact sees them: order and views keyed by its name.
        splits: what to measure on, by name.
        device: where networks live.
        reporter: shows progress.
        checkpoint_seconds: longest time between two checkpoints inside an epoch.
        recorder: gives what lets the device repeat steps by itself, or None.
        made: what was made or fetched so far, by key.
    """

    images: Callable[[str, int], Feed]
    splits: Mapping[str, Feed]
    device: torch.device
    reporter: Reporter
    checkpoint_seconds: float
    recorder: Callable[[], Recorder | None] = lambda: None
    made: dict[str, Artifact] = field(default_factory=dict)
    _faults: dict[str, KdzooError] = field(default_factory=dict)

    def make(self, plan: ArtifactPlan, objective: Objective) -> Artifact:
        """Give an artifact: fetched if it is there, imported if the user brought it, else trained.

        Another process that is making the same one is waited for.

        Args:
            plan: what it is.
            objective: what it is trained for and judged by.

        Raises:
            KdzooError: its training diverged or failed, or the user's checkpoint does not fit.
        """
        if plan.key in self.made:
            return self.made[plan.key]
        if plan.key in self._faults:
            raise self._faults[plan.key]
        lock = open_lock(plan.folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.reporter.message(f"{plan.name}: another process is making it; waiting for {plan.folder}")
            lock.acquire()
        try:
            artifact = self._load(plan, objective) if plan.ready else self._create(plan, objective)
            self.made[plan.key] = artifact
            return artifact
        except KdzooError as error:
            # Whoever asks next hears the same at once, not after another training.
            self._faults[plan.key] = error
            raise
        finally:
            lock.release()

    def _load(self, plan: ArtifactPlan, objective: Objective) -> Artifact:
        network = plan.build(filled=True)
        try:
            network.load_state_dict(safetensors.torch.load_file(plan.folder / "weights.safetensors"))
            notes = json.loads((plan.folder / "settings.json").read_text())
            record = {n: notes[n] for n in ("key", "network", "origin", "seed", "score", "settings")}
        except Exception as error:
            raise KdzooError(
                f"artifact {plan.folder} is damaged: {str(error).splitlines()[0]} Delete that folder to "
                f"make it again."
            ) from error
        network = laid_out(network.to(self.device), plan.precision)
        artifact = Artifact(plan, network.eval(), record)
        self.reporter.message(_described(artifact, "reused"))
        self._add_outputs(artifact, objective)
        return artifact

    def _create(self, plan: ArtifactPlan, objective: Objective) -> Artifact:
        (plan.folder / "outputs.safetensors").unlink(missing_ok=True)
        network = laid_out(plan.build(filled=plan.given is not None).to(self.device), plan.precision)
        member = Member(plan.name, network, objective, build_optimizer(plan.section.recipe.optimizer,
        network.parameters()),
                        key(SEED, "artifact", plan.name))  # fmt: skip
        if plan.given is not None:
            network.load_state_dict(fitting_weights(network, plan.given), strict=False)
        timing = self._train(plan, member) if plan.origin == "trained" else None
        artifact = Artifact(plan, network.eval(), {})
        score = self._add_outputs(artifact, objective)
        artifact.notes = {
            "key": plan.key,
            "network": plan.section.network,
            "origin": plan.origin,
            "seed": SEED if plan.origin == "trained" else None,
            "score": score,
            "settings": plan.described(),
        }
        weights = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
        write_atomic(plan.folder / "weights.safetensors", safetensors.torch.save(weights))
        # Last, because it says that all else is there.
        write_json(
            plan.folder / "settings.json",
            {
                "schema": SCHEMA,
                "made_of": dict(plan.settings),
                "name": plan.name,
                **artifact.notes,
                "epochs": member.epochs,
                "timing": timing,
                "environment": environment(self.device),
            },
        )
        checkpoint.discard(plan.folder)
        self.reporter.message(
            _described(artifact, plan.origin if plan.given is None else f"read from {plan.given}")
        )
        return artifact

    def _train(self, plan: ArtifactPlan, member: Member) -> dict[str, Any]:
        start = resume([member], {member.name: plan.folder}, self.reporter.message)
        recipe = plan.section.recipe
        with self.images(plan.name, recipe.batch_size) as images:
            # A network from outside may decide in Python what nobody sees.
            outside = "plug_in" in described_network(plan.section)
            recorder = None if outside else self.recorder()
            cohort = Cohort([member], images, recipe.epochs, recorder=recorder)
            train(cohort, Training(
                title=f"{plan.name} ({plan.section.network})", recipe=recipe, splits=self.splits,
                reporter=self.reporter, folders={member.name: plan.folder}, start=start,
                checkpoint_seconds=self.checkpoint_seconds,
            ))  # fmt: skip
        if member.status == "failed":
            raise KdzooError(f"{plan.name}: its training failed: {member.fault}") from member.fault
        if member.status == "diverged":
            raise KdzooError(
                f"{plan.name}: its training diverged in epoch {len(member.epochs)}, so nothing can be "
                f"learnt from it. "
                f"Lower its learning rate, for example --cfg-options {plan.name}.recipe.optimizer.lr=0.01."
            )
        return {"seconds_per_epoch": cohort.wall / cohort.epochs_run if cohort.epochs_run else None}

    def _add_outputs(self, artifact: Artifact, objective: Objective) -> dict[str, Any]:
        """Observe every split once; the outputs are kept with the artifact."""
        path = artifact.plan.folder / "outputs.safetensors"
        member = Member(artifact.plan.name, artifact.network, objective, _NO_OPTIMIZER, SEED)
        if path.is_file():
            try:
                artifact.outputs = {
                    k: v.to(self.device) for k, v in safetensors.torch.load_file(path).items()
                }
            except (OSError, ValueError, safetensors.SafetensorError):
                self.reporter.message(f"{path} is damaged; its content is made again")
        if any(len(artifact.outputs.get(s, ())) != len(images) for s, images in self.splits.items()):
            observed = {split: observe([member], images)[0] for split, images in self.splits.items()}
            if member.fault is not None:
                raise KdzooError(
                    f"{artifact.plan.name}: it cannot be evaluated: {member.fault}"
                ) from member.fault
            artifact.outputs = {split: values for split, values in observed.items() if values is not None}
            artifact.network.eval()
            kept = {k: v.cpu().contiguous() for k, v in artifact.outputs.items()}
            write_atomic(path, safetensors.torch.save(kept))
        score: dict[str, Any] = objective.metrics(artifact.outputs["test"], self.splits["test"].labels, None)
        return score


# Observing moves nothing, so no optimizer is needed.
_NO_OPTIMIZER: Any = None


def _described(artifact: Artifact, how: str) -> str:
    score = artifact.notes["score"]
    what = f"{score['top1']:.2f}% of the test images" if "top1" in score else f"test loss {score['loss']:.4f}"
    return f"{artifact.plan.name}: {artifact.plan.section.network}, {what} ({how})"


def fitting_weights(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """Read a user's own checkpoint for a network, under our names or those of a public one of its family.

    Args:
        network: whose tensors they shall be; it may live on the meta device, as only names and shapes are
            compared.
        path: .safetensors, or .pt with tensors alone.

    Returns:
        The tensors by the network's own names.

    Raises:
        UsageError: it holds no such tensors; those that are missing, left over or of another shape are named
            as the file names them.
    """
    given = checkpoint.load_weights(path)
    names = names_in_file(network, given)
    own = {names[n]: tensor for n, tensor in network.state_dict().items()}
    # Batch norm's counter does not touch the network's output, and many public checkpoints lack it.
    missing = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    extra = [n for n in given if n not in own]
    both = [n for n in own if n in given and given[n].shape != own[n].shape]
    shapes = [f"{n} {tuple(given[n].shape)} for {tuple(own[n].shape)}" for n in both]
    wrong = {"missing": missing, "unknown": extra, "of another shape": shapes}
    if any(wrong.values()):
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in wrong.items()
            if names
        ]
        raise UsageError(
            f"--teacher-checkpoint: {path} does not fit the teacher's network: tensors {'; '.join(parts)}."
        )
    return {n: given[theirs] for n, theirs in names.items() if theirs in given}


def resume(
    members: list[Member], folders: Mapping[str, Path], say: Callable[[str], None]
) -> checkpoint.Position:
    """Load all members at the newest position that they share.

    Args:
        members: freshly built, at the start.
        folders: where their checkpoints are, by name.
        say: is told of checkpoints that cannot be used.

    Returns:
        The position; the start if they share none.
    """
    shared = set.intersection(*(set(checkpoint.usable(folders[m.name], m.name, say)) for m in members))
    position = max(shared, default=checkpoint.START)
    for member in members:
        if position != checkpoint.START:
            checkpoint.load(member, folders[member.name], position)
    return position
