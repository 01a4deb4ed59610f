"""Views: random crops, flips and rotations of a whole batch in one gather.

A sample's view depends on (seed, epoch, sample index) and on nothing else: not on the batch that it comes in,
nor on what was drawn before. Resizing is no draw; it is done once, before the images are moved to the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kdzoo.checks import Count, Interval, Natural, Problems, options_of
from kdzoo.keys import key, uniforms


@dataclass(frozen=True, kw_only=True)
class Views:
    """What is done to an image: resized, then at random cropped, mirrored and rotated, in this order.

    Args:
        resize: height and width of the image in pixels, before all else; None leaves it.
        crop_padding: pixels of zeros added on each side, of which a window of the image's size is cut out.
        flip: mirror left and right with probability 1/2.
        rotation: largest angle in degrees to either side.
        crop_scale: smallest share of a picture's area that is shown, with sides of 3:4 to 4:3, resized to the
            image's size (torchvision's RandomResizedCrop); None shows all of it. For streamed pictures alone,
            and before all else that is random.
        repeat: epochs after which the random views of training come again, so that what a teacher says of
            them can be kept; None has new ones in every epoch. Orders are new in every epoch all the same.

    Raises:
        UsageError: a value out of range; all of them at once.
    """

    resize: Count | None = None
    crop_padding: Natural = 0
    flip: bool = False
    rotation: Annotated[float, Interval(0, 180)] = 0.0
    crop_scale: Annotated[float, Interval(0, 1, open_low=True)] | None = None
    repeat: Count | None = None

    def __post_init__(self) -> None:
        problems = Problems()
        for name, option in options_of(type(self)).items():
            value = getattr(self, name)
            if value is not None or option.default is not None:
                with problems:
                    object.__setattr__(self, name, option.parse("views", value))
        problems.raise_all()

    def described(self) -> dict[str, Any]:
        """Give the views as protocols keep them: what came later is left out where it is off, so that it
        changes no key."""
        later = ("crop_scale", "repeat")
        return {n: v for n, v in asdict(self).items() if n not in later or v is not None}

    def epoch(self, epoch: int) -> int:
        """Give the epoch whose random views an epoch of training has; it is another one if they repeat."""
        return epoch if self.repeat is None else epoch % self.repeat

    def output_size(self, size: int) -> int:
        """Give the height and width that an image of `size` has in a view, in pixels."""
        return size if self.resize is None else self.resize


class ViewParameters(NamedTuple):
    """What was drawn for each sample of a batch, on the host.

    Attributes:
        angle: [N] float64, degrees, counter-clockwise.
        flip: [N] bool.
        top: [N] int64, row of the padded image where the window begins, 0 to 2 * padding.
        left: [N] int64, the same for columns.
        padding: pixels of zeros that were added on each side.
    """

    angle: npt.NDArray[np.float64]
    flip: npt.NDArray[np.bool_]
    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    padding: int


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize images, bilinear and antialiased, as PIL does.

    torch's uint8 kernel calculates in fixed point as PIL does, so that the result is the same on every CPU;
    torchvision's `resize` of a tensor goes through float32 and differs from PIL in every tenth pixel.

    Args:
        images: [N, C, H, W] uint8, on the CPU.
        size: height and width in pixels; one number for a square.

    Returns:
        [N, C, height, width] uint8. Enlarged, it is PIL's result bit for bit (10,000 images of Fashion-MNIST,
        28 to 32); made smaller, up to 3% of the pixels differ by 1 or 2 levels (28 to 20; none in 28 to 14).
    """
    shape = (size, size) if isinstance(size, int) else size
    if images.shape[-2:] == shape:
        return images
    pieces = torch.split(images, 1024)
    return torch.cat([functional.interpolate(p, shape, mode="bilinear", antialias=True) for p in pieces])


def draw_parameters(
    views: Views, seed: int, epoch: int, indices: npt.ArrayLike, *, purpose: str | None = None
) -> ViewParameters:
    """Draw what a view does to each sample; a sample's row depends on no other sample.

    Four numbers are drawn for every sample whichever views are on, so that one does not change the others.

    Args:
        views: what is on.
        seed: the run's seed.
        epoch: counts from 0.
        indices: [N] positions in the training set.
        purpose: what the views are for, if not for training; each purpose has draws of its own.
    """
    place = (epoch,) if purpose is None else (epoch, purpose)
    turned, mirrored, down, right = uniforms(key(seed, "views", *place), indices, 4).T
    offsets = 2 * views.crop_padding + 1
    return ViewParameters(
        angle=(2 * turned - 1) * views.rotation,
        flip=(mirrored < 0.5) & views.flip,
        top=(down * offsets).astype(np.int64),
        left=(right * offsets).astype(np.int64),
        padding=views.crop_padding,
    )


def apply_views(images: Tensor, parameters: ViewParameters) -> Tensor:
    """Crop, flip and rotate a batch by one gather: each pixel is followed back to the one that it shows.

    It is what torchvision's pad and crop, hflip and rotate give one after the other, sample by sample: a
    rotation takes the nearest pixel and turns about the centre, and what comes from outside is 0. Crops and
    flips are equal bit for bit. A rotation has float64 coordinates here and float32 ones there: of 1,200
    images turned by up to 15 degrees, 0 of 28x28, 1 of 32x32 and 12 of 64x64 differ, in two pixels each that
    lie half-way between two others.

    Args:
        images: [N, C, H, W] uint8.
        parameters: of the same N samples.

    Returns:
        [N, C, H, W] uint8; `images` itself where no parameter changes anything.
    """
    angle, flip, top, left, padding = parameters
    height, width = images.shape[-2:]

    def on_device(values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(images.device, non_blocking=True).view(-1, 1, 1)

    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    inside = None
    # The parameters are on the host, so that these questions make no device wait.
    if rotated := bool(angle.any()):
        # Sine and cosine are the host's, so that the views are the same on every device.
        sine, cosine = (on_device(f(np.deg2rad(angle))) for f in (np.sin, np.cos))
        x, y = columns - (width - 1) / 2, (rows - (height - 1) / 2).double()
        columns = (cosine * x - sine * y + (width - 1) / 2).round().long()
        rows = (sine * x + cosine * y + (height - 1) / 2).round().long()
        inside = _within(rows, height) & _within(columns, width)
    if flipped := bool(flip.any()):
        columns = torch.where(on_device(flip), width - 1 - columns, columns)
    if moved := bool((top != padding).any() or (left != padding).any()):
        rows, columns = rows + on_device(top - padding), columns + on_device(left - padding)
        window = _within(rows, height) & _within(columns, width)
        inside = window if inside is None else inside & window
    if not (rotated or flipped or moved):
        return images
    position = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)
    seen = images.flatten(2).gather(2, position[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return seen if inside is None else seen.masked_fill_(~inside[:, None], 0)


def _within(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring pixels to 0..1, subtract the mean, divide by the standard deviation: torchvision's bits.

    Args:
        images: [N, C, H, W] uint8.
        mean: [C] float32, of pixels / 255, on the same device.
        std: [C] float32, the same.

    Returns:
        [N, C, H, W] float32.
    """
    return images.float().div_(255).sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
