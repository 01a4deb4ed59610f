"""ReffAKD's soft labels: how similar the classes are in the eyes of a tiny autoencoder, without any teacher.

An autoencoder is trained on the training images; some images of each class are embedded by it, and the mean
cosine similarity between two classes is what one of them has in the other's soft label, after gamma on the
diagonal and a softmax. The controls leave out one of these steps at a time.

Doshi and Kim 2024, "ReffAKD: Resource-efficient Autoencoder-based Knowledge Distillation",
https://arxiv.org/abs/2404.09886
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from kdzoo.checks import Count, Interval, NonNegative, UsageError
from kdzoo.data.order import draw_per_class
from kdzoo.functional.similarities import TIE_BREAK, class_similarity, smallest_gamma, soft_label_matrix
from kdzoo.outputs import Batch, Setting
from kdzoo.registry import SOURCES
from kdzoo.sources.base import ClassSource, Workshop

__all__ = ["ReffAKD", "SimilaritySource", "class_similarity", "smallest_gamma", "soft_label_matrix"]

Gamma = NonNegative | Literal["auto"]
PerClass = Annotated[int, Interval(low=2)]
Seen = Literal["augmented", "clean"]


class SimilaritySource(ClassSource):
    """Rows made of class similarities, as ReffAKD makes them; a subclass says what embeds the images.

    All such sources see the same images in a run: draws and views are keyed alike.
    """

    def __init__(
        self, *, gamma: Gamma = "auto", per_class: PerClass = 40, draws: Count = 1, views: Seen = "augmented"
    ) -> None:
        """Keep the options.

        Args:
            gamma: added to the diagonal; auto takes the smallest that makes it each row's largest entry.
                Default: auto, unless a benchmark sets the paper's value for its data.
            per_class: images drawn from each class (all of them where a class has fewer); at least two, a
                pair. Default: the paper's.
            draws: independent draws whose similarities are averaged. Default: the paper's.
            views: whether augmented views of the drawn images are embedded, as in the notebooks, or the
                images as they are.
        """
        self.gamma = gamma
        self.per_class = per_class
        self.draws = draws
        self.views = views

    def check(self, setting: Setting) -> None:
        """Refuse classes with fewer than two training images: similarity inside a class takes a pair."""
        counts = torch.bincount(setting.labels, minlength=setting.classes)
        if int(counts.min()) < 2:
            lonely = (counts < 2).nonzero().flatten().tolist()
            raise UsageError(
                f"class similarities: every class needs two training images or more, classes {lonely} have "
                f"fewer. Add images, or lower --val-fraction."
            )

    def embedder(self, workshop: Workshop) -> Callable[[Tensor], Tensor]:
        """Give what turns images [N, C, H, W] into embeddings [N, D]."""
        raise NotImplementedError

    def rows(self, workshop: Workshop) -> Tensor:
        """Embed the draws, average their class similarities, and turn them into soft labels."""
        embed = self.embedder(workshop)
        similarities = []
        for draw in range(self.draws):
            chosen = draw_per_class(workshop.labels, self.per_class, workshop.key("reffakd", draw))
            images = workshop.images(
                chosen, purpose="reffakd", draw=draw, augmented=self.views == "augmented"
            )
            # float64 on the CPU: the same soft labels on every device, for a matrix that is made once.
            embeddings = embed(images).double().cpu()
            labels = torch.from_numpy(workshop.labels[chosen])
            similarities.append(class_similarity(embeddings, labels, workshop.num_classes))
        similarity = torch.stack(similarities).mean(dim=0)
        gamma = max(0.0, smallest_gamma(similarity) + TIE_BREAK) if self.gamma == "auto" else self.gamma
        return soft_label_matrix(similarity, gamma)


@SOURCES.register("reffakd")
class ReffAKD(SimilaritySource):
    """One soft label per class, from the similarities of autoencoder embeddings (eq. 1 and 2)."""

    trains = ("autoencoder",)
    train_options = ("target",)
    shorthand = "kd"
    paper = "Doshi and Kim 2024, ReffAKD, https://arxiv.org/abs/2404.09886"

    def __init__(
        self, *, gamma: Gamma = "auto", per_class: PerClass = 40, draws: Count = 1, views: Seen = "augmented",
        target: Literal["normalised", "pixels"] = "normalised",
    ) -> None:  # fmt: skip
        """Keep the options.

        Args:
            target: what the autoencoder reproduces: normalised images, as in the notebooks (a sigmoid cannot
                reach all of their values), or pixels from 0 to 1.
        """
        super().__init__(gamma=gamma, per_class=per_class, draws=draws, views=views)
        self.target = target

    def embedder(self, workshop: Workshop) -> Callable[[Tensor], Tensor]:
        """Train the autoencoder, or fetch it."""

        def reconstruction(network: nn.Module, batch: Batch) -> Tensor:
            wanted = batch.images * workshop.std + workshop.mean if self.target == "pixels" else batch.images
            decode: Callable[[Tensor], Tensor] = network.reconstruct  # type: ignore[assignment]
            return torch.nn.functional.mse_loss(decode(network(batch.images).embedding), wanted)

        return functools.partial(workshop.embed, workshop.train("autoencoder", reconstruction))
