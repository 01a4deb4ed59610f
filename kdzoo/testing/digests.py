"""Rules about digests: what a method keeps of the teacher's output, once for all members that agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from kdzoo.checks import UsageError
from kdzoo.distillers import Distiller
from kdzoo.testing.contract import ContractError, seed
from kdzoo.testing.inputs import POSITIONS, Case
from kdzoo.testing.subject import Subject, guide_of, selected, step, told


def digest_of(
    distiller: Distiller, case: Case, rows: Tensor | None = None, start: int = 1
) -> dict[str, Tensor]:
    """Digest a case's teacher, or some samples of it.

    Args:
        distiller: built for the case.
        case: a batch.
        rows: of the samples; None takes all.
        start: seeds what it may draw.
    """
    seed(start)
    teacher = case.teacher if rows is None else selected(case.teacher, rows)
    return dict(distiller.detached_digest(teacher))


def digest_rows_stand_alone(subject: Subject) -> None:
    """A digest of scope "sample" gives each sample the same row whatever the rest of the batch."""
    if not subject.cls.needs_teacher() or subject.cls.digest_scope != "sample":
        return
    for case, distiller in subject.each_case():
        whole, count = digest_of(distiller, case), len(case.batch.labels)
        for rows in (torch.arange(count)[1::2], torch.tensor([count - 1]), torch.arange(count).flip(0)):
            if not len(rows):
                continue
            for name, value in digest_of(distiller, case, rows, start=2).items():
                expected = whole[name][rows] if whole[name].ndim and len(whole[name]) == count else None
                if expected is None or value.shape != expected.shape:
                    raise ContractError(
                        f"digest {name!r} must have a row for each sample, or digest_scope = 'batch'."
                    )
                if not torch.allclose(value, expected, rtol=1e-4, atol=1e-5):
                    raise ContractError(
                        f"rows of digest {name!r} depend on the rest of the batch, {len(rows)} of {count} "
                        f"samples with {case.name!r}. Declare digest_scope = 'batch'."
                    )


def digest_follows_its_options(subject: Subject) -> None:
    """Whoever agrees in `digest_options` has the same digest: it is made once, by any of them, for all."""
    if not subject.cls.needs_teacher():
        return
    case = subject.ordinary
    distiller = subject.build(case)
    expected = digest_of(distiller, case)
    for other, why in _that_agree(subject, case):
        _compare(expected, digest_of(other, case), why)
    own = _terms(distiller, case, distiller)
    if _terms(subject.build(case), case, distiller) != own:
        raise ContractError(
            "its terms are others where another instance made the digest. Put all that they need into it."
        )
    for progress in POSITIONS:
        step(distiller, case.changed(), progress)
    _compare(
        expected, digest_of(distiller, case), "changes while it trains. Digest the teacher's output alone"
    )


def _that_agree(subject: Subject, case: Case) -> Iterator[tuple[Distiller, str]]:
    yield subject.build(case, 1), "is another for other initial weights. Read none of its parameters in it"
    for name, value in subject.other_options():
        if name not in subject.cls.digest_options:
            with suppress(UsageError):
                other = subject.build(case, **{name: value})
                yield other, f"depends on option {name!r}. Name it in digest_options"


def _terms(distiller: Distiller, case: Case, other: Distiller) -> dict[str, float]:
    with told("where another instance made the digest"):
        return {n: t.item() for n, t in step(distiller, case, guide=guide_of(other, case)).items()}


def _compare(expected: dict[str, Tensor], found: dict[str, Tensor], why: str) -> None:
    names = set(expected) ^ set(found)
    names |= {n for n in expected if n in found and not torch.equal(expected[n], found[n])}
    if names:
        raise ContractError(f"its digest of the teacher, {sorted(names)}, {why}.")
