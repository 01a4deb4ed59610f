"""A trained student with all that it takes to run it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdzoo.checks import Problems, UsageError, usage
from kdzoo.data import Split
from kdzoo.data.picture_files import PictureFiles
from kdzoo.data.pictures import read_picture
from kdzoo.data.pipeline import Feed
from kdzoo.data.stream import feed_of
from kdzoo.data.views import Views
from kdzoo.distillers import Distiller
from kdzoo.models import build_model
from kdzoo.models.base import model_origin
from kdzoo.registry import DISTILLERS
from kdzoo.results.record import Record
from kdzoo.results.sheet import SHEET, WEIGHTS, Sheet, read_sheet
from kdzoo.students.find import find_run
from kdzoo.training.choices import check_workers
from kdzoo.training.evaluation import chunk_of
from kdzoo.training.execution import laid_out
from kdzoo.training.networks import run_network


@dataclass(frozen=True)
class Student:
    """A trained student in evaluation mode.

    Attributes:
        folder: the run's.
        record: of its training.
        sheet: how it is built and fed.
        network: maps normalised images [N, C, H, W] to a `ModelOutput`.
        changed: what defines its network and is not as it was in training; None where all is.
    """

    folder: Path
    record: Record
    sheet: Sheet
    network: nn.Module
    changed: str | None = None

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.network.parameters()).device

    def feed(self, split: Split) -> Feed:
        """Give images as training judged them: resized, normalised, in chunks.

        Args:
            split: images of its channels, and labels.
        """
        sheet = self.sheet
        in_memory = not isinstance(split.images, PictureFiles)
        return feed_of(
            split, views=Views(resize=sheet.size if in_memory else None), workers=check_workers(None),
            mean=sheet.mean, std=sheet.std, batch_size=chunk_of(sheet.size), seed=0, device=self.device,
        )  # fmt: skip

    @torch.no_grad()
    def logits(self, split: Split, precision: str | None = None) -> Tensor:
        """Give [N, K] logits of a split's images, float32, on the student's device.

        Args:
            split: as for `feed`.
            precision: of the pass, "float32" or "bf16"; None takes that in which it was judged.
        """
        precision = precision or self.sheet.precision
        with self.feed(split) as images:
            chunks = images.chunks(chunk_of(self.sheet.size))
            return torch.cat([run_network(self.network, c, precision).logits for c, _ in chunks])

    def predict(self, pictures: Sequence[str | Path], *, top: int = 5) -> list[list[tuple[str, float]]]:
        """Name the most likely classes of pictures of any size and mode.

        Args:
            pictures: image files.
            top: classes to name.

        Returns:
            For each picture its `top` classes, the likeliest first, with probabilities in [0, 1].

        Raises:
            UsageError: files that are no pictures, all of them.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise usage("predict", "top", "an integer of at least 1", top)
        images, problems, fitting = [], Problems(), self.fitting("predict")
        for picture in pictures:
            with problems:
                images.append(read_picture("predict", Path(picture), **fitting))
        problems.raise_all()
        if not images:
            return []
        split = Split(np.stack(images), np.zeros(len(images), np.int64))
        likely = self.logits(split).double().softmax(dim=1).topk(min(top, len(self.sheet.classes)), dim=1)
        return [
            [(self.sheet.classes[place], probability) for place, probability in zip(*row, strict=True)]
            for row in zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
        ]

    def fitting(self, who: str) -> dict[str, Any]:
        """Say how pictures become images like those of its data set, as `fitted` takes it; `feed` resizes
        them as training did.

        Args:
            who: who asks, for the message.

        Raises:
            UsageError: its images are no pictures.
        """
        sheet = self.sheet
        if sheet.channels not in (1, 3):
            raise UsageError(f"{who}: the student takes images of {sheet.channels} channels, no pictures.")
        return {"channels": "grey" if sheet.channels == 1 else "rgb", **sheet.pictures}


def load_student(
    run: str | Path,
    *,
    work_dir: str | Path = "work_dirs",
    benchmark: str | None = None,
    device: str | torch.device = "cpu",
) -> Student:
    """Load the student of a finished run.

    Args:
        run: its folder, its record.json, or its method, where the work directory has one such run.
        work_dir: where a method is looked for.
        benchmark: the one whose runs are looked at for a method; None looks at all.
        device: where the student shall live.

    Raises:
        UsageError: there is no such run, or something in its folder is missing, damaged, or of another run.
    """
    folder, record = find_run(run, Path(work_dir), benchmark)
    sheet = read_sheet(folder)
    if sheet.record != record.key:
        raise UsageError(f"{folder}: its {SHEET} is of another run than its record. Train the run again.")
    # Its weights are in the folder: nothing is fetched.
    options = {n: v for n, v in sheet.network["options"].items() if n != "pretrained"}
    with torch.random.fork_rng(devices=[]):
        network = build_model(
            sheet.network["type"], num_classes=len(sheet.classes), channels=sheet.channels, size=sheet.size,
            options=options,
        )  # fmt: skip
    weights = folder / WEIGHTS
    try:
        content = weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != sheet.weights:
            raise UsageError(
                f"{weights}: these are not the weights that its record tells of. Delete {folder}, and train "
                "the run again."
            )
        tensors = safetensors.torch.load(content)
        if (method := deploying(record)) is not None:
            network = method.redeployed(network, tensors)
        network.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise UsageError(f"{weights}: there is no such file. Train the run again.") from error
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"{weights}: it does not hold this student's weights: {said}") from error
    network = laid_out(network.to(device), sheet.precision).eval()
    return Student(folder, record, sheet, network, _changed(record, sheet))


def deploying(record: Record) -> type[Distiller] | None:
    """Give the method whose students are more than the bare network; None for all others.

    Args:
        record: of a student. A plug-in that registers its method must be loaded.
    """
    name = record.settings["method"]["distiller"]
    method = DISTILLERS.find(name) if DISTILLERS.has(name) else None
    # Bound to the class, so that the functions themselves tell whether it has its own.
    own = method is not None and method.redeployed.__func__ is not Distiller.redeployed.__func__  # type: ignore[attr-defined]
    return method if own else None


def _changed(record: Record, sheet: Sheet) -> str | None:
    """Say whether the code of a network from outside is another than in training."""
    name = sheet.network["type"]
    origin = model_origin(name, {n: v for n, v in sheet.network["options"].items() if n != "pretrained"})
    if origin.get("plug_in") == record.settings["student"].get("plug_in"):
        return None
    return f"The code of network {name!r} is not what it was when this student was trained."
