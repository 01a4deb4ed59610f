"""Views of single pictures: torchvision's distribution, drawn by keys that never meet."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from kdzoo.data import picture_views, pictures
from kdzoo.data import views as view
from kdzoo.data.picture_views import DRAWS, Drawn, Window, choose_window, draw_view, random_view
from kdzoo.data.pictures import decoded_upright, opened
from kdzoo.data.views import ViewParameters, Views
from kdzoo.keys import uniforms

SHAPES = [(90, 120), (64, 64), (200, 50), (30, 300)]
SIZE, SHORT = 28, 32


def torchvisions(scale: float, shape: tuple[int, int], count: int) -> list[Window]:
    transform, picture = v2.RandomResizedCrop(8, scale=(scale, 1.0)), torch.zeros(3, *shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [Window(**transform.make_params([picture])) for _ in range(count)]


def ours(scale: float, shape: tuple[int, int], count: int) -> list[Window]:
    return [choose_window(scale, *shape, drawn) for drawn in uniforms(7, range(count), DRAWS)]


@pytest.mark.parametrize("scale", [0.08, 0.6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows_are_distributed_as_torchvisions(shape: tuple[int, int], scale: float) -> None:
    one, other = (draw(scale, shape, 2000) for draw in (ours, torchvisions))
    facts: dict[str, Callable[[Window], float]] = {
        "area": lambda w: w.width * w.height,
        "ratio": lambda w: math.log(w.width / w.height),
        "top": lambda w: w.top / max(1, shape[0] - w.height),
        "left": lambda w: w.left / max(1, shape[1] - w.width),
    }
    for name, fact in facts.items():
        assert ks_2samp([fact(w) for w in one], [fact(w) for w in other]).pvalue > 1e-3, name


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (1, 50), (50, 1)], ids=str)
def test_windows_lie_in_the_picture(shape: tuple[int, int]) -> None:
    for window in ours(0.01, shape, 300):
        assert min(window.height, window.width) >= 1
        assert 0 <= window.top <= shape[0] - window.height
        assert 0 <= window.left <= shape[1] - window.width


@pytest.mark.parametrize("shape", [(200, 50), (30, 300), (60, 61)], ids=str)
def test_where_no_try_fits_the_centre_is_shown_as_torchvision_does(shape: tuple[int, int]) -> None:
    transform = v2.RandomResizedCrop(8, scale=(4.0, 4.0))
    expected = transform.make_params([torch.zeros(3, *shape)])
    assert choose_window(4.0, *shape, np.full(DRAWS, 0.5))._asdict() == expected


def test_keys_that_agree_in_32_bits_have_other_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's generator on the CPU is seeded by the low 32 bits alone."""

    def drawn(stream: int) -> Drawn:
        for module in (picture_views, view):
            monkeypatch.setattr(module, "key", lambda *place: stream)
        return draw_view(Views(rotation=9, flip=True, crop_padding=4), 0, 0, 3)

    one, other = drawn(5), drawn(5 + 2**32)
    assert not set(one.window) & set(other.window)
    assert one.moves.angle != other.moves.angle


def test_no_two_samples_of_many_share_a_draw() -> None:
    """Of 200,000 samples with 32 bits each, five pairs would."""
    rows = np.concatenate([uniforms(2**62 + 1, part, DRAWS) for part in np.split(np.arange(200_000), 20)])
    for column in (0, 1, DRAWS - 1):
        assert len(np.unique(rows[:, column])) == len(rows)


def test_a_view_is_of_its_seed_epoch_index_and_purpose() -> None:
    views = Views(crop_scale=0.5, flip=True)
    all_drawn = [draw_view(views, *place) for place in
                 ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, "a"))]  # fmt: skip
    assert len({float(d.window[0]) for d in all_drawn}) == 5
    np.testing.assert_array_equal(draw_view(views, 1, 0, 0).window, all_drawn[1].window)


