"""A random view of one picture: torchvision's v2 transforms, by parameters that are drawn by key."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from kdzoo.data.picture_files import Channels
from kdzoo.data.pictures import ELONGATED, decoded_upright, fitted, upright_size
from kdzoo.data.views import ViewParameters, Views, draw_parameters
from kdzoo.keys import key, uniforms

# Of torchvision's RandomResizedCrop: windows that are tried, and the logarithms of their width / height.
TRIES = 10
RATIOS = (math.log(3 / 4), math.log(4 / 3))
DRAWS = 2 * TRIES + 2  # numbers for a window: two for each try, two for its place


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Drawn(NamedTuple):
    """What was drawn for one picture.

    Attributes:
        window: [DRAWS] numbers in [0, 1) for the part that is shown.
        moves: what is done to it afterwards; one row.
    """

    window: npt.NDArray[np.float64]
    moves: ViewParameters


def draw_view(views: Views, seed: int, epoch: int, index: int, purpose: str | None = None) -> Drawn:
    """Draw a picture's view from (seed, epoch, index): flips, rotations and paddings as for images in memory,
    windows by a key of their own.

    Every draw has 53 bits of its own, of a stream of 63: a generator would be seeded by 32 of them alone
    (torch's on the CPU), and of ImageNet's pictures 190 pairs an epoch would share their view.

    Args:
        views: what is on.
        seed: the run's seed.
        epoch: counts from 0.
        index: position in the training set.
        purpose: what the views are for, if not for training.
    """
    place = (epoch,) if purpose is None else (epoch, purpose)
    (window,) = uniforms(key(seed, "windows", *place), [index], DRAWS)
    return Drawn(window, draw_parameters(views, seed, epoch, [index], purpose=purpose))


def choose_window(scale: float, height: int, width: int, drawn: npt.NDArray[np.float64]) -> Window:
    """Choose the part that is shown as torchvision's RandomResizedCrop does (`make_params`): the share of the
    area uniform in [scale, 1], the logarithm of width / height uniform in that of [3/4, 4/3]; of ten tries
    the first that fits into the picture, else its centre.

    Args:
        scale: smallest share of the area.
        height: of the picture in pixels.
        width: the same.
        drawn: [DRAWS] numbers in [0, 1).
    """
    low, high = RATIOS
    for share, ratio in drawn[: 2 * TRIES].reshape(TRIES, 2).tolist():
        area, stretch = height * width * (scale + share * (1 - scale)), math.exp(low + ratio * (high - low))
        across, down = round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))
        if 0 < across <= width and 0 < down <= height:
            top, left = drawn[-2:] * (height - down + 1, width - across + 1)
            return Window(int(top), int(left), down, across)
    narrowest, widest = math.exp(low), math.exp(high)
    down = min(height, max(1, round(width / narrowest)))
    across = min(width, max(1, round(height * widest)))
    return Window((height - down) // 2, (width - across) // 2, down, across)


def random_view(
    picture: Image.Image, views: Views, drawn: Drawn, *, size: int, channels: Channels, short_side: int
) -> Tensor:
    """Give a view of a picture.

    Args:
        picture: as `opened` gave it.
        views: what is on.
        drawn: for this picture.
        size: height and width of a view in pixels.
        channels: rgb or grey.
        short_side: to which a picture is brought where no random part of it is shown, in pixels.

    Returns:
        [C, size, size] uint8.

    Raises:
        Exception: as `fitted`.
    """
    from torchvision.transforms.v2 import functional

    if views.crop_scale:
        view = _window(picture, views.crop_scale, drawn.window, size, channels)
    else:
        view = torch.from_numpy(fitted(picture, size=size, channels=channels, short_side=short_side))
    moves = drawn.moves
    if moves.padding:
        padded = functional.pad(view, [moves.padding] * 4)
        view = functional.crop(padded, int(moves.top[0]), int(moves.left[0]), size, size)
    if moves.flip[0]:
        view = functional.horizontal_flip(view)
    if moves.angle[0]:
        view = functional.rotate(view, float(moves.angle[0]))
    return view


def _window(
    picture: Image.Image, scale: float, drawn: npt.NDArray[np.float64], size: int, channels: Channels
) -> Tensor:
    """Show a random part of a picture, of which no more is decoded than twice the view's size needs."""
    from torchvision.transforms.v2 import functional

    whole, (width, height) = picture.size, upright_size(picture)
    window = choose_window(scale, height, width, drawn)
    smaller = min(window.height, window.width) / (2 * size)
    if smaller < 2 or max(whole) > ELONGATED * min(whole):
        least = whole
    else:
        least = (math.ceil(whole[0] / smaller), math.ceil(whole[1] / smaller))
    with decoded_upright(picture, channels, least) as levels:
        down, across = levels.shape[-2:]
        if picture.size == whole:
            # Of some kinds of files it is known only now how they stand.
            window = choose_window(scale, down, across, drawn)
        else:
            window = _scaled(window, down / height, across / width)
        view: Tensor = functional.resized_crop(
            torch.from_numpy(levels), *window, size=[size, size], antialias=True
        )
        return view


def _scaled(window: Window, down: float, across: float) -> Window:
    """Find a window again in a picture that was decoded smaller, to a quarter of a view's pixel."""
    top, bottom = (round(n * down) for n in (window.top, window.top + window.height))
    left, right = (round(n * across) for n in (window.left, window.left + window.width))
    return Window(top, left, bottom - top, right - left)
