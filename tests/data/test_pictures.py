import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import v2

from kdzoo.data import pictures
from kdzoo.data.pictures import Unfit, fitted, opened, pixels, reason, strict

Draw = Callable[..., np.ndarray]


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


def again(picture: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """A picture as it comes out of a file."""
    return opened(saved(picture, kind, **options))


# One colour in every mode that a file can have: red at half opacity, or a grey level.
def uniform(mode: str, *colour: Any) -> Image.Image:
    return Image.new(mode, (8, 8), colour if len(colour) > 1 else colour[0])


def palette(transparent: bool) -> Image.Image:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    if transparent:
        picture.info["transparency"] = bytes([0, 128])
    return picture


def sixteen(level: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), level, np.uint16))


# name: picture, format, what RGB and grey pixels must be
MODES = {
    "grey": (uniform("L", 77), "PNG", (77, 77, 77), 77),
    "grey JPEG": (uniform("L", 77), "JPEG", (77, 77, 77), 77),
    "1 bit": (uniform("1", 1), "PNG", (255, 255, 255), 255),
    "16 bits": (sixteen(40_000), "PNG", (156, 156, 156), 156),
    "16 bits, light": (sixteen(65_535), "PNG", (255, 255, 255), 255),
    "16 bits, dark": (sixteen(128), "PNG", (0, 0, 0), 0),
    "16 bits TIFF": (sixteen(40_000), "TIFF", (156, 156, 156), 156),
    "16 bits PGM": (uniform("I", 40_000), "PPM", (156, 156, 156), 156),
    "RGB": (uniform("RGB", 200, 100, 50), "PNG", (200, 100, 50), 124),
    "RGB BMP": (uniform("RGB", 200, 100, 50), "BMP", (200, 100, 50), 124),
    "RGB WebP": (uniform("RGB", 0, 0, 255), "WEBP", (0, 0, 255), 29),
    "RGB GIF": (uniform("RGB", 200, 100, 50), "GIF", (200, 100, 50), 124),
    "palette": (palette(False), "PNG", (200, 100, 50), 124),
    "palette, transparent": (palette(True), "PNG", (227, 177, 152), 189),
    "RGBA": (uniform("RGBA", 200, 100, 50, 128), "PNG", (227, 177, 152), 189),
    "RGBA, invisible": (uniform("RGBA", 200, 100, 50, 0), "PNG", (255, 255, 255), 255),
    "LA": (uniform("LA", 100, 128), "PNG", (177, 177, 177), 177),
    "CMYK": (uniform("CMYK", 0, 255, 255, 0), "TIFF", (255, 0, 0), 76),
    "YCbCr": (uniform("YCbCr", 77, 128, 128), "JPEG", (77, 77, 77), 77),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_colour_or_grey(name: str) -> None:
    picture, kind, colour, grey = MODES[name]
    rgb = pixels(again(picture, kind), "rgb")
    assert (rgb.shape, rgb.dtype, rgb.flags.writeable) == ((3, 8, 8), np.uint8, True)
    assert np.abs(rgb.astype(int) - np.reshape(colour, (3, 1, 1))).max() <= (4 if kind == "WEBP" else 1)
    level = pixels(again(picture, kind), "grey")
    assert level.shape == (1, 8, 8)
    assert np.abs(level.astype(int) - grey).max() <= (4 if kind == "WEBP" else 1)


def test_16_bits_are_rounded_to_8() -> None:
    levels = np.array([[0, 128, 129, 385, 386, 500, 65_406, 65_407, 65_535]], np.uint16)
    found = pixels(again(Image.fromarray(levels)), "grey")
    assert found.ravel().tolist() == [0, 0, 1, 1, 2, 2, 254, 255, 255] == np.rint(levels / 257)[0].tolist()


def test_a_colour_that_stands_for_transparency_is_white() -> None:
    picture = again(uniform("RGB", 1, 2, 3), transparency=(1, 2, 3))
    assert picture.mode == "RGB"
    assert pixels(picture, "rgb").min() == 255
    assert pixels(again(uniform("L", 9), transparency=9), "rgb").min() == 255


def test_premultiplied_alpha_is_understood() -> None:
    for mode, plain in (("RGBa", "RGBA"), ("La", "LA")):
        picture = uniform(plain, *([100, 128] if plain == "LA" else [200, 100, 50, 128]))
        near = pixels(picture.convert(mode), "rgb").astype(int) - pixels(picture, "rgb")
        assert np.abs(near).max() <= 1


def test_levels_that_fit_no_8_bits_are_refused() -> None:
    floats = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    with pytest.raises(Unfit, match="floating-point levels; save it with 8 or 16 bits"):
        pixels(again(floats, "TIFF"), "rgb")
    for level in (70_000, -1):
        with pytest.raises(Unfit, match="beyond 16 bits"):
            pixels(again(Image.fromarray(np.full((8, 8), level, np.int32)), "TIFF"), "rgb")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(draw: Draw, orientation: int, kind: str) -> None:
    if kind == "JPEG" or kind == "WEBP":
        # Large flat areas, which compression keeps.
        array = np.zeros((64, 96, 3), np.uint8)
        array[:32, :48] = 255
    else:
        array = draw(1, (64, 96))
    exif = Image.Exif()
    exif[0x0112] = orientation
    # A size that leaves a JPEG at its own.
    file = saved(Image.fromarray(array), kind, exif=exif)
    found = fitted(opened(file), size=64, fit="squash")
    plain = ImageOps.exif_transpose(Image.open(file))
    expected = fitted(plain, size=64, fit="squash")
    np.testing.assert_array_equal(found, expected)
    turned = fitted(Image.fromarray(np.asarray(Image.open(saved(Image.fromarray(array), kind)))), size=64,
                    fit="squash")  # fmt: skip
    assert (found != turned).any() == (orientation != 1)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\x08\0\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"]
)
def test_odd_metadata_make_no_picture_unreadable(exif: bytes) -> None:
    with strict():
        found = fitted(again(uniform("RGB", 9, 9, 9), "JPEG", exif=exif), size=8)
    assert np.abs(found.astype(int) - 9).max() <= 1


