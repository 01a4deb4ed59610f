"""The sheet of a trained student, beside its weights: what it takes to run it, apart from its record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdzoo.checks import StorageError, UsageError, usage
from kdzoo.data.base import LONGEST_NAME, MOST_CLASSES
from kdzoo.files import write_json
from kdzoo.results.schema import (
    LARGEST_FILE,
    Mismatch,
    anything,
    choice,
    fields,
    listing,
    nullable,
    number,
    parse,
    text,
)

SHEET, WEIGHTS = "student.json", "student.safetensors"
SCHEMA = 1

_PART = fields({"type": text(), "options": fields({}, others=anything)})
_SIDE = number(1, 100_000, whole=True)
SHAPE = fields(
    {
        "schema": choice(SCHEMA),
        "network": _PART,
        "classes": listing(text(LONGEST_NAME), MOST_CLASSES),
        "channels": number(1, 1000, whole=True),
        "size": _SIDE,
        "mean": listing(number(), 1000),
        "std": listing(number(1e-30), 1000),
        "precision": choice("float32", "bf16"),
        "pictures": fields({"fit": choice("crop", "squash"), "short_side": _SIDE}, {"size": _SIDE}),
        "data": nullable(_PART),
        "record": text(64, "[0-9a-f]{64}"),
        "weights": text(64, "[0-9a-f]{64}"),
    }
)


@dataclass(frozen=True)
class Sheet:
    """How a student is built and fed.

    Attributes:
        network: `type`, as `build_model` knows it, and its `options`.
        classes: names of the classes, in the order of its logits.
        channels: of its input images.
        size: of its input images in pixels.
        mean: of pixels / 255 by channel, subtracted from its input.
        std: standard deviations, by which the difference is divided.
        precision: of its passes where it was judged.
        pictures: how a picture of any size becomes an image: `fit`, "crop" or "squash", and for "crop" the
            `short_side` in pixels to which it is resized before the middle is cut out, and the `size` that it
            then has, as the training images had it. Where that is not the input's size, it is resized again.
        data: `type` and `options` of the data set that it was trained on; None where arrays were given.
        record: key of the record of its training.
        weights: SHA-256 of its weights' file.
        schema: version of this layout.
    """

    network: Mapping[str, Any]
    classes: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    pictures: Mapping[str, Any]
    data: Mapping[str, Any] | None
    record: str
    weights: str
    schema: int = SCHEMA


def check_sheet(sheet: Sheet) -> None:
    """Check that a sheet will be readable: before training rather than after it.

    Raises:
        UsageError: something in it is not as the layout has it.
    """
    try:
        _check(json.loads(json.dumps(dataclasses.asdict(sheet))))
    except Mismatch as wrong:
        raise usage("student's sheet", wrong.place, wrong.expected, wrong.got) from None


def write_sheet(folder: Path, sheet: Sheet) -> None:
    """Write a student's sheet beside its weights.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_json(folder / SHEET, dataclasses.asdict(sheet))


def _check(value: Any) -> None:
    SHAPE(value, "")
    if not len(value["mean"]) == len(value["std"]) == value["channels"]:
        raise Mismatch("mean and std", f"{value['channels']} numbers each", value["mean"])


def read_sheet(folder: Path) -> Sheet:
    """Read a student's sheet; nothing in it is executed.

    Raises:
        UsageError: there is none, or it is no sound one.
        StorageError: it cannot be read.
    """
    path = folder / SHEET
    if not path.is_file():
        raise UsageError(
            f"{folder}: it has no {SHEET}, which says how its student is built. Name the folder of a "
            "finished member; one of an older kdzoo must be trained again."
        )
    try:
        with open(path, "rb") as file:
            value = parse(file.read(LARGEST_FILE + 1))
        _check(value)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error
    except Mismatch as wrong:
        advice = "Delete that folder and run the same command again."
        raise usage(str(path), wrong.place or "the content", wrong.expected, wrong.got, advice) from None
    value["pictures"].setdefault("size", value["size"])
    for name in ("classes", "mean", "std"):
        value[name] = tuple(value[name])
    return Sheet(**value)
