"""Our own checkpoints: one safetensors file per member and position, two generations, nothing that executes.

Randomness is keyed and schedules are replayed, so a position, the weights, the optimizer's state and the
metrics so far are all there is to keep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kdzoo.checks import KdzooError, UsageError
from kdzoo.files import write_atomic
from kdzoo.results.store import CHECKPOINT
from kdzoo.training.member import Member

GENERATIONS = 2


class Position(NamedTuple):
    """How far training is: finished epochs, and finished steps of the epoch after them."""

    epoch: int
    step: int


START = Position(0, 0)


def _path(folder: Path, position: Position) -> Path:
    return folder / f"checkpoint-{position.epoch:06d}-{position.step:08d}.safetensors"


def positions(folder: Path) -> list[Position]:
    """List the positions at which a folder has checkpoints, the newest first."""
    files = folder.glob("checkpoint-*.safetensors") if folder.is_dir() else ()
    names = [CHECKPOINT.fullmatch(file.name) for file in files]
    return sorted((Position(int(m[1]), int(m[2])) for m in names if m), reverse=True)


def save(member: Member, folder: Path, position: Position) -> None:
    """Write a member's state, whole or not at all, then let go of all but the newest two.

    Raises:
        StorageError: there is no room; the older checkpoints are still there.
    """
    tensors = {f"network.{k}": v for k, v in member.network.state_dict().items()}
    if member.distiller is not None:
        tensors |= {f"distiller.{k}": v for k, v in member.distiller.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, state in member.optimizer.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    if member.sums is not None:
        tensors["sums"] = member.sums
    notes = {
        "name": member.name,
        "epochs": member.epochs,
        "seconds": member.seconds,
        "terms": member.names,
        "samples": member.samples,
        "optimizer": plain,
    }
    # Tensors that share memory (tied weights) are each written; loading copies into the tied tensor twice.
    copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomic(_path(folder, position), safetensors.torch.save(copies, {"kdzoo": json.dumps(notes)}))
    discard(folder, keep=GENERATIONS)


def discard(folder: Path, keep: int = 0) -> None:
    """Remove a folder's checkpoints but for the newest few, and what a killed write left behind."""
    for position in positions(folder)[keep:]:
        _path(folder, position).unlink(missing_ok=True)
    if not keep:
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)


class DamagedCheckpoint(KdzooError):
    """A checkpoint that cannot be used; training then goes on from an older one, or anew."""


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["kdzoo"])
            return notes, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged and passed over: {error}") from error


def usable(folder: Path, name: str, say: Callable[[str], None]) -> list[Position]:
    """List the positions at which a folder has checkpoints that can be read, the newest first.

    Args:
        folder: a member's or an artifact's.
        name: whose they must be.
        say: is told of each that cannot.
    """
    sound = []
    for position in positions(folder):
        try:
            path = _path(folder, position)
            owner = _read(path)[0].get("name")
            if owner != name:
                raise DamagedCheckpoint(
                    f"checkpoint {path} is damaged and passed over: it is of {owner!r}, not {name!r}"
                )
            sound.append(position)
        except DamagedCheckpoint as error:
            say(str(error))
    return sound


def load(member: Member, folder: Path, position: Position) -> None:
    """Bring a freshly built member to the state that it had at a position; its learning rate is replayed
    elsewhere.

    Raises:
        DamagedCheckpoint: the file is not what was written for this member.
    """
    path = _path(folder, position)
    notes, tensors = _read(path)
    try:
        _restore(member, notes, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise DamagedCheckpoint(
            f"checkpoint {path} does not fit the member that it belongs to: {error}. Delete {folder} to "
            f"train it anew."
        ) from error


def _restore(member: Member, notes: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    if notes["name"] != member.name or not isinstance(notes["epochs"], list):
        raise ValueError(f"it belongs to {notes['name']!r}, not to {member.name!r}")
    member.network.load_state_dict(part("network."))
    if member.distiller is not None:
        member.distiller.load_state_dict(part("distiller."))
    state: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in notes["optimizer"].items()
    }
    for name, value in part("optimizer.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer = member.optimizer.optimizer
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    member.epochs = notes["epochs"]
    member.seconds = float(notes["seconds"])
    member.names = tuple(notes["terms"])
    member.samples = int(notes["samples"])
    device = next(member.network.parameters()).device
    member.sums = tensors["sums"].to(device) if "sums" in tensors else None


class _Number:
    """Stands for a number of numpy's: learning rates beside public weights are such.

    Nobody reads it, so it keeps nothing, and nothing of numpy's runs.
    """

    def __init__(self, *parts: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# torch looks for what a file names among these by their module and name; numpy 2 has renamed the module.
_NUMBERS: list[Any] = [
    type(name, (_Number,), {"__module__": module})
    for module, name in (
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
    )
]
# Under which names public checkpoints keep their weights beside epochs, scores and an optimizer's state.
_WEIGHTS = ("state_dict", "model", "net", "model_state_dict")


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a .safetensors file, or from a .pt or .pth file without executing anything
    in it.

    Args:
        path: the file; a checkpoint that keeps its weights under "state_dict", "model", "net" or
            "model_state_dict" is understood. Numbers and texts beside the weights are left out.

    Raises:
        UsageError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"checkpoint {path}: there is no such file.") from error
    except Exception as error:
        raise UsageError(
            f"checkpoint {path}: must hold tensors alone (.safetensors, or a .pt that "
            f"torch.load(weights_only=True) accepts), but it cannot be read: {_reason(error)}"
        ) from error
    for name in _WEIGHTS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(name).removeprefix("module."): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UsageError(f"checkpoint {path}: must hold a dictionary of tensors by parameter name.")
    return tensors


def _reason(error: Exception) -> str:
    """Say in a line why a file was refused; torch's own message runs over many and advises to trust it."""
    text = str(error).strip()
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it also holds {named[1]}. Save the weights alone, torch.save(network.state_dict(), ...)."
    return text.splitlines()[0][:160] if text else type(error).__name__
