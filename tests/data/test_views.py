from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from kdzoo.checks import UsageError
from kdzoo.data import load_dataset
from kdzoo.data.views import ViewParameters, Views, apply_views, draw_parameters, normalise, resize

ALL = Views(crop_padding=4, flip=True, rotation=15)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Real images: Fashion-MNIST's where its package is installed, else digits."""
    installed = Path("/usr/share/datasets/fashion-mnist").is_dir()
    return torch.from_numpy(load_dataset("fashion_mnist" if installed else "digits").test.images[:299])


def marked(count: int, size: int) -> Tensor:
    """Images whose pixels all differ and are never 0, so that no wrong pixel goes unseen."""
    numbers = torch.arange(size * size).view(size, size) + 1
    image = torch.stack([numbers % 256, numbers // 256, torch.full_like(numbers, 7)]).to(torch.uint8)
    return image.expand(count, -1, -1, -1).contiguous()


def turned(angles: np.ndarray) -> ViewParameters:
    still = np.zeros(len(angles), np.int64)
    return ViewParameters(angles, still.astype(bool), still, still, 0)


def torchvision_views(images: Tensor, parameters: ViewParameters) -> Tensor:
    """The oracle: one sample after the other, one transform after the other."""
    height, width = images.shape[-2:]
    seen = []
    for image, angle, flip, top, left in zip(images, *parameters[:4], strict=True):
        padded = transforms.pad(image, [parameters.padding])
        view = transforms.crop(padded, int(top), int(left), height, width)
        view = transforms.hflip(view) if flip else view
        seen.append(transforms.rotate(view, float(angle), InterpolationMode.NEAREST))
    return torch.stack(seen)


def pixels_apart(first: Tensor, second: Tensor) -> Tensor:
    return (first != second).any(1).flatten(1).sum(1)


@pytest.mark.parametrize("views", [Views(crop_padding=4), Views(flip=True), Views(crop_padding=9, flip=True)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 11, 17)])
def test_crops_and_flips_equal_torchvision_exactly(views: Views, shape: tuple[int, int, int]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (200, *shape), np.uint8))
    parameters = draw_parameters(views, 0, 0, range(200))
    seen = apply_views(images, parameters)
    assert torch.equal(seen, torchvision_views(images, parameters))
    assert not torch.equal(seen, images)


@pytest.mark.parametrize("size", [28, 32, 64])
def test_rotations_differ_from_torchvision_in_two_pixels_at_most(size: int) -> None:
    """Measured: in 0, 1 and 12 of 1,200 images of 28, 32 and 64 pixels, turned by up to 15 degrees."""
    images = marked(400, size)
    for seed in range(2):
        parameters = draw_parameters(Views(rotation=15), seed, 0, range(400))
        apart = pixels_apart(apply_views(images, parameters), torchvision_views(images, parameters))
        assert apart.max() <= 2
        assert (apart > 0).sum() <= 8
    special = turned(
        np.array([-180, -90, -45, -15, -1e-3, 0, 1e-3, 5, 10, 15, 30, 45, 60, 90, 120, 180], float)
    )
    views = apply_views(images[:16], special)
    assert pixels_apart(views, torchvision_views(images[:16], special)).max() <= 2
    assert torch.equal(views[5], images[5])
    assert torch.equal(views[13], torch.rot90(images[13], 1, (1, 2)))


def test_rotations_of_images_that_are_not_square_equal_torchvision() -> None:
    images, parameters = marked(200, 40)[:, :, :23], draw_parameters(Views(rotation=180), 0, 0, range(200))
    assert pixels_apart(apply_views(images, parameters), torchvision_views(images, parameters)).max() <= 2


@pytest.mark.parametrize("size", [28, 32, 64])
def test_all_views_of_real_images_equal_torchvision(photographs: Tensor, size: int) -> None:
    """Rotation comes last: what the crop has cut off does not come back in the corners."""
    images = resize(photographs, size)
    parameters = draw_parameters(ALL, 0, 3, range(len(images)))
    apart = pixels_apart(apply_views(images, parameters), torchvision_views(images, parameters))
    assert apart.max() <= 2
    assert (apart > 0).float().mean() <= 0.02


def test_parameters_lie_in_their_ranges_and_fill_them() -> None:
    angle, flip, top, left, padding = draw_parameters(ALL, 0, 0, range(20_000))
    assert -15 <= angle.min() < -14.9
    assert 14.9 < angle.max() <= 15
    assert abs(angle.mean()) < 0.25
    assert abs(flip.mean() - 0.5) < 0.015
    for offset in (top, left):
        # 2222 each expected, standard deviation 44.
        assert np.bincount(offset, minlength=9).min() > 2000
        assert offset.max() == 8
    assert padding == 4
    assert abs(np.corrcoef([angle, flip, top, left]) - np.eye(4)).max() < 0.03


def test_view_that_is_off_leaves_the_draws_of_the_others() -> None:
    whole = draw_parameters(ALL, 0, 0, range(50))
    part = draw_parameters(Views(rotation=15), 0, 0, range(50))
    np.testing.assert_array_equal(part.angle, whole.angle)
    assert not part.flip.any()
    assert not part.top.any()


def test_view_depends_on_its_sample_alone(photographs: Tensor) -> None:
    """Bit for bit the same in whatever batch, alone, and in another order."""
    whole = apply_views(photographs, draw_parameters(ALL, 0, 5, range(len(photographs))))
    for chosen in ([17], [3, 250, 17], list(range(298, -1, -1)), list(range(100, 107))):
        alone = apply_views(photographs[chosen], draw_parameters(ALL, 0, 5, chosen))
        assert torch.equal(alone, whole[chosen])