def picture(array: np.ndarray, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    file.seek(0)
    return opened(file)


def padded(moves: ViewParameters) -> Callable[[torch.Tensor], torch.Tensor]:
    top, left = int(moves.top[0]), int(moves.left[0])
    return lambda image: v2.functional.crop(v2.Pad(3)(image), top, left, SIZE, SIZE)


MOVES = {
    "crop_padding": padded,
    "flip": lambda moves: v2.RandomHorizontalFlip(float(moves.flip[0])),
    "rotation": lambda moves: v2.RandomRotation((moves.angle[0], moves.angle[0])),
}


@pytest.mark.parametrize(
    "views", [Views(), Views(flip=True), Views(crop_padding=3), Views(rotation=20)], ids=lambda v: str(v)
)
def test_moves_are_torchvisions(views: Views, draw: Callable[..., np.ndarray]) -> None:
    array = draw(1, (50, 40))
    plain = v2.Compose([v2.Resize(SHORT, antialias=True), v2.CenterCrop(SIZE)])
    for index in range(6):
        drawn = draw_view(views, 0, 0, index)
        found = random_view(picture(array, "PNG"), views, drawn, size=SIZE, channels="rgb", short_side=SHORT)
        expected = plain(torch.from_numpy(array.transpose(2, 0, 1).copy()))
        for name, move in MOVES.items():
            if getattr(views, name):
                expected = move(drawn.moves)(expected)
        assert torch.equal(found, expected)


def smooth(height: int, width: int) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / 200), np.cos(across / 250), np.sin((down + 2 * across) / 400)]
    return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, exif = smooth(700, 900), Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    views, sizes = Views(crop_scale=0.5), []
    real = pictures.pixels
    monkeypatch.setattr(pictures, "pixels", lambda p, c: (sizes.append(p.size), real(p, c))[1])
    for index in range(4):
        drawn = draw_view(views, 0, 0, index)
        small, whole = (
            random_view(picture(array, kind, quality=95, exif=exif), views, drawn, size=32, channels="rgb",
                        short_side=36)
            for kind in ("JPEG", "PNG")
        )  # fmt: skip
        assert (small.float() - whole.float()).abs().mean() < 3
    assert all(max(size) <= 450 for size in sizes[::2])
    assert all(max(size) == 900 for size in sizes[1::2])


def test_what_is_shown_of_a_jpeg_has_twice_the_pixels_that_it_needs() -> None:
    views = Views(crop_scale=0.08)
    for index in range(30):
        drawn = draw_view(views, 0, 0, index)
        jpeg = picture(smooth(600, 600), "JPEG")
        random_view(jpeg, views, drawn, size=32, channels="rgb", short_side=36)
        window = choose_window(0.08, 600, 600, drawn.window)
        shown = min(window.height, window.width) * jpeg.size[0] / 600
        assert shown >= 63 or jpeg.size == (600, 600)


def test_large_pictures_are_decoded_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    class Lock:
        def __enter__(self) -> None:
            held.append("taken")

        def __exit__(self, *fault: object) -> None:
            held.append("given back")

    monkeypatch.setattr(pictures, "LARGE", 100)
    monkeypatch.setattr(pictures, "_one_large_at_a_time", None)
    pictures.take_turns(Lock())
    views = Views(crop_scale=0.5)
    drawn = draw_view(views, 0, 0, 0)
    real = v2.functional.resized_crop

    def crop(*given: object, **options: object) -> torch.Tensor:
        # The whole picture is there until it was cut.
        assert held == ["taken"]
        return real(*given, **options)

    monkeypatch.setattr(v2.functional, "resized_crop", crop)
    random_view(picture(smooth(20, 30), "PNG"), views, drawn, size=8, channels="rgb", short_side=9)
    assert held == ["taken", "given back"]
    with decoded_upright(picture(smooth(9, 9), "PNG"), "rgb", (9, 9)):
        assert len(held) == 2
