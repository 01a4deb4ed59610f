"""Rules about the soft labels of a source: distributions, each sample's own, and nobody else's touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kdzoo.checks import UsageError, options_of
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, SoftLabels
from kdzoo.registry import DISTILLERS
from kdzoo.sources import Source
from kdzoo.sources.base import TOLERANCE
from kdzoo.testing.contract import ContractError, built, seed
from kdzoo.testing.inputs import POSITIONS
from kdzoo.testing.options import alternatives, idle_option
from kdzoo.testing.subject import told
from kdzoo.testing.workshop import Builders, CheckWorkshop

TEMPERATURES = (0.5, 1.0, 4.0, 20.0)
# Classes and training images; a source may refuse all but the first by its `check`.
SIZES = ((4, 24), (2, 6), (5, 5))


@dataclass(frozen=True)
class SourceSubject:
    """A source under check.

    Attributes:
        cls: its class.
        options: set for all checks.
        networks: how to build what it trains or uses untrained, by section.
    """

    cls: type[Source]
    options: Mapping[str, Any]
    networks: Builders

    @property
    def declared(self) -> Source:
        """Build the source, which tells what it needs."""
        with built():
            return self.cls(**self.options)

    def workshop(self, classes: int = SIZES[0][0], count: int = SIZES[0][1], run: int = 0) -> CheckWorkshop:
        """Make a workshop with data of a size."""
        return CheckWorkshop(self.declared, classes=classes, count=count, networks=self.networks, run=run)

    def ready(self, workshop: CheckWorkshop, **options: Any) -> Source:
        """Build the source, let it check the data, and make it ready."""
        with nullcontext() if options else built():
            source = self.cls(**{**self.options, **options})
        workshop.serve(source)
        source.check(workshop.setting)
        seed(1)
        source.fit(workshop)
        return source

    def each_size(self) -> Iterator[tuple[CheckWorkshop, Source, str]]:
        """Give a ready source for data of every size that it does not refuse, and the size in words."""
        for classes, count in SIZES:
            workshop = self.workshop(classes, count)
            try:
                source = self.ready(workshop)
            except UsageError:
                if (classes, count) == SIZES[0]:
                    raise
                continue
            yield workshop, source, f"with {classes} classes and {count} training images"


def labels_of(source: Source, batch: Batch) -> SoftLabels:
    """Ask a source as a cohort does: without gradients, and seeded."""
    seed(2)
    with torch.no_grad():
        return source(batch)


def everything(workshop: CheckWorkshop) -> Batch:
    """Give all training images as one batch."""
    return workshop.batch(np.arange(len(workshop.labels)))


def soft_labels_are_distributions(subject: SourceSubject) -> None:
    """Each sample has one number a class, at every temperature; probabilities sum to 1."""
    for workshop, source, size in subject.each_size():
        for count in (1, len(workshop.labels)):
            soft_labels = labels_of(source, workshop.batch(np.arange(count)))
            for temperature in TEMPERATURES:
                log_probs = soft_labels.log_probs(temperature)
                where = f"{size}, a batch of {count}, temperature {temperature:g}"
                if log_probs.shape != (count, workshop.num_classes) or not log_probs.is_floating_point():
                    raise ContractError(
                        f"log_probs must be floating-point [{count}, {workshop.num_classes}], got "
                        f"{log_probs.dtype} {tuple(log_probs.shape)} ({where})."
                    )
                totals = log_probs.double().exp().sum(dim=1)
                wrong = ~torch.isclose(totals, torch.ones_like(totals), rtol=0, atol=TOLERANCE)
                if wrong.any():
                    raise ContractError(f"rows must sum to 1, got {totals[wrong][0].item():g} ({where}).")


def rows_follow_their_samples(subject: SourceSubject) -> None:
    """A sample's soft labels do not depend on the rest of the batch."""
    workshop = subject.workshop()
    source, count = subject.ready(workshop), len(workshop.labels)
    whole = labels_of(source, everything(workshop)).log_probs(4.0)
    for order in (np.arange(count)[::-2].copy(), np.array([count - 1])):
        part = labels_of(source, workshop.batch(order)).log_probs(4.0)
        if not torch.allclose(part, whole[torch.from_numpy(order)], rtol=1e-4, atol=1e-5):
            raise ContractError("a sample's soft labels depend on the rest of the batch.")


