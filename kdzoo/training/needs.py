"""What methods need of a run: their source of soft labels, and the networks that answer as teachers do."""

from __future__ import annotations

import json

from kdzoo.methods import Method
from kdzoo.registry import DISTILLERS
from kdzoo.sources import Source, build_source


def source_of(method: Method) -> Source | None:
    """Build a method's source of soft labels, which then tells what it needs; None where it has none.

    Args:
        method: resolved.
    """
    return None if method.source is None else build_source(method.source, method.source_options)


def source_name(method: Method) -> str | None:
    """Name a method's source with its options, so that members with the same one share it."""
    return None if method.source is None else json.dumps([method.source, dict(method.source_options)])


def needs_teacher(method: Method) -> bool:
    """Say whether a method, or its source of soft labels, reads a teacher."""
    return bool(DISTILLERS.find(method.distiller).needs_teacher()) or _labels_of_a_teacher(method)


def runs_a_teacher(method: Method, source: Source | None) -> bool:
    """Say whether any network answers as teachers do, be it the teacher or another classifier."""
    return needs_teacher(method) or (source is not None and bool(source.classifiers))


def reads_scores(method: Method) -> bool:
    """Say whether a method learns from the teacher's logits or its classifier, not from features alone."""
    return "classifier" in DISTILLERS.find(method.distiller).needs or _labels_of_a_teacher(method)


def _labels_of_a_teacher(method: Method) -> bool:
    source = source_of(method)
    return source is not None and "teacher" in source.needs
