"""A benchmark's settings, read from its config, changed by the user, and checked before anything is
trained."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdzoo
from kdzoo.checks import Problems, UsageError, checked, options_of, unknown, usage
from kdzoo.data.views import Views
from kdzoo.methods import Defaults, parse_part
from kdzoo.models.base import is_family, network_options
from kdzoo.registry import DISTILLERS, MODELS, SOURCES, Registry
from kdzoo.training.recipe import Recipe, read_recipe

PRECISIONS = ("float32", "bf16", "auto")
COMPILE = ("auto", "on", "off")
DIGESTS = ("own", "float16")
# What a record may hold.
LONGEST_NAME = 200

_TOP = ("data", "views", "student", "teacher", "recipe", "methods", "sources")


@dataclass(frozen=True)
class Section:
    """A network of the benchmark and the recipe that trains it."""

    network: str
    options: Mapping[str, Any]
    recipe: Recipe


@dataclass(frozen=True)
class Benchmark:
    """Everything that a benchmark fixes; what a user may change has been changed.

    Attributes:
        name: the config's.
        data: registered data set.
        data_options: its options.
        views: augmentation of training images.
        student: the student and its recipe.
        sections: what else may be trained, by name: "teacher", "autoencoder".
        precision: "float32", "bf16", or "auto", by the network and the device.
        val_fraction: share of the training images split off for validation.
        compile: "on", "off" or "auto": whether `torch.compile` makes the networks' passes.
        digests: "own", or "float16": as what the teacher's answers are kept, and used.
        methods: options that the benchmark sets, by distiller.
        sources: options that the benchmark sets, by source.
    """

    name: str
    data: str
    data_options: Mapping[str, Any]
    views: Views
    student: Section
    sections: Mapping[str, Section]
    precision: str
    val_fraction: float
    methods: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, Any]]
    compile: str = "auto"
    digests: str = "own"

    @property
    def defaults(self) -> Defaults:
        """Give what the benchmark sets where a method's spelling is silent."""
        return Defaults(self.student.recipe.epochs, self.methods, self.sources)

    def section(self, name: str) -> Section:
        """Give a section by name, the options of its network checked.

        Raises:
            UsageError: the config has none of that name, or there is no such network or option.
        """
        if name not in self.sections:
            raise UsageError(
                f"benchmark {self.name!r}: its config has no section {name!r}, which a requested method "
                f"needs. "
                f"Add {name} = dict(network=dict(type=...)), or choose a method that needs none."
            )
        found = self.sections[name]
        # Only now: what nobody needs is not looked at.
        return replace(found, options=network_options(found.network, found.options))

    def classifier(self, name: str) -> Section:
        """Give network and recipe of something that is trained on the labels.

        Args:
            name: of a section; "student"; or of a model, for the teacher's section with that network.

        Raises:
            UsageError: there is none of that name.
        """
        if name == "student":
            return replace(self.student, options=network_options(self.student.network, self.student.options))
        if name in self.sections:
            return self.section(name)
        models = [n for n in MODELS.names() if not is_family(MODELS.find(n))]
        if name not in models:
            known = dict.fromkeys(["student", *self.sections, *models])
            raise unknown(f"benchmark {self.name!r}", "section or model", name, known)
        section = self.section("teacher")
        if not section.recipe.epochs:
            raise UsageError(
                f"benchmark {self.name!r}: {name} would stay untrained, as the teacher takes 0 epochs. Give "
                f"it a section of its own: --cfg-options {name}.network.type={name} {name}.recipe.epochs=..."
            )
        return replace(section, network=name, options=network_options(name, {}))


def one_of(names: tuple[str, ...]) -> str:
    """List names as an error does."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def config_folder() -> Path:
    """Find the configs: inside the installed package, or beside it in a checkout."""
    package = Path(kdzoo.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def benchmark_names() -> list[str]:
    """List the benchmarks that come with kdzoo."""
    return sorted(p.stem for p in config_folder().glob("*.py"))


def describe_benchmark(name: str) -> str:
    """Give the first line of a config's docstring."""
    tree = ast.parse((config_folder() / f"{name}.py").read_text())
    return (ast.get_docstring(tree) or "").split("\n", 1)[0]


