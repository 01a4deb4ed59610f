"""From a picture's file to pixels of one size: any mode, upright, on white, cut or squashed to a square."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from kdzoo.checks import UsageError
from kdzoo.data.base import Images
from kdzoo.data.contents import Altered
from kdzoo.data.picture_files import Channels
from kdzoo.data.places import shown
from kdzoo.data.views import resize

Fit = Literal["crop", "squash"]

SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
# What PIL may try; others of its formats start programs (EPS) or read what no camera writes.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
# The pixels of which PIL begins to warn; a user's program may have switched PIL's own limit off.
LARGEST = 2**30 // 12
# Larger ones are decoded one at a time, because every thread would hold several copies of hundreds of MB.
LARGE = 2**24
# A picture more elongated than that is cut before it is resized, not after: its long side would be immense.
ELONGATED = 16

ORIENTATION = ExifTags.Base.Orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_one_large_at_a_time: contextlib.AbstractContextManager[Any] = threading.Lock()


def take_turns(lock: contextlib.AbstractContextManager[Any]) -> None:
    """Decode large pictures in turns with other processes that were given the same lock."""
    global _one_large_at_a_time
    _one_large_at_a_time = lock


class Unfit(ValueError):
    """A picture that cannot be used; str() says why."""


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Let PIL refuse what it would warn of as a bomb, and keep its other warnings (odd metadata) to itself.

    It changes the process's filters, so that it belongs around a pool of threads, not inside.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def opened(file: BinaryIO) -> Image.Image:
    """Open a picture; its pixels are not decoded yet.

    Args:
        file: a stream at its beginning.

    Raises:
        Unfit: it is empty, no picture of a known format, or claims too many pixels.
    """
    if not file.read(1):
        raise Unfit("is empty")
    file.seek(0)
    bomb = Unfit(f"claims more than {LARGEST:,} pixels")
    try:
        picture = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise bomb from None
    except UnidentifiedImageError:
        raise Unfit("is no picture that can be read") from None
    if picture.width * picture.height > LARGEST:
        raise bomb
    return picture


def reason(error: Exception) -> str:
    """Say in a few words why a picture could not be read, whatever PIL raised."""
    if isinstance(error, (Unfit, Altered)):
        return str(error)
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return f"cannot be decoded: {' '.join(text.split())[:80]}"


def read_picture(who: str, path: Path, *, size: int, channels: Channels, fit: Fit, short_side: int) -> Images:
    """Read one picture and fit it.

    Args:
        who: who needs it, for messages.
        path: the file.
        size: as in `fitted`, like all that follows.
        channels: rgb or grey.
        fit: crop or squash.
        short_side: in pixels.

    Returns:
        [C, size, size] uint8.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with strict(), open(path, "rb") as file, opened(file) as picture:
            return fitted(picture, size=size, channels=channels, fit=fit, short_side=short_side)
    except Exception as error:
        raise UsageError(f"{who}: {shown(path)} {reason(error)}.") from error


def fitted(
    picture: Image.Image,
    *,
    size: int,
    channels: Channels = "rgb",
    fit: Fit = "crop",
    short_side: int | None = None,
) -> Images:
    """Make a picture of any size and mode an image: decoded, turned upright by its EXIF orientation, brought
    to 8 bits a channel, put on white where it is transparent, and resized.

    Args:
        picture: as `opened` gave it.
        size: height and width in pixels.
        channels: "rgb" repeats grey levels three times; "grey" weighs colours as ITU-R 601-2 (PIL's "L").
        fit: "crop" brings the short side to `short_side` and cuts out the centre, as torchvision's Resize and
            CenterCrop; "squash" brings both sides to `size`.
        short_side: in pixels, `size` or more; None is `size`.

    Returns:
        [C, size, size] uint8.

    Raises:
        Unfit: its levels are floating-point numbers, or integers beyond 16 bits.
        Exception: whatever PIL raises for a damaged file; `reason` says it in words.
    """
    scaled = short_side or size
    with decoded_upright(picture, channels, (2 * scaled, 2 * scaled)) as whole:
        levels = torch.from_numpy(whole)
        if fit == "squash":
            return _resized(levels, (size, size))
        height, width = levels.shape[-2:]
        short = min(height, width)
        height, width = scaled * height // short, scaled * width // short
        top, left = round((height - size) / 2), round((width - size) / 2)
        return _resized(levels, (height, width))[:, top : top + size, left : left + size].copy()


@contextlib.contextmanager
def decoded_upright(picture: Image.Image, channels: Channels, least: tuple[int, int]) -> Iterator[Images]:
    """Decode a picture, and let no other large one be decoded before the block has ended.

    Args:
        picture: as `opened` gave it.
        channels: as in `fitted`.
        least: width and height that must be left of it where a decoder can give it smaller.

    Yields:
        [C, H, W] uint8, upright.

    Raises:
        Exception: as `fitted`.
    """
    # A JPEG is decoded at a half, a quarter or an eighth of its size, as long as that is left.
    picture.draft(None, least)
    large = picture.width * picture.height > LARGE
    with _one_large_at_a_time if large else contextlib.nullcontext():
        picture.load()
        yield pixels(_cut(_upright(picture)), channels)


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Give width and height of a JPEG as it will stand; of all else as it lies, since that would have to be
    decoded first."""
    turned = picture.format in ("JPEG", "MPO") and _turn(picture) in (
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )  # fmt: skip
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def pixels(picture: Image.Image, channels: Channels) -> Images:
    """Bring a picture of any mode to 8 bits a channel, on white where it is transparent.

    Args:
        picture: of any size.
        channels: as in `fitted`.

    Returns:
        [C, H, W] uint8.

    Raises:
        Unfit: its levels are floating-point numbers, or integers beyond 16 bits.
    """
    if picture.mode == "F":
        raise Unfit("has floating-point levels; save it with 8 or 16 bits a channel")
    if picture.mode.startswith("I"):
        picture = _from_16_bits(picture)
    elif "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        # By way of the plain modes, because PIL knows no direct one from "La".
        plain = {"RGBa": "RGBA", "La": "LA"}.get(picture.mode)
        picture = (picture.convert(plain) if plain else picture).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    mode = "L" if channels == "grey" else "RGB"
    picture = picture if picture.mode == mode else picture.convert(mode)
    # A copy, because what PIL lends cannot be written to, of which torch warns.
    array: Images = np.array(picture)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _from_16_bits(picture: Image.Image) -> Image.Image:
    """Bring levels of 0 to 65535 to 0 to 255, rounded; PIL would cut off all that is above 255."""
    levels = np.asarray(picture)
    if levels.min() < 0 or levels.max() > 65535:
        raise Unfit("has levels beyond 16 bits; save it with 8 or 16 bits a channel")
    return Image.fromarray(((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _upright(picture: Image.Image) -> Image.Image:
    """Do what PIL's exif_transpose does, but not its writing of metadata, which fails where they are odd."""
    turn = _turn(picture)
    return picture if turn is None else picture.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(picture.getexif().get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        # Odd metadata make no picture unreadable.
        return None


def _cut(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    longest = ELONGATED * min(width, height)
    if max(width, height) <= longest:
        return picture
    across, down = min(width, longest), min(height, longest)
    left, top = (width - across) // 2, (height - down) // 2
    return picture.crop((left, top, left + across, top + down))


def _resized(levels: torch.Tensor, size: tuple[int, int]) -> Images:
    image: Images = resize(levels[None], size)[0].numpy()
    return image