@pytest.mark.parametrize("shape", [(64, 64), (50, 90), (91, 50), (32, 40), (13, 200), (3, 40)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_crop_is_what_torchvision_resizes_and_crops(draw: Draw, shape: tuple[int, int], mode: str) -> None:
    picture = Image.fromarray(draw(2, shape)).convert(mode)
    found = fitted(picture, size=32, channels="rgb" if mode == "RGB" else "grey")
    reference = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])(picture)
    assert found.shape == ((3 if mode == "RGB" else 1), 32, 32)
    # Made smaller, torch and PIL round by a level or two apart; see kdzoo.data.views.resize.
    assert np.abs(found.astype(int) - reference.numpy()).max() <= 2


@pytest.mark.parametrize("shape", [(64, 64), (50, 90), (13, 200)])
def test_squash_is_what_torchvision_resizes(draw: Draw, shape: tuple[int, int]) -> None:
    picture = Image.fromarray(draw(3, shape))
    found = fitted(picture, size=32, fit="squash")
    reference = v2.Compose([v2.Resize((32, 32)), v2.PILToTensor()])(picture)
    assert np.abs(found.astype(int) - reference.numpy()).max() <= 2


def test_an_image_of_the_size_is_left_as_it_is(draw: Draw) -> None:
    array = draw(4, (32, 32))
    for fit in ("crop", "squash"):
        np.testing.assert_array_equal(
            fitted(Image.fromarray(array), size=32, fit=fit), array.transpose(2, 0, 1)
        )