def load_benchmark(
    benchmark: str,
    *,
    epochs: int | None = None,
    section_epochs: Mapping[str, int | None] | None = None,
    precision: str = "float32",
    val_fraction: float = 0.0,
    cfg_options: Mapping[str, Any] | None = None,
    student: str | None = None,
    teacher: str | None = None,
    data: str | None = None,
    compile: str = "auto",
    views: int | None = None,
    digests: str = "own",
) -> Benchmark:
    """Read a benchmark's config and apply what the user changes.

    With data of the user's own the benchmark takes the name of the data, as its numbers are no longer
    comparable with those of the config.

    Args:
        benchmark: a name of `kdzoo list benchmarks`, or the path of a config file.
        epochs: for the student; None keeps the config's.
        section_epochs: for "teacher", "autoencoder"; None keeps the config's.
        precision: "float32", "bf16" or "auto".
        val_fraction: share of training images for validation, in [0, 1).
        cfg_options: config entries by dotted name, for example {"recipe.batch_size": 128}.
        student: another network for the student, as `name[:option=value]*`; the recipe stays.
        teacher: another network for the teacher, likewise.
        data: another data set, likewise.
        compile: "on", "off" or "auto".
        views: epochs after which the augmentation repeats; None keeps the config's.
        digests: "own" or "float16".

    Raises:
        UsageError: all that is wrong, a line each.
    """
    config = _read(benchmark, cfg_options or {})
    name = Path(benchmark).stem
    _replace_parts(config, student=student, teacher=teacher, data=data)
    if data is not None:
        name = config["data"]["type"]
    who = f"benchmark {name!r}"
    _check_entries(who, config, precision, val_fraction, compile, digests)
    if views is not None and isinstance(config.get("views", {}), dict):
        config["views"] = {**config.get("views", {}), "repeat": views}
    problems = Problems()
    wanted: dict[str, int | None] = {"student": epochs, **(section_epochs or {})}
    sections: dict[str, Section] = {}
    if {"epochs", "batch_size", "schedule_epochs"} <= set(config["recipe"]):
        # What is wrong for all sections is told once.
        with problems:
            read_recipe(f"{who}, recipe", config["recipe"])
        problems.raise_all()
    present = [key for key, value in config.items() if isinstance(value, dict) and "network" in value]
    for key, value in config.items():
        if key in present:
            with problems:
                sections[key] = _section(
                    f"{who}, section {key!r}", value, config["recipe"], wanted.get(key), key == "student"
                )
    augmentation = Views()
    with problems:
        augmentation = _views(who, config.get("views", {}))
    for registry, entry in ((DISTILLERS, "methods"), (SOURCES, "sources")):
        with problems:
            _check_options(f"{who}, {entry}", registry, config.get(entry, {}))
    with problems:
        for key, count in wanted.items():
            if count is not None and key not in present:
                raise UsageError(
                    f"{who}: its config has no section {key!r}, so its epochs cannot be set to {count}."
                )
        if "student" not in present:
            raise UsageError(
                f"{who}: config entry 'student' must name a network, as in student = "
                f"dict(network=dict(type='lenet5'))."
            )
        if "type" not in config["data"]:
            raise UsageError(
                f"{who}: config entry 'data' must name a data set, as in data = dict(type='digits')."
            )
    problems.raise_all()
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{who}: its config must hold finite numbers, texts, lists and dicts: {error}."
        ) from error
    data_options = dict(config["data"])
    return Benchmark(
        name=name,
        data=data_options.pop("type"),
        data_options=data_options,
        views=augmentation,
        student=sections.pop("student"),
        sections=sections,
        precision=precision,
        val_fraction=float(val_fraction),
        methods=config.get("methods", {}),
        sources=config.get("sources", {}),
        compile=compile,
        digests=digests,
    )


def _check_entries(
    who: str, config: Mapping[str, Any], precision: str, val_fraction: float, compile: str, digests: str
) -> None:
    """Check what a config has at its top, and what holds for all of its sections."""
    problems = Problems()
    for key, value in config.items():
        with problems:
            if key not in _TOP and not (isinstance(value, dict) and "network" in value):
                raise unknown(who, "config entry", key, [*_TOP, "autoencoder"])
    for key in ("data", "student", "recipe"):
        with problems:
            if not isinstance(config.get(key), dict):
                raise usage(who, f"config entry {key!r}", "a dict", config.get(key))
    with problems:
        if precision not in PRECISIONS:
            raise usage("kdzoo", "precision", one_of(PRECISIONS), precision)
    with problems:
        if compile not in COMPILE:
            raise usage("kdzoo", "compile", one_of(COMPILE), compile)
    with problems:
        if digests not in DIGESTS:
            raise usage("kdzoo", "digests", one_of(DIGESTS), digests)
    with problems:
        if (
            isinstance(val_fraction, bool)
            or not isinstance(val_fraction, (int, float))
            or not 0 <= val_fraction < 1
        ):
            raise usage("kdzoo", "val_fraction", "a number in [0, 1)", val_fraction)
    problems.raise_all()


