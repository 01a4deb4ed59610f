"""Planning: everything that a command asks for is resolved, checked and keyed, before anything is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdzoo.checks import Problems, UsageError, usage
from kdzoo.data import Dataset, load_dataset
from kdzoo.data.split import split_validation
from kdzoo.distillers.base import Distiller
from kdzoo.keys import fingerprint
from kdzoo.methods import Method, expand, listed, resolve
from kdzoo.provenance import plug_in, plug_ins
from kdzoo.registry import DATASETS, DISTILLERS, SOURCES
from kdzoo.results.store import run_folder
from kdzoo.sources import Source
from kdzoo.training.artifacts import (
    ArtifactPlan,
    artifact_settings,
    checkpoint_settings,
    described_network,
    fitting_weights,
    plain_recipe,
)
from kdzoo.training.benchmark import Benchmark, Section
from kdzoo.training.choices import choose_device, parse_seeds
from kdzoo.training.execution import chosen_compile
from kdzoo.training.needs import needs_teacher, runs_a_teacher, source_name, source_of
from kdzoo.training.plan import Plan, PlannedMember
from kdzoo.training.plan_checks import check_folder, check_pairs, check_untrained, check_views


def make_plan(
    benchmark: Benchmark,
    *,
    methods: str | Sequence[str],
    seeds: int | str | Sequence[int],
    work_dir: Path,
    device: str | None = None,
    data_root: Path | None = None,
    teacher_checkpoint: Path | None = None,
    dataset: Dataset | None = None,
    teacher_bank: str | Path = "auto",
    bank_limit: float = 4.0,
) -> Plan:
    """Resolve and check everything; nothing is trained, and nothing but data is read.

    Args:
        benchmark: settings.
        methods: the grammar's list.
        seeds: how many (0, 1, ...), or which.
        work_dir: where everything is kept.
        device: "cpu", "cuda", "cuda:1"; None takes a GPU if there is one.
        data_root: where the data's files are; None looks in the usual places.
        teacher_checkpoint: the user's own teacher.
        dataset: already in memory; None loads the benchmark's.
        teacher_bank: "auto" for one in the work directory, "off" for none, or a folder.
        bank_limit: of a bank, in GB.

    Raises:
        UsageError: all that is wrong, a line each.
    """
    problems = Problems()
    resolved: dict[str, Method] = {}
    run_seeds: tuple[int, ...] = ()
    where = torch.device("cpu")
    with problems:
        for word in listed(methods):
            with problems:
                for spelling in expand(word):
                    with problems:
                        method = resolve(spelling, benchmark.defaults)
                        resolved.setdefault(method.name, method)
    with problems:
        run_seeds = parse_seeds(seeds)
    with problems:
        where = choose_device(device)
    with problems:
        check_folder("work_dir", "a folder", work_dir)
    with problems:
        if str(teacher_bank) not in ("auto", "off"):
            check_folder("teacher_bank", "auto, off or a folder", teacher_bank)
    with problems:
        if (
            isinstance(bank_limit, bool)
            or not isinstance(bank_limit, (int, float))
            or not 0 <= bank_limit * 1e9 < math.inf
        ):
            raise usage("kdzoo", "bank_limit", "a number of GB, at least 0", bank_limit)
    chosen = tuple(resolved.values())
    data = None
    with problems:
        # A given one may have been changed in place since it was hashed: this one hashes anew.
        loaded = (
            replace(dataset) if dataset else load_dataset(benchmark.data, data_root, benchmark.data_options)
        )
        data = split_validation(loaded, benchmark.val_fraction)
    problems.raise_all()
    if data is None:
        raise UsageError(f"data set {benchmark.data}: it gave no data.")
    check_views(benchmark, data)
    # Where there is no code that loads the data, what it gave is all that counts.
    loader = plug_in(DATASETS.find(benchmark.data)) if dataset is None else None
    plan = _keyed(benchmark, data, loader, chosen, run_seeds, work_dir, where, data_root, teacher_checkpoint)
    off = str(teacher_bank) == "off"
    return replace(
        plan, reloadable=dataset is None, bank_limit=0 if off else int(bank_limit * 10**9),
        bank=None if str(teacher_bank) in ("auto", "off") else Path(teacher_bank),
    )  # fmt: skip


def check_current(plan: Plan) -> None:
    """Refuse a plan whose code is no longer what runs: a plug-in was loaded again since.

    Raises:
        UsageError: it is to be planned again.
    """
    networks = [(plan.benchmark.student, plan.protocol["student"])]
    networks += [(artifact.section, artifact.settings) for artifact in plan.artifacts.values()]
    settings = {m.method.name: (m.method, m.settings) for m in plan.members}.values()
    if any(method_settings(m, plan) != planned for m, planned in settings) or any(
        described_network(section).get("plug_in") != planned.get("plug_in") for section, planned in networks
    ):
        raise UsageError("kdzoo: a plug-in was loaded again after this was planned. Plan it again.")


def _keyed(
    benchmark: Benchmark, data: Dataset, loader: str | None, methods: tuple[Method, ...],
    seeds: tuple[int, ...], work_dir: Path, device: torch.device, data_root: Path | None, given: Path | None,
) -> Plan:  # fmt: skip
    statistics = data.statistics
    seen = {
        "fingerprint": data.fingerprint,
        "mean": statistics[0],
        "std": statistics[1],
        "views": benchmark.views.described(),
        **({"plug_in": loader} if loader else {}),
    }
    protocol = {
        "data": seen,
        "student": described_network(benchmark.student),
        "recipe": plain_recipe(benchmark.student),
        "val_fraction": benchmark.val_fraction,
    }
    compiled, remark = chosen_compile(benchmark.compile, device)
    plan = Plan(
        benchmark,
        data,
        statistics,
        seeds,
        methods,
        (),
        {},
        {},
        work_dir,
        device,
        data_root,
        (),
        compiled=compiled,
    )
    protocol["precision"] = plan.computed
    # The usual layout is left out, so that it changes no key.
    protocol |= {"layout": "channels_last"} if plan.precision == "bf16" else {}
    plan = replace(plan, protocol={**protocol, **_named(benchmark, protocol)})
    contents = {name: dict(source.content()) for name, source in check_pairs(plan).items()}
    methods = tuple(replace(m, source_content=contents.get(source_name(m) or "", {})) for m in methods)
    plan = replace(plan, methods=methods)
    if given is not None and any(needs_teacher(m) for m in methods):
        with torch.device("meta"):
            fitting_weights(plan.build_network(benchmark.section("teacher")), given)
    check_untrained(plan, given)
    artifacts: dict[str, ArtifactPlan] = {}
    used: dict[str, dict[str, str]] = {}
    for method in methods:
        own = artifact_plans(plan, method, seen, given)
        artifacts |= {a.key: a for a in own.values()}
        used[method.name] = {name: a.key for name, a in own.items()}
    remarks = [*data.warnings, *([remark] if remark else [])]
    if given is not None:
        if not any("teacher" in names for names in used.values()):
            remarks.append(f"The teacher in {given} is not used: none of the methods needs a teacher.")
        elif benchmark.val_fraction:
            remarks.append(
                f"The teacher in {given} may have been trained on images that are validation images here."
            )
    members = tuple(_member(plan, method, seed, used[method.name]) for seed in seeds for method in methods)
    return replace(plan, members=members, artifacts=artifacts, remarks=tuple(remarks))


def _named(benchmark: Benchmark, protocol: Mapping[str, Any]) -> dict[str, str]:
    recipe = benchmark.student.recipe
    name = f"{benchmark.student.network}-e{recipe.epochs}-b{recipe.batch_size}-"
    name += protocol["precision"].replace(", ", "-")
    if benchmark.val_fraction:
        name += f"-val{benchmark.val_fraction:g}"
    return {"name": name, "hash": fingerprint(json.loads(json.dumps(protocol)))}


def _member(plan: Plan, method: Method, seed: int, artifacts: Mapping[str, str]) -> PlannedMember:
    settings = method_settings(method, plan)
    key = fingerprint(
        {
            "benchmark": plan.benchmark.name, "protocol": plan.protocol["hash"], "seed": seed,
            "name": method.name, "method": settings,
            "artifacts": dict(artifacts),
        }
    )  # fmt: skip
    folder = run_folder(
        plan.work_dir,
        plan.benchmark.name,
        plan.protocol["name"],
        plan.protocol["hash"],
        seed,
        method.name,
        key,
    )
    return PlannedMember(method, seed, key, folder, dict(artifacts), settings)


def method_settings(method: Method, plan: Plan) -> dict[str, Any]:
    """Give a resolved method as records keep it.

    Args:
        method: with the content of its source.
        plan: its benchmark names the networks that the source uses untrained.
    """
    distiller: type[Distiller] = DISTILLERS.find(method.distiller)
    source = source_of(method)
    builds = source.builds if source else ()
    sometimes = {
        "plug_in": plug_in(distiller),
        "source_plug_in": _source_plug_in(source) if source else None,
        "source_content": dict(method.source_content),
        "source_builds": {name: _built(plan, plan.benchmark.section(name)) for name in builds},
        "teacher_pass": plan.teacher_pass() if runs_a_teacher(method, source) else None,
    }
    return {
        "distiller": method.distiller,
        "options": dict(method.options),
        "version": distiller.version,
        "source": method.source,
        "source_options": dict(method.source_options) if method.source else None,
        "source_version": source.version if source else None,
        **{name: facts for name, facts in sometimes.items() if facts},
    }


def _built(plan: Plan, section: Section) -> dict[str, Any]:
    """Describe a network that is used untrained, with its precision where that is not the student's."""
    precision = plan.precision_of(section)
    return described_network(section) | ({} if precision == plan.precision else {"precision": precision})


