"""What planning refuses: folders, views, pairs of networks and teachers that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kdzoo.checks import Problems, UsageError, told_by, usage
from kdzoo.data import Dataset
from kdzoo.data.picture_files import PictureFiles
from kdzoo.distillers import build_distiller
from kdzoo.methods import Method
from kdzoo.models.base import published_classes
from kdzoo.outputs import Shapes
from kdzoo.sources import Source, build_source
from kdzoo.training.benchmark import Benchmark, Section
from kdzoo.training.needs import needs_teacher, reads_scores, source_name, source_of
from kdzoo.training.plan import Plan, described, setting_of


def check_folder(name: str, expected: str, folder: object) -> None:
    """Refuse what is no folder, and cannot become one."""
    if not isinstance(folder, (str, Path)) or not str(folder):
        raise usage("kdzoo", name, expected, folder)
    place = Path(folder).absolute()
    if not next(p for p in (place, *place.parents) if p.exists() or p.is_symlink()).is_dir():
        raise usage("kdzoo", name, expected, str(folder))


def check_views(benchmark: Benchmark, data: Dataset) -> None:
    """Refuse views that the data cannot have."""
    streamed, problems = isinstance(data.train.images, PictureFiles), Problems()
    who = f"benchmark {benchmark.name!r}, views"
    with problems:
        if benchmark.views.crop_scale is not None and not streamed:
            raise UsageError(
                f"{who}: crop_scale is for streamed pictures. Use crop_padding, or data.stream=True."
            )
    with problems:
        if benchmark.views.resize is not None and streamed:
            raise UsageError(f"{who}: streamed pictures are resized as they are decoded. Use data.size.")
    problems.raise_all()


def check_pairs(plan: Plan) -> dict[str, Source]:
    """Build every method once for the pair of networks, so that one that cannot be is refused before
    training.

    Returns:
        The sources of soft labels, by `source_name`.
    """
    problems = Problems()
    sources: dict[str, Source] = {}
    # Trained parts of a method draw their initial weights: planning leaves the generator where it was.
    with torch.random.fork_rng(devices=[]), problems:
        methods = [m for m in plan.methods if _can_be_built(m, problems)]
        setting = setting_of(plan, any(needs_teacher(m) for m in methods))
        for role, shapes in (("student", setting.student), ("teacher", setting.teacher)):
            if shapes is not None:
                section = plan.benchmark.student if role == "student" else plan.benchmark.section(role)
                with problems:
                    _check_classifier(plan, role, section, shapes)
        for method in methods:
            with problems:
                built = build_distiller(method.distiller, setting, method.options)
                given = source_of(method)
                if built.needs_scores and given is not None and not given.gives_scores:
                    raise UsageError(
                        f"method {method.name!r}: it compares scores, and source {method.source!r} gives "
                        "probabilities. Leave standardize out, or take the teacher's scores."
                    )
            shared = source_name(method)
            if method.source is None or shared is None or shared in sources:
                continue
            with problems:
                source = sources[shared] = build_source(method.source, method.source_options)
                source.check(setting)
                benchmark = plan.benchmark
                for name in (*source.trains, *source.builds):
                    with torch.device("meta"):
                        plan.build_network(benchmark.section(name))
                for name in source.classifiers:
                    with told_by(f"method {method.name!r}"):
                        section = benchmark.classifier(name)
                        _check_classifier(plan, name, section, described(plan, section)[0])
    problems.raise_all()
    return sources


def _can_be_built(method: Method, problems: Problems) -> bool:
    """Say whether a method's source accepts its options; if not, note what it says."""
    before = len(problems.messages)
    with problems, told_by(f"method {method.name!r}"):
        source_of(method)
    return len(problems.messages) == before


def _check_classifier(plan: Plan, role: str, section: Section, shapes: Shapes) -> None:
    """Refuse a network that does not tell the data's classes apart."""
    classes = len(plan.data.classes)
    if shapes.logits != (classes,):
        raise UsageError(
            f"benchmark {plan.benchmark.name!r}: its {role} must be a classifier with {classes} logits, got "
            f"{section.network!r}. Choose another network."
        )


def check_untrained(plan: Plan, given: Path | None) -> None:
    """Refuse scores of published weights for other classes, untrained: their classifier would be random.

    Their features serve as they are.
    """
    asked: dict[str, list[str]] = {}
    for method in plan.methods:
        source = source_of(method)
        reads = ["teacher"] if given is None and reads_scores(method) else []
        for name in (*reads, *(source.classifiers if source else ())):
            asked.setdefault(name, []).append(method.name)
    problems = Problems()
    for name, methods in asked.items():
        with problems:
            section = plan.benchmark.section(name) if name == "teacher" else plan.benchmark.classifier(name)
            _check_pretrained(name, section, len(plan.data.classes), methods)
    problems.raise_all()


def _check_pretrained(name: str, section: Section, classes: int, methods: Sequence[str]) -> None:
    if section.recipe.epochs:
        return
    published = published_classes(section.network, section.options)
    if published is None and name != "teacher":
        raise UsageError(f"{name} {section.network}: it would stay untrained. Give its recipe epochs.")
    if published is not None and published != classes:
        raise UsageError(
            f"{name} {section.network}: its published weights are for {published:,} classes, the data has "
            f"{classes:,}, and so its classifier starts at random. Train it for {', '.join(methods)}: "
            + ("--teacher-epochs." if name == "teacher" else f"--cfg-options {name}.recipe.epochs=...")
        )
