"""Several sources at once: a weighted mean of their soft labels.

Own to this project: whether ReffAKD's labels add to a teacher's is asked by mixing the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from kdzoo.checks import Interval, Option, UsageError, option_parts, options_of, usage
from kdzoo.outputs import Batch, Setting, SoftLabels, mix
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop, build_source

# How far the sum of the weights may be from 1, as of thirds that somebody wrote out.
TOLERANCE = 1e-3


@SOURCES.register("mixture")
class Mixture(Source):
    """The weighted mean of other sources' soft labels, each softened in its own way first.

    Its options are the other sources' names, each with a weight, as in `mixture:teacher=0.5:reffakd=0.5`; and
    these sources' own options, behind a dot: `mixture:teacher=0.5:reffakd=0.5:reffakd.gamma=0.01`. Weights
    sum to 1. What a benchmark sets for a source holds here, too.
    """

    needs_options = follows_options = True
    paper = "none: a mean of others, of this project"

    def __init__(self, **options: Any) -> None:
        options = self.resolved(options)
        names = [name for name in self.part_names() if name in options]
        self.mixed = {name: build_source(name, _own(name, options)) for name in names}
        parts = self.mixed.values()
        total = sum(options[name] for name in names)
        self._weights = [options[name] / total for name in names]
        self.needs = frozenset().union(*(part.needs for part in parts))
        fields = [part.teacher_fields for part in parts if "teacher" in part.needs]
        known = [one for one in fields if one is not None]
        self.teacher_fields = frozenset().union(*known) if len(known) == len(fields) else None
        self.trains, self.classifiers, self.builds = (
            tuple(dict.fromkeys(name for part in parts for name in getattr(part, what)))
            for what in ("trains", "classifiers", "builds")
        )
        self.train_options = tuple(
            f"{name}.{option}" for name, part in self.mixed.items() for option in part.train_options
        )
        # It rises whenever that of one of them does.
        self.version = type(self).version + sum(part.version for part in parts)

    @classmethod
    def part_names(cls) -> list[str]:
        """List all sources but those that are made of others."""
        return [name for name in SOURCES.names() if not issubclass(SOURCES.find(name), Mixture)]

    @classmethod
    def stated_options(cls) -> dict[str, Option]:
        """Give a weight for each source, and its options behind its name and a dot.

        Raises:
            UsageError: the name of a source is that of another's option.
        """
        weight = Option("", (float,), (), Interval(low=0), 0.0)
        names = cls.part_names()
        found = {name: replace(weight, name=name, doc=f"Weight of {name}.") for name in names}
        for name in names:
            for option in options_of(SOURCES.find(name)).values():
                whole = f"{name}.{option.name}"
                if whole in found:
                    raise UsageError(
                        f"mixture: {whole!r} is the name of a source, and of an option of {name}. Rename one."
                    )
                found[whole] = replace(option, name=whole, required=False, absent=option.required)
        return found

    @classmethod
    def resolved(cls, options: Mapping[str, Any], given: Collection[str] | None = None) -> dict[str, Any]:
        """Keep the weights above zero, and the options of their sources: others are none of its matter.

        Raises:
            UsageError: the weights do not sum to 1, an option is of a source without weight, or one that
                must be given is not.
        """
        known, names = cls.stated_options(), cls.part_names()
        weights = {name: options[name] for name in names if options.get(name)}
        if len(weights) < 2 or abs(sum(weights.values()) - 1) > TOLERANCE:
            raise usage(
                "mixture", "its weights", "those of two sources or more, 1 in sum, such as "
                "teacher=0.5:reffakd=0.5", ":".join(f"{n}={w:g}" for n, w in weights.items()),
            )  # fmt: skip
        for name in (n for n in known if n not in names):
            changed = options.get(name, known[name].default) != known[name].default
            if changed and option_parts(name)[0] not in weights and (given is None or name in given):
                raise UsageError(f"mixture: {name} is an option of a source without weight. Give it one.")
        kept: dict[str, Any] = dict(weights)
        for source in weights:
            own = {
                name: options[name] for name in known if option_parts(name)[0] == source and name not in names
            }
            missing = next((name for name, value in own.items() if value is None), None)
            if missing is not None:
                accepted = known[missing].accepted
                raise UsageError(f"mixture: option {missing!r} must be given: {accepted}.")
            short = {option_parts(name)[1]: value for name, value in own.items()}
            own = SOURCES.find(source).resolved(short)
            kept |= {f"{source}.{option}": value for option, value in own.items()}
        return kept

    def check(self, setting: Setting) -> None:
        """Refuse what one of the sources refuses."""
        for part in self.mixed.values():
            part.check(setting)

    def content(self) -> Mapping[str, str]:
        """Give what the sources' numbers depend on beside their options."""
        return {
            f"{n}.{what}": said for n, part in self.mixed.items() for what, said in part.content().items()
        }

    def fit(self, workshop: Workshop) -> None:
        """Make each of the sources ready."""
        for part in self.mixed.values():
            part.fit(workshop)

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give the mean; each source gets what it would get alone."""
        given = [part(batch if "indices" in part.needs else batch._replace(indices=None))
                 for part in self.mixed.values()]  # fmt: skip
        return mix(self._weights, given)


def _own(source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    names = Mixture.part_names()
    return {
        option_parts(name)[1]: value
        for name, value in options.items()
        if name not in names and option_parts(name)[0] == source
    }
