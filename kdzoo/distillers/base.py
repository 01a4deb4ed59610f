"""The contract of a distiller: what it declares, what it gets, what it returns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from kdzoo.checks import UsageError, checked, options_of
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS

# What a distiller may need, and whether that takes a teacher whatever the source of soft labels.
TEACHER_FIELDS = frozenset({"stages", "embedding", "preactivations", "classifier"})
NEEDS = TEACHER_FIELDS | {"soft_labels", "indices"}


class Distiller(nn.Module):
    """A method: the terms that it adds to a student's loss, and the weight that it leaves to the labels.

    A subclass declares what it needs and gets only that. Its options are keyword-only arguments of
    `__init__`; their annotations and defaults are checked before its body runs, and stand in `options`. It
    owns no network, sees no trainer, and writes into nothing that it is given: batch and guide are shared
        with the other methods.

    Attributes:
        needs: of "soft_labels", "stages", "embedding", "preactivations", "classifier", "indices".
        paper: authors, title, venue, link.
        year: of that paper.
        version: raised whenever the numbers change, because it is part of every record's key.
        digest_options: the names of the options that `digest` reads; members that agree in them share one
            digest.
        digest_scope: "sample" if a digest's row depends on its own sample alone (so it can be kept), else
            "batch".
        options: the resolved options of this instance, in declared order.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    version: ClassVar[int] = 1
    digest_options: ClassVar[tuple[str, ...]] = ()
    digest_scope: ClassVar[str] = "sample"
    options: Mapping[str, Any] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        odd = sorted(cls.needs - NEEDS)
        if odd:
            raise UsageError(f"{cls.__name__}: needs must be of {sorted(NEEDS)}, got {odd}.")
        if "__init__" in cls.__dict__:
            declared = cls.__init__

            @functools.wraps(declared)
            def checked_init(self: Distiller, *sized: Any, **given: Any) -> None:
                # Sizes that for_setting passes are positional; what has a keyword is an option.
                values = checked(type(self).__name__, options_of(type(self)), given)
                declared(self, *sized, **values)
                self.options = values

            cls.__init__ = checked_init  # type: ignore[method-assign, assignment]

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Build the distiller for a pair of networks; override it to size trained parts or to refuse a pair.

        Args:
            setting: shapes of both networks, classes, training labels.
            options: as `__init__` takes them.

        Raises:
            UsageError: the pair cannot be, in one clear sentence.
        """
        return cls(**options)

    @classmethod
    def scaled_options(cls, epochs: int) -> dict[str, Any]:
        """Give the defaults that depend on the length of training, such as a warm-up; none by default."""
        return {}

    @classmethod
    def needs_teacher(cls) -> bool:
        """Say whether the method itself reads a teacher, whatever its soft labels come from."""
        return bool(cls.needs & TEACHER_FIELDS)

    def label_weight(self, progress: Progress) -> float:
        """Give the factor of the cross-entropy with the labels, which the member adds."""
        return 1.0

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Give what the method keeps of the teacher's output: computed once a batch, without gradients.

        By default the needed fields themselves; stages and preactivations as "stages.0", "stages.1", ...
        """
        kept: dict[str, Tensor] = {}
        for name in sorted(self.needs & {"stages", "embedding", "preactivations"}):
            value = getattr(teacher, name)
            if isinstance(value, Tensor):
                kept[name] = value
            elif value is not None:
                kept |= {f"{name}.{i}": stage for i, stage in enumerate(value)}
        return kept

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the method's terms: named, weighted scalars, which the member adds up.

        Args:
            student: the student's output for the batch.
            guide: soft labels and digest, as far as `needs` declares them.
            batch: images, labels, and indices if declared.
            progress: for schedules.
        """
        raise NotImplementedError

    def deployed(self, student: nn.Module) -> nn.Module:
        """Give the network that is judged and exported: the bare student unless a method says otherwise."""
        return student


def build_distiller(name: str, setting: Setting, options: Mapping[str, object] | None = None) -> Distiller:
    """Build a registered distiller for a pair of networks.

    Args:
        name: a name of `kdzoo list methods`.
        setting: shapes of both networks, classes, training labels.
        options: names and values; values may be texts.

    Raises:
        UsageError: an unknown name or option, or a pair that the method cannot take.
    """
    cls: type[Distiller] = DISTILLERS.find(name)
    return cls.for_setting(setting, **checked(name, options_of(cls), options or {}))
