"""What a cohort keeps of its teacher, as entries of a teacher bank: which, how large, and who keeps the
teacher running because what it reads is not kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdzoo.distillers.base import PREFIX_END, Distiller
from kdzoo.outputs import ModelOutput, Shapes
from kdzoo.provenance import plug_in
from kdzoo.sources.base import Source
from kdzoo.training.bank import Entry, needed_bytes
from kdzoo.training.faults import told
from kdzoo.training.networks import digest_key, is_kept, teacher_readers

# Of the teacher's output, what methods may have kept for them.
FIELDS = ("logits", "embedding", "stages", "preactivations")

Rows = dict[str, Tensor]


@dataclass(frozen=True)
class Want:
    """Something that methods read of a teacher, sample by sample.

    Attributes:
        place: under which a step asks for it: a field's name, or a digest's key.
        entry: how a bank keeps it.
        rows: makes it of the teacher's output.
        users: methods that read it.
    """

    place: Any
    entry: Entry
    rows: Callable[[ModelOutput], Rows]
    users: tuple[str, ...]


@dataclass(frozen=True)
class Keeping:
    """What of a cohort's wants a bank keeps.

    Attributes:
        kept: they fit.
        left: they do not.
        short: what they do not fit: "the limit" or "the disk"; empty if all is kept.
        running: why the teacher must run, by the method that it runs for.
        bytes: of what is kept, over all views.
    """

    kept: tuple[Want, ...] = ()
    left: tuple[Want, ...] = ()
    short: str = ""
    running: Mapping[str, str] = field(default_factory=dict)
    bytes: int = 0

    @property
    def whole(self) -> bool:
        """Whether everything that is read can come from the bank, so that no teacher need run."""
        return bool(self.kept) and not self.left and not self.running


def wants_of(
    readers: Iterable[tuple[str, Distiller | None, Source | None]],
    shapes: Shapes,
    student: Shapes,
    digests: str,
) -> tuple[list[Want], dict[str, str]]:
    """List what methods read of their teacher.

    Args:
        readers: for each method its name, its distiller, and its source of soft labels.
        shapes: of the teacher's output.
        student: shapes of the student's, which a digest may follow.
        digests: "own" or "float16", as which it is kept.

    Returns:
        The wants, and why the teacher must run, by the method that it runs for.
    """
    found: dict[Any, Want] = {}
    running: dict[str, str] = {}

    def add(
        user: str, label: str, place: Any, settings: Mapping[str, Any], rows: Callable[[ModelOutput], Rows]
    ) -> None:
        if place not in found:
            found[place] = Want(place, _entry(label, settings, rows, shapes, digests), rows, ())
        users = dict.fromkeys((*found[place].users, user))
        found[place] = replace(found[place], users=tuple(users))

    for name, distiller, source in readers:
        fields: set[str] = set()
        if source is not None and "teacher" in source.needs:
            if source.teacher_fields is None:
                running[name] = "its source may read all that the teacher returns (no teacher_fields)"
            fields |= source.teacher_fields or set()
        for prefix, reader in teacher_readers(distiller).items():
            if is_kept(reader):
                label = prefix.removesuffix(PREFIX_END) or name.partition(":")[0].partition("+")[0]
                settings = _settings(reader, student)
                try:
                    add(name, label, digest_key(reader), settings, reader.detached_digest)
                except Exception as error:
                    # Perhaps two samples are too few. If it is at fault, its first step ends its member.
                    running[name] = f"its digest cannot be made of a trial of two samples: {told(error)}"
            else:
                fields |= reader.needs & set(FIELDS)
        for read in sorted(fields):
            add(name, read, read, {"field": read}, _Field(read))
    return list(found.values()), running


def _settings(distiller: Distiller, student: Shapes) -> dict[str, Any]:
    """Tell a digest from all others, whoever asks for it."""
    cls = type(distiller)
    return {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "version": cls.version,
        "plug_in": plug_in(cls),
        "options": {name: distiller.options[name] for name in cls.digest_options},
        "student": student._asdict(),
    }


class _Field:
    """Makes rows of a field of the output; stages as "stages.0", "stages.1", ..."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, output: ModelOutput) -> Rows:
        value = getattr(output, self._name)
        if isinstance(value, Tensor):
            return {self._name: value.contiguous()}
        return {f"{self._name}.{i}": tensor.contiguous() for i, tensor in enumerate(value)}


def field_of(name: str, rows: Rows) -> Any:
    """Give a field of the output back of its rows.

    Args:
        name: of the field.
        rows: as a bank keeps them.
    """
    return rows[name] if name in rows else tuple(rows[f"{name}.{i}"] for i in range(len(rows)))


@torch.no_grad()
def _entry(
    name: str, settings: Mapping[str, Any], rows: Callable[[ModelOutput], Rows], shapes: Shapes, digests: str
) -> Entry:
    """Try out on two samples what a row looks like."""
    # Not zeros, of which a digest might make an exception; where the method has its own tensors.
    owner = getattr(rows, "__self__", None)
    own = [*owner.buffers(), *owner.parameters()] if isinstance(owner, Distiller) else []
    sample = ModelOutput(*_numbers(shapes, own[0].device if own else torch.device("cpu")))
    with torch.random.fork_rng(devices=[]):
        made = rows(sample)

    def kept(tensor: Tensor) -> torch.dtype:
        return torch.float16 if digests == "float16" and tensor.is_floating_point() else tensor.dtype

    return Entry(name, dict(settings), {n: (tuple(t.shape[1:]), kept(t)) for n, t in made.items()})


def _numbers(shapes: Any, device: torch.device) -> Any:
    def one(shape: Any) -> Any:
        if shape is None:
            return None
        if shape and isinstance(shape[0], tuple):
            return tuple(map(one, shape))
        count = math.prod(shape) * 2
        return torch.linspace(-1, 1, count, device=device).reshape(2, *shape)

    return tuple(map(one, shapes))


def keep_what_fits(
    wants: Sequence[Want], running: Mapping[str, str], *, samples: int, views: int, folder: Path, limit: int
) -> Keeping:
    """Choose what is kept: the smallest first, as far as the limit goes, and half of the free disk.

    Args:
        wants: what methods read of their teacher.
        running: methods that read more than that, and why.
        samples: in the training set.
        views: of each sample.
        folder: of the bank; what it has already counts, but takes no room.
        limit: of all that is kept, in bytes.
    """
    kept: list[Want] = []
    short = ""
    total, room = 0, shutil.disk_usage(existing(folder)).free // 2
    ordered = sorted(wants, key=lambda want: want.entry.row_bytes)
    for want in ordered:
        size = want.entry.view_bytes(samples) * views
        missing = needed_bytes(want.entry, samples, views, folder)
        if total + size > limit or missing > room:
            short = "the limit" if total + size > limit else "the disk"
            break
        kept.append(want)
        total, room = total + size, room - missing
    return Keeping(tuple(kept), tuple(ordered[len(kept) :]), short, running, total)


def existing(folder: Path) -> Path:
    """Give a folder, or the nearest one above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