def artifact_plans(
    plan: Plan, method: Method, seen: Mapping[str, Any], given: Path | None
) -> dict[str, ArtifactPlan]:
    """Plan the artifacts that a method uses.

    Args:
        plan: benchmark and data.
        method: resolved.
        seen: the training images and how they are seen.
        given: the user's own teacher, None to train one.

    Returns:
        By name; none for a method that uses none.
    """
    benchmark = plan.benchmark

    def planned(
        name: str, section: Section, settings: dict[str, Any], path: Path | None = None
    ) -> ArtifactPlan:
        return ArtifactPlan(
            name, section, plan.data.channels, plan.size, len(plan.data.classes),
            json.loads(json.dumps(settings)), plan.work_dir, path,
        )  # fmt: skip

    # Artifacts are trained on views that do not repeat, whatever their students see.
    seen = {**seen, "views": replace(benchmark.views, repeat=None).described()}
    found = {}
    if needs_teacher(method):
        section = benchmark.section("teacher")
        precision = plan.precision_of(section)
        settings = (
            artifact_settings("teacher", section, seen, precision)
            if given is None
            else checkpoint_settings(section, given, seen, precision)
        )
        found["teacher"] = planned("teacher", section, settings, given)
    source = source_of(method)
    if source is None or method.source is None:
        return found
    for kind, part in (source.mixed or {method.source: source}).items():
        for name in (*part.trains, *part.classifiers):
            maker = _maker(kind, part.options, name) if name in part.trains else None
            section = benchmark.section(name) if maker else benchmark.classifier(name)
            settings = artifact_settings(name, section, seen, plan.precision_of(section), maker)
            one = planned(name, section, settings)
            if name in found and found[name].key != one.key:
                raise UsageError(
                    f"method {method.name!r}: its sources use {name} trained in different ways. Give them "
                    "the same options."
                )
            found[name] = one
    return found


def _source_plug_in(source: Source) -> str | None:
    """Hash the code from outside of a source, or of those that it is made of."""
    if source.mixed:
        return plug_ins(type(part) for part in source.mixed.values())
    return plug_in(type(source))


def _maker(name: str, options: Mapping[str, Any], artifact: str) -> dict[str, Any]:
    """Describe the source whose loss trains an artifact; who follows another uses what that one trains."""
    followed = SOURCES.find(name).follows
    name = followed if followed and artifact in SOURCES.find(followed).trains else name
    source: type[Source] = SOURCES.find(name)
    shaping = {option: options[option] for option in source.train_options}
    file = plug_in(source)
    return {"name": name, "version": source.version, "options": shaping} | ({"plug_in": file} if file else {})