def test_a_strip_becomes_no_immense_picture(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resize = pictures.resize
    monkeypatch.setattr(pictures, "resize", lambda images, size: sizes.append(size) or resize(images, size))
    for shape in ((1, 60_000), (60_000, 1)):
        array = np.zeros((*shape, 3), np.uint8)
        array[shape[0] // 2 :, shape[1] // 2 :] = 255
        found = fitted(Image.fromarray(array), size=64)
        # The middle of the strip: dark before it, light behind it.
        assert found[0, 0, 0] < 4
        assert found[0, -1, -1] > 251
    assert max(max(size) for size in sizes) <= 64 * pictures.ELONGATED


def test_a_large_jpeg_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = np.linspace(0, 255, 1600 * 1200 * 3).reshape(1200, 1600, 3).astype(np.uint8)
    file = saved(Image.fromarray(gradient), "JPEG")
    picture = opened(file)
    found = fitted(picture, size=64)
    assert min(picture.size) == 150
    whole = fitted(Image.open(file).convert("RGB"), size=64)
    assert np.abs(found.astype(int) - whole).max() <= 4


def png(width: int, height: int) -> io.BytesIO:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    )


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
@pytest.mark.parametrize("size", [(9460, 9460), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_absurd_sizes_are_refused(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], limit: int | None
) -> None:
    """Below, PIL would warn; above twice as much, raise; without its limit, decode."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with strict(), pytest.raises(Unfit, match="claims more than 89,478,485 pixels"):
        opened(png(*size))
    with strict(), opened(png(9459, 9459)) as picture:
        assert picture.size == (9459, 9459)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"hello, world", "is no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture that can be read"),
        (saved(uniform("RGB", 1, 2, 3)).getvalue()[:20], "cannot be decoded: Truncated"),
        (saved(uniform("RGB", 1, 2, 3)).getvalue()[:50], "cannot be decoded: .*truncated"),
        (saved(Image.effect_noise((99, 99), 90), "JPEG").getvalue()[:-999], "cannot be decoded: .*truncated"),
        (png(64, 64).getvalue(), "cannot be decoded: .*truncated"),
    ],
    ids=["empty", "text", "PostScript", "header cut off", "PNG cut off", "JPEG cut off", "pixels missing"],
)
def test_what_cannot_be_read_is_told_in_a_few_words(content: bytes, told: str) -> None:
    words = "nothing"
    with strict():
        try:
            with opened(io.BytesIO(content)) as picture:
                fitted(picture, size=8)
        except Exception as error:
            words = reason(error)
    assert re.match(told, words), words
    assert len(words) < 110
    assert "\n" not in words


def test_the_words_of_any_error_are_short() -> None:
    assert reason(PermissionError(13, "Permission denied", "x")) == "cannot be decoded: Permission denied"
    assert reason(ValueError("many\nwords " * 100)) == f"cannot be decoded: {('many words ' * 100)[:80]}"
    assert reason(MemoryError()) == "cannot be decoded: MemoryError"


def test_warnings_of_a_bomb_are_errors_and_others_are_not_shown() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with strict(), pytest.raises(Image.DecompressionBombWarning):
            Image.open(png(9460, 9460))
        with strict():
            warnings.warn_explicit("odd metadata", UserWarning, "x", 1, module="PIL.TiffImagePlugin")
            warnings.warn_explicit("ours", UserWarning, "x", 1, module="kdzoo")
    assert [str(w.message) for w in seen] == ["ours"]


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch, draw: Draw) -> None:
    held = []
    monkeypatch.setattr(pictures, "LARGE", 32 * 32)

    class Lock:
        def __enter__(self) -> None:
            held.append(True)

        def __exit__(self, *_: object) -> None:
            held.append(False)

    monkeypatch.setattr(pictures, "_one_large_at_a_time", Lock())
    fitted(Image.fromarray(draw(1, (32, 32))), size=8)
    assert held == []
    fitted(Image.fromarray(draw(1, (32, 33))), size=8)
    assert held == [True, False]
