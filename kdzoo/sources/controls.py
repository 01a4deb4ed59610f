"""Controls: soft labels that leave one thing out, so that a comparison can tell what mattered.

Each answers one doubt about ReffAKD's labels; under the same seed they see the same images, and those that
train an autoencoder share its one. Where gamma differs, the class says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kdzoo.keys import permutation
from kdzoo.registry import SOURCES
from kdzoo.sources.base import ClassSource, Workshop
from kdzoo.sources.reffakd import ReffAKD, SimilaritySource


@SOURCES.register("uniform")
class Uniform(ClassSource):
    """1/K for every class: is it any label at all that helps?"""

    paper = "control of this project"

    def rows(self, workshop: Workshop) -> Tensor:
        """Give every class the same row."""
        return torch.full((workshop.num_classes, workshop.num_classes), 1.0 / workshop.num_classes)


@SOURCES.register("label_smoothing")
class LabelSmoothing(ReffAKD):
    """ReffAKD's labels without their similarities: is it just smoothing?

    The true class is as likely as in ReffAKD's labels on average, and the rest is spread evenly.
    Source: smoothing itself is Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
    Vision", CVPR, https://arxiv.org/abs/1512.00567, section 7.
    """

    follows = "reffakd"
    shorthand = ""
    paper = "control of this project"

    def rows(self, workshop: Workshop) -> Tensor:
        """Keep of ReffAKD's rows the mean of their diagonal."""
        likeness = super().rows(workshop)
        true = likeness.diagonal().mean()
        others = (1 - true) / (len(likeness) - 1)
        return others.expand(likeness.shape).clone().fill_diagonal_(float(true))


@SOURCES.register("permuted")
class Permuted(ReffAKD):
    """ReffAKD's labels with each row's entries for the other classes shuffled: do the similarities matter?

    Every row keeps its numbers, the true class its own; the shuffles are keyed by the run's seed.
    """

    follows = "reffakd"
    shorthand = ""
    paper = "control of this project"

    def rows(self, workshop: Workshop) -> Tensor:
        """Shuffle what ReffAKD's rows have off the diagonal."""
        likeness = super().rows(workshop)
        permuted = likeness.clone()
        for number, row in enumerate(likeness):
            others = torch.arange(len(row))[torch.arange(len(row)) != number]
            order = permutation(workshop.key("permuted", number), len(others))
            permuted[number, others] = row[others[torch.from_numpy(order)]]
        return permuted


@SOURCES.register("pixels")
class Pixels(SimilaritySource):
    """ReffAKD's labels from the cosines of raw pixels: does the encoder matter?

    gamma fits the similarities that it is added to, so it is auto here whatever a benchmark sets for reffakd:
    compare with `reffakd:gamma=auto`.
    """

    paper = "control of this project"

    def embedder(self, workshop: Workshop) -> Callable[[Tensor], Tensor]:
        """Give the images' pixels from 0 to 1, as they were before they were normalised."""

        def raw(images: Tensor) -> Tensor:
            # Back to the 256 levels, so that black is 0 and not the rounding errors of two ways.
            return ((images * workshop.std + workshop.mean) * 255).round().flatten(1) / 255

        return raw


@SOURCES.register("random_cae")
class RandomCAE(SimilaritySource):
    """ReffAKD's labels from an untrained encoder: does its training matter?

    Its initial weights are keyed by the run's seed. gamma is auto whatever a benchmark sets for reffakd:
    compare with `reffakd:gamma=auto`.
    """

    builds = ("autoencoder",)
    paper = "control of this project"

    def embedder(self, workshop: Workshop) -> Callable[[Tensor], Tensor]:
        """Build the autoencoder, and leave it as it is."""
        return functools.partial(workshop.embed, workshop.untrained("autoencoder", "random_cae"))