def _read(benchmark: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from mmengine.config import Config

    path = Path(benchmark) if benchmark.endswith(".py") else config_folder() / f"{benchmark}.py"
    if not path.is_file():
        if benchmark.endswith(".py"):
            raise UsageError(f"benchmark: there is no config file {benchmark}.")
        raise unknown("kdzoo", "benchmark", benchmark, benchmark_names())
    try:
        config = Config.fromfile(str(path))
    except Exception as error:
        raise UsageError(f"benchmark {benchmark!r}: its config cannot be read: {error}") from error
    if len(path.stem) > LONGEST_NAME:
        raise usage("benchmark", "the config's name", f"at most {LONGEST_NAME} characters", path.stem)
    changes: dict[str, Any] = {}
    for name, value in options.items():
        # Options of sums and mixtures have dots of their own: methods.at~kd.kd.alpha.
        of_a_method = name.partition(".")[0] in ("methods", "sources")
        *parents, last = name.split(".", 2 if of_a_method else -1)
        place = changes
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(
                    f"cfg-options: {name} and an entry above it are both given. Give one of them."
                )
        place[last] = value
    merged: dict[str, Any] = _merged(copy.deepcopy(config.to_dict()), changes)
    return merged


def _replace_parts(config: dict[str, Any], **spelled: str | None) -> None:
    """Put networks and data that were spelled out in the place of the config's."""
    problems = Problems()
    for role, text in spelled.items():
        with problems:
            if text is None:
                continue
            part = parse_part(f"--{role}", text)
            if role == "teacher":
                # Asked for by name: a slip shall be heard of even where no method needs a teacher.
                network_options(part.name, part.options)
            thing = {"type": part.name, **part.options}
            if role == "data":
                config["data"] = thing
            else:
                section = config.get(role, {})
                config[role] = {**(section if isinstance(section, dict) else {}), "network": thing}
    problems.raise_all()


def _merged(base: Any, change: Any) -> Any:
    """Change single entries of nested settings; what is of another `type` is replaced whole, as its options
    differ."""
    if (
        isinstance(base, list)
        and isinstance(change, dict)
        and all(k.isdigit() and int(k) < len(base) for k in change)
    ):
        return [_merged(item, change.get(str(i), item)) for i, item in enumerate(base)]
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if change.get("type", base.get("type")) != base.get("type"):
        return change
    return {**base, **{name: _merged(base.get(name), value) for name, value in change.items()}}


def parse_cfg_options(assignments: list[str]) -> dict[str, Any]:
    """Turn texts such as "recipe.batch_size=128" into config entries; values are Python literals or plain
    texts.

    Raises:
        UsageError: one of them has no "=".
    """
    options: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(
                f"cfg-options: must be name=value, for example recipe.batch_size=128, got {text!r}."
            )
        words = {"true": True, "false": False, "none": None}
        try:
            options[name] = words[value.lower()] if value.lower() in words else ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def _section(
    who: str, config: Mapping[str, Any], base: Mapping[str, Any], epochs: int | None, student: bool
) -> Section:
    network = dict(config["network"]) if isinstance(config["network"], dict) else {}
    extra = sorted(set(config) - {"network", "recipe"})
    if "type" not in network or extra or not isinstance(config.get("recipe", {}), dict):
        raise UsageError(
            f"{who}: must be dict(network=dict(type=...), recipe=dict(...)), got {dict(config)}."
        )
    recipe = _merged(base, config.get("recipe", {}))
    if epochs is not None:
        recipe["epochs"] = epochs
    problems = Problems()
    name = network.pop("type")
    if student:
        with problems:
            network = network_options(name, network)
    ready = str(network.get("pretrained")).lower() in ("true", "yes", "1") and not student
    with problems:
        found = read_recipe(who, recipe, least=0 if ready else 1)
    problems.raise_all()
    return Section(name, network, found)


def _check_options(who: str, registry: Registry, config: Any) -> None:
    """Check the options that a benchmark sets by name; a misspelt one is not passed over in silence."""
    if not isinstance(config, dict) or not all(isinstance(options, dict) for options in config.values()):
        example = f"dict({registry.names()[0]}=dict(...))"
        raise usage(who, "config entry", f"a dict of dicts such as {example}", config)
    problems = Problems()
    for name, options in config.items():
        with problems:
            checked(f"{who}.{name}", options_of(registry.find(name, who)), options, partly=True)
    problems.raise_all()


def _views(who: str, config: Any) -> Views:
    if not isinstance(config, dict):
        raise usage(who, "config entry 'views'", "a dict", config)
    known = Views.__dataclass_fields__
    for key in config:
        if key not in known:
            raise unknown(f"{who}, views", "entry", key, known)
    return replace(Views(), **config)
