"""The contract of a distiller: what it declares, what it gets, what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdzoo.checks import (
    FormError,
    Problems,
    UsageError,
    as_names,
    check_options_of,
    checked,
    kind_of,
    options_of,
    usage,
)
from kdzoo.functional.divergences import cross_entropy
from kdzoo.functional.stages import StagePair
from kdzoo.outputs import (
    Batch,
    Guide,
    ModelOutput,
    Progress,
    Setting,
    Shapes,
    SoftLabels,
    as_output,
    detached,
    scores,
    widened,
)
from kdzoo.registry import DISTILLERS

# What a distiller may need, and whether that takes a teacher whatever the source of soft labels.
TEACHER_FIELDS = frozenset({"stages", "embedding", "preactivations", "classifier"})
NEEDS = TEACHER_FIELDS | {"soft_labels", "indices"}

# Between the name of one of a sum's methods and what its digest is called.
PREFIX_END = "/"


class Distiller(nn.Module):
    """A method: the terms that it adds to a student's loss, and the weight that it leaves to the labels.

    A subclass declares what it needs and gets only that: other fields of outputs, guide and batch are None.
    Its options are keyword-only arguments of `__init__`; their annotations and defaults are checked before
    its body runs, and stand in `options`. Sizes that `for_setting` passes are positional. It owns no network,
    sees no trainer, and writes into nothing that it is given: batch and guide are shared with other methods.

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
        needs_scores: whether its soft labels must be scores, such as a teacher's; probabilities are refused
            before training.
        pairs: the stages that learn from each other, where the method pairs stages; they stand in records.
        sum_options: defaults that hold where the method is one of a sum, in place of its own.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    version: ClassVar[int] = 1
    digest_options: ClassVar[tuple[str, ...]] = ()
    digest_scope: ClassVar[str] = "sample"
    sum_options: ClassVar[Mapping[str, Any]] = {}
    options: Mapping[str, Any] = {}
    needs_scores: bool = False
    pairs: tuple[StagePair, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.needs = as_names(cls.__name__, "needs", cls.needs)
        odd = sorted(cls.needs - NEEDS)
        if odd:
            raise UsageError(f"{cls.__name__}: needs must be of {sorted(NEEDS)}, got {odd}.")
        check_options_of(cls)

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Build the distiller for a pair of networks; override it to size trained parts or to refuse a pair.

        Args:
            setting: shapes of both networks, classes, training labels; the fields that the method needs are
                there.
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

    def label_weight_in_sum(self, progress: Progress) -> float:
        """Give the most that the method leaves to the labels where it is one of a sum; the least of them all
        counts."""
        return self.label_weight(progress)

    def readers(self) -> Mapping[str, Distiller]:
        """Give the methods whose digests the guide is made of, by what the names of each begin with: itself
        for all but sums. Their digests are made once and kept as those of the methods alone."""
        return {"": self}

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Give what the method keeps of the teacher's output: computed once a batch, without gradients.

        By default the needed fields themselves; stages and preactivations as "stages.0", "stages.1", ...

        Args:
            teacher: the fields that `needs` declares.
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
            student: the student's output for the batch: logits, and the fields that `needs` declares.
            guide: soft labels and digest, as far as `needs` declares them.
            batch: images, labels, and indices if declared.
            progress: for schedules.
        """
        raise NotImplementedError

    def deployed(self, student: nn.Module) -> nn.Module:
        """Give the network that is judged and exported: the bare student unless a method says otherwise."""
        return student

    @classmethod
    def redeployed(cls, student: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
        """Build anew what `deployed` gave, for weights to be loaded into it; override both or none.

        Args:
            student: built as for training; its numbers do not matter.
            weights: the `state_dict()` of what was deployed, in which sizes of other parts stand.

        Raises:
            UsageError: these cannot be weights of such a network.
        """
        return student

    def terms(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give all terms of the student's loss: "label", as far as the method leaves it weight, and its own.

        Args:
            student: the student's whole output; the method sees what it declares.
            guide: soft labels and digest.
            batch: images, labels, and indices if declared.
            progress: for schedules.

        Raises:
            FormError: `forward` returned something else than named scalars.
        """
        weight = self.label_weight(progress)
        labels = {"label": weight * cross_entropy(student.logits, batch.labels).mean()} if weight else {}
        own: dict[str, Tensor] = self(
            declared(student, self.needs)._replace(logits=student.logits), guide, batch, progress
        )
        check_terms(type(self).__name__, own)
        if not labels and not own:
            raise FormError(
                f"{type(self).__name__}: there is nothing to train for in epoch {progress.epoch}: no "
                f"term, and label_weight 0. Return a term, or leave the labels some weight."
            )
        return labels | own

    def loss(
        self,
        student: ModelOutput | Tensor,
        labels: Tensor,
        *,
        teacher: ModelOutput | Tensor | None = None,
        soft_labels: SoftLabels | None = None,
        images: Tensor | None = None,
        indices: Tensor | None = None,
        epoch: int,
        epochs: int,
    ) -> Tensor:
        """Compute the whole loss of a batch, labels included, for a training loop of one's own.

        No gradient reaches the teacher, whether or not it ran under `torch.no_grad()`.

        Args:
            student: what the student returned: a `ModelOutput`, or [N, K] logits.
            labels: [N] class numbers.
            teacher: what the teacher returned for the same images, if the method needs it.
            soft_labels: [N, K]; None takes the teacher's logits as scores.
            images: [N, C, H, W], for a method that reads them from the batch.
            indices: [N] positions in the training set, if the method needs them.
            epoch: the current epoch, from 0, for schedules.
            epochs: how many there will be.

        Returns:
            A scalar: the label's weighted cross-entropy plus the method's terms.

        Raises:
            UsageError: something that the method needs is missing, or numbers do not fit together.
        """
        output = widened(as_output(student))
        given = None if teacher is None else detached(widened(as_output(teacher)))
        self._check_given(output, labels, given, soft_labels, indices)
        if not 0 <= epoch < epochs:
            raise usage(type(self).__name__, "epoch", f"from 0 to epochs - 1, {epochs - 1}", epoch)
        if "soft_labels" in self.needs:
            soft_labels = scores(given.logits) if soft_labels is None and given is not None else soft_labels
        guide = Guide(
            soft_labels if "soft_labels" in self.needs else None,  # type: ignore[arg-type]
            self.detached_digest(given) if given is not None and self.needs_teacher() else {},
        )
        batch = Batch(images, labels, indices if "indices" in self.needs else None)  # type: ignore[arg-type]
        terms = self.terms(output, guide, batch, Progress(epoch, epochs, 0, 1))
        return torch.stack(list(terms.values())).sum()

    def _check_given(
        self,
        student: ModelOutput,
        labels: Tensor,
        teacher: ModelOutput | None,
        soft_labels: Any,
        indices: Any,
    ) -> None:
        """Refuse what a loss cannot be computed of, by shapes alone: nothing waits for the device."""
        who = type(self).__name__
        if "soft_labels" in self.needs and soft_labels is None and teacher is None:
            raise UsageError(f"{who}: it needs soft labels. Give teacher=..., or soft_labels=....")
        if isinstance(soft_labels, Tensor):
            raise UsageError(f"{who}: soft_labels must be kdzoo.probabilities(...) or kdzoo.scores(...).")
        if self.needs_teacher() and teacher is None:
            raise UsageError(f"{who}: it needs the teacher's output. Give teacher=....")
        if "indices" in self.needs and indices is None:
            raise UsageError(f"{who}: it needs the samples' positions in the training set. Give indices=....")
        if labels.ndim != 1 or labels.is_floating_point():
            raise usage(who, "labels", "[N] class numbers", f"{labels.dtype} {tuple(labels.shape)}")
        outputs = {"student": student} | ({"teacher": teacher} if teacher is not None else {})
        for role, own in outputs.items():
            missing = sorted(n for n in self.needs & set(Shapes._fields) if getattr(own, n) is None)
            if missing and (role == "student" or self.needs_teacher()):
                raise UsageError(f"{who}: it needs the {role}'s {' and '.join(missing)}, which is not there.")
            if len(own.logits) != len(labels):
                raise usage(who, f"the {role}'s batch", f"that of the labels, {len(labels)}", len(own.logits))

    @torch.no_grad()
    def detached_digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Digest a teacher's whole output as the contract says: from the declared fields, without gradients.

        Args:
            teacher: all that the teacher returned.

        Raises:
            FormError: `digest` returned something else than named tensors.
        """
        # A teacher's maps have their channels last; what students read many times is laid out as theirs are.
        kept = self.digest(declared(teacher, self.needs))
        _check_digest(type(self).__name__, kept)
        return Digest({name: tensor.contiguous() for name, tensor in kept.items()})


def _check_digest(who: str, kept: object) -> None:
    who += ".digest"
    if not isinstance(kept, dict):
        raise FormError(f"{who} must return a dict of named tensors, got {kind_of(kept)}.")
    for name, tensor in kept.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise FormError(
                f"{who} must return a dict of named tensors, got {kind_of(tensor)} under {name!r}. Compute "
                "other things in forward."
            )


def check_terms(who: str, terms: object) -> None:
    """Refuse terms that cannot be added up, by their form alone: nothing waits for the device.

    Args:
        who: the method's class, for the message.
        terms: what its `forward` returned.

    Raises:
        FormError: they are no named scalars.
    """
    who += ".forward"
    if not isinstance(terms, dict):
        raise FormError(
            f"{who} must return a dict of named scalar terms, got {kind_of(terms)}. "
            f'Return {{"{who.partition(".")[0].lower()}": loss}}.'
        )
    for name, term in terms.items():
        if not isinstance(name, str) or name in ("label", "loss"):
            raise FormError(
                f"{who}: a term's name must be a text other than 'label' and 'loss', which are the member's, "
                f"got {name!r}. Give it another name."
            )
        if not isinstance(term, Tensor):
            raise FormError(
                f"{who}: term {name!r} must be a scalar tensor, got {term!r:.60}. Compute it with torch "
                "alone, without .item() or float()."
            )
        if term.ndim or not term.is_floating_point():
            raise FormError(
                f"{who}: term {name!r} must be a floating-point scalar tensor, got {term.dtype} "
                f"{list(term.shape)}. Reduce it, for example by .mean()."
            )


class Digest(dict[str, Tensor]):
    """A mapping that says what it has when it is asked for something else."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"the digest has no {name!r}; it has {', '.join(map(repr, self)) or 'nothing'}")


def declared(output: ModelOutput, needs: frozenset[str]) -> ModelOutput:
    """Keep the fields of an output that a method declares; the others become None.

    Args:
        output: a network's.
        needs: a distiller's.
    """
    return ModelOutput(*(v if n in needs else None for n, v in output._asdict().items()))  # type: ignore[arg-type]


def build_distiller(
    name: str | type[Distiller], setting: Setting, options: Mapping[str, object] | None = None
) -> Distiller:
    """Build a distiller for a pair of networks.

    Args:
        name: a name of `kdzoo list methods`, or a class, registered or not.
        setting: shapes of both networks, classes, training labels.
        options: names and values; values may be texts.

    Raises:
        UsageError: an unknown name or option, or a pair that the method cannot take.
    """
    cls: type[Distiller] = DISTILLERS.find(name) if isinstance(name, str) else name
    who = name if isinstance(name, str) else cls.__name__
    values = checked(who, options_of(cls), options or {})
    check_networks(who, cls, setting)
    return cls.for_setting(declared_setting(cls, setting), **values)


def declared_setting(cls: type[Distiller], setting: Setting) -> Setting:
    """Leave of a setting no more than a method declares: what it would find if it were trained alone.

    Args:
        cls: its class.
        setting: of all methods that are trained together.
    """
    if not cls.needs_teacher():
        return setting._replace(teacher=None, teacher_head=None, teacher_norms=None)  # type: ignore[arg-type]
    head = setting.teacher_head if "classifier" in cls.needs else None
    norms = setting.teacher_norms if "preactivations" in cls.needs else None
    return setting._replace(teacher_head=head, teacher_norms=norms)


def check_networks(who: str, cls: type[Distiller], setting: Setting) -> None:
    """Refuse a pair of networks that do not return what a method needs of both.

    Args:
        who: the method, for the message.
        cls: its class.
        setting: shapes of both networks; a field that a network does not return is None.

    Raises:
        UsageError: what is missing, of which network.
    """
    problems = Problems()
    if cls.needs_teacher() and setting.teacher is None:
        raise UsageError(
            f"{who}: it needs a teacher, got none. Give one, or choose a method that needs none."
        )
    for role, shapes in (("student", setting.student), ("teacher", setting.teacher)):
        fields = sorted(cls.needs & set(Shapes._fields))
        missing = " and ".join(field for field in fields if not getattr(shapes, field))
        if missing:
            with problems:
                raise UsageError(
                    f"{who}: it needs the {role}'s {missing}, which this {role} does not return. "
                    f"Choose another {role}, or a method that does not need its {missing}."
                )
    if "classifier" in cls.needs and setting.teacher_head is None:
        with problems:
            raise UsageError(f"{who}: it needs the teacher's classifier, which this teacher does not have.")
    problems.raise_all()