def test_views_do_not_depend_on_threads(photographs: Tensor, one_thread: None) -> None:
    parameters = draw_parameters(ALL, 0, 0, range(len(photographs)))
    one = apply_views(photographs, parameters)
    torch.set_num_threads(2)
    assert torch.equal(one, apply_views(photographs, parameters))


def test_seeds_epochs_and_purposes_do_not_collide() -> None:
    places = [(s, e, p) for s in range(5) for e in range(5) for p in (None, "embedding", "order")]
    drawn = {draw_parameters(ALL, s, e, range(20), purpose=p).angle.tobytes() for s, e, p in places}
    assert len(drawn) == len(places)
    again = draw_parameters(ALL, 0, 1, range(20))
    np.testing.assert_array_equal(again.angle, draw_parameters(ALL, 0, 1, range(20)).angle)


def test_draws_touch_no_global_generator(photographs: Tensor) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    apply_views(photographs, draw_parameters(ALL, 0, 0, range(len(photographs))))
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


def test_views_leave_their_input_alone(photographs: Tensor) -> None:
    before = photographs.clone()
    apply_views(photographs, draw_parameters(ALL, 0, 0, range(len(photographs))))
    normalise(photographs, torch.zeros(1), torch.ones(1))
    assert torch.equal(before, photographs)


def test_views_that_are_off_cost_nothing(photographs: Tensor) -> None:
    assert apply_views(photographs, draw_parameters(Views(), 0, 0, range(299))) is photographs


class Seen(TorchDispatchMode):
    """The names of all operations, and whether a copy from the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.waiting = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        self.names.append(func.overloadpacket.__name__)
        if self.names[-1] == "_to_copy" and kwargs.get("device") is not None:
            self.waiting += args[0].device != kwargs["device"] and not kwargs.get("non_blocking", False)
        return func(*args, **kwargs)


def test_views_are_one_gather_whatever_the_batch_size() -> None:
    names = []
    for count in (2, 200):
        with Seen() as seen:
            apply_views(marked(count, 32), draw_parameters(ALL, 0, 0, range(count)))
        names.append(seen.names)
    assert names[0] == names[1]
    assert names[0].count("gather") == 1
    assert not {"index", "nonzero", "_local_scalar_dense", "grid_sampler_2d"} & set(names[0])


def test_views_never_wait_for_a_cuda_device() -> None:
    """Fake tensors hold no values, so that whatever asks a device for one raises."""
    with FakeTensorMode(allow_non_fake_inputs=True), Seen() as seen:
        images = torch.empty(6, 3, 32, 32, dtype=torch.uint8, device="cuda")
        views = apply_views(images, draw_parameters(ALL, 0, 0, range(6)))
        out = normalise(views, torch.empty(3, device="cuda"), torch.empty(3, device="cuda"))
        assert (out.device.type, out.dtype, out.shape) == ("cuda", torch.float32, (6, 3, 32, 32))
        assert seen.names.count("gather") == 1
        assert seen.waiting == 0
        with pytest.raises(DataDependentOutputException):
            views.max().item()


def test_resize_equals_pil_exactly_when_it_enlarges(photographs: Tensor) -> None:
    resized = resize(photographs, 32).numpy()
    for image, mine in zip(photographs.numpy(), resized, strict=True):
        pil = Image.fromarray(image[0]).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(mine[0], np.asarray(pil))


def test_resize_is_within_two_levels_of_pil_when_it_shrinks(photographs: Tensor) -> None:
    resized = resize(photographs, 20).numpy().astype(int)
    images = (Image.fromarray(i[0]).resize((20, 20), Image.Resampling.BILINEAR) for i in photographs.numpy())
    apart = np.abs(resized[:, 0] - np.stack([np.asarray(i) for i in images]))
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.04


def test_resize_goes_piece_by_piece_and_keeps_what_fits() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1030, 3, 6, 6), np.uint8))
    assert torch.equal(resize(images, 8)[1020:], resize(images[1020:], 8))
    assert resize(images, 6) is images


def test_normalise_equals_torchvision_exactly() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    mean, std = (0.507, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    expected = transforms.normalize(images.float() / 255, mean, std)
    assert torch.equal(normalise(images, torch.tensor(mean), torch.tensor(std)), expected)


def test_output_size() -> None:
    assert Views(resize=32).output_size(28) == 32
    assert Views(crop_padding=4).output_size(28) == 28


def test_options_may_be_texts_and_views_compare() -> None:
    assert Views(resize="32", crop_padding="4", flip="true", rotation="15") == Views(  # type: ignore[arg-type]
        resize=32, crop_padding=4, flip=True, rotation=15
    )


def test_wrong_options_are_told_at_once() -> None:
    with pytest.raises(UsageError) as told:
        Views(resize=0, crop_padding=-1, flip="maybe", rotation=181)  # type: ignore[arg-type]
    lines = str(told.value).splitlines()
    assert [line.split()[1] for line in lines] == ["resize", "crop_padding", "flip", "rotation"]
    assert lines[3] == "views: rotation must be a number in [0, 180], got 181."
    with pytest.raises(UsageError, match="rotation"):
        Views(rotation=float("nan"))
    with pytest.raises(UsageError, match="flip"):
        Views(flip=None)  # type: ignore[arg-type]