def every_option_changes_a_number(subject: SourceSubject) -> None:
    """No option is parsed and ignored, and none of its choices does what another does."""

    def numbers(options: Mapping[str, Any]) -> list[Any]:
        workshop = subject.workshop()
        try:
            source = subject.ready(workshop, **options)
        except UsageError:
            return [None]
        return [labels_of(source, everything(workshop)).log_probs(4.0).tolist()]

    # A mixture has the options of all sources; those of its own count.
    counting = {n: option for n, option in options_of(subject.cls).items() if n in subject.declared.options}
    fault = idle_option(counting, subject.options, numbers)
    if fault:
        raise ContractError(f"{fault}, no soft label. Use it, or drop it.")


def nothing_shared_is_written_to(subject: SourceSubject) -> None:
    """Batch, data, networks and what the teacher says are as they were, and networks in evaluation mode."""
    workshop = subject.workshop()
    batch = everything(workshop)
    workshop.watch.add({f"batch.{n}": t for n, t in batch._asdict().items() if t is not None})
    labels_of(subject.ready(workshop), batch).log_probs(4.0)
    workshop.watch.check()
    for name, network in workshop.lent:
        if any(module.training for module in network.modules()):
            raise ContractError(
                f"it leaves {name} in training mode, so that its statistics move. Call eval() on it."
            )


def no_gradient_flows_through_it(subject: SourceSubject) -> None:
    """Soft labels are constants of the loss, even where somebody asks with gradients on."""
    workshop = subject.workshop()
    source = subject.ready(workshop)
    if source(everything(workshop)).log_probs(4.0).requires_grad:
        raise ContractError("its soft labels take gradients. Make them under torch.no_grad().")


def no_step_waits_for_the_device(subject: SourceSubject) -> None:
    """In a step nothing is read back (.item(), bool, data-dependent shapes)."""
    workshop = subject.workshop()
    source, batch = subject.ready(workshop), everything(workshop)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = Batch(*(None if t is None else mode.from_tensor(t) for t in batch))  # type: ignore[arg-type]
            labels_of(source, fake).log_probs(4.0)
    except Exception as error:
        raise ContractError(
            f"a step on a GPU would fail or wait: {type(error).__name__}: {str(error).splitlines()[0]} Use "
            "masks in place of data-dependent indexing."
        ) from error


def every_logit_method_takes_it(subject: SourceSubject) -> None:
    """Each registered distiller of soft labels gives finite terms and gradients under it, at any option."""
    takers = [n for n in DISTILLERS.names() if DISTILLERS.find(n).needs == {"soft_labels"}]
    for workshop, source, size in subject.each_size():
        batch = everything(workshop)
        soft_labels = labels_of(source, batch)
        logits = torch.randn(len(batch.labels), workshop.num_classes)
        for name in takers:
            for options in ({}, *(_one_by_one(name) if workshop.num_classes == SIZES[0][0] else ())):
                who = ":".join([name, *(f"{n}={v}" for n, v in options.items())])
                distiller = build_distiller(name, workshop.setting, options)
                if distiller.needs_scores and not source.gives_scores:
                    continue
                for scale in (1.0, 1e4):
                    where = f"{size}, logits of about {scale:g}"
                    with told(f"in {who}, {where}"):
                        finite = _finite(distiller, scale * logits, Guide(soft_labels, {}), batch)
                    if not finite:
                        raise ContractError(f"{who} is not finite under it, {where}.")


def _one_by_one(name: str) -> Iterator[dict[str, Any]]:
    for option in options_of(DISTILLERS.find(name)).values():
        yield from ({option.name: value} for value in alternatives(option))


def _finite(distiller: Distiller, logits: Tensor, guide: Guide, batch: Batch) -> bool:
    terms = distiller.terms(ModelOutput(logits.requires_grad_()), guide, batch, POSITIONS[-1])
    total = torch.stack(list(terms.values())).sum()
    if not total.requires_grad:
        return bool(total.isfinite())
    (gradient,) = torch.autograd.grad(total, logits)
    return bool(total.isfinite() and gradient.isfinite().all())
