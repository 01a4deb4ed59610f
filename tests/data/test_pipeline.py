from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kdzoo.checks import UsageError
from kdzoo.data import views as view
from kdzoo.data.order import epoch_order
from kdzoo.data.pipeline import Pipeline
from kdzoo.data.views import Views

COUNT = 53
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 12, 12), np.uint8)
LABELS = np.arange(COUNT, dtype=np.int64) % 7
ALL = Views(resize=16, crop_padding=2, flip=True, rotation=15)


def pipeline(**changed: Any) -> Pipeline:
    settings = {"views": ALL, "mean": (0.5,), "std": (0.25,), "batch_size": 8, "seed": 0, "device": "cpu"}
    return Pipeline(changed.pop("images", IMAGES), changed.pop("labels", LABELS), **(settings | changed))


def test_epoch_has_every_sample_once_and_a_last_short_batch() -> None:
    data = pipeline()
    assert (data.steps, len(data)) == (7, COUNT)
    batches = [data.batch(2, step) for step in range(data.steps)]
    assert [len(batch.labels) for batch in batches] == [8] * 6 + [5]
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == epoch_order(0, 2, COUNT).tolist()
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.from_numpy(LABELS)[indices])


def test_batch_has_the_shapes_and_types_of_the_contract() -> None:
    images, labels, indices = pipeline().batch(0, 0)
    assert (images.shape, images.dtype) == ((8, 1, 16, 16), torch.float32)
    assert labels.dtype == indices.dtype == torch.int64


def test_images_are_normalised_views_of_their_samples() -> None:
    data = pipeline()
    images, _, indices = data.batch(1, 3)
    resized = view.resize(torch.from_numpy(IMAGES), 16)
    seen = view.apply_views(resized[indices], view.draw_parameters(ALL, 0, 1, indices.numpy()))
    torch.testing.assert_close(images, (seen / 255 - 0.5) / 0.25)


def test_batch_is_a_pure_function_of_epoch_and_step() -> None:
    used, fresh = pipeline(), pipeline()
    for epoch, step in [(3, 1), (0, 6), (3, 1), (1, 0), (0, 0)]:
        used.batch(epoch, step)
    for mine, other in zip(used.batch(2, 4), fresh.batch(2, 4), strict=True):
        assert torch.equal(mine, other)


def test_order_is_made_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    data, epochs = pipeline(), []

    def counted(seed: int, epoch: int, count: int) -> Any:
        epochs.append(epoch)
        return epoch_order(seed, epoch, count)

    monkeypatch.setattr("kdzoo.data.pipeline.epoch_order", counted)
    for epoch in (0, 1, 2):
        for step in range(data.steps):
            data.batch(epoch, step)
    assert epochs == [1, 2]


def test_view_of_a_sample_does_not_depend_on_the_batch_size() -> None:
    def images(batch_size: int) -> torch.Tensor:
        data = pipeline(batch_size=batch_size)
        return torch.cat([data.batch(1, step).images for step in range(data.steps)])

    assert torch.equal(images(8), images(COUNT))
    assert torch.equal(images(1), images(1000))


def test_seed_zero_epoch_one_is_not_seed_one_epoch_zero() -> None:
    first, second = pipeline(seed=0).batch(1, 0), pipeline(seed=1).batch(0, 0)
    assert first.indices.tolist() != second.indices.tolist()
    one = pipeline(seed=0).augmented([4], purpose="a", epoch=1)
    assert not torch.equal(one, pipeline(seed=1).augmented([4], purpose="a", epoch=0))


def test_writing_into_a_batch_changes_no_other() -> None:
    data, plain = pipeline(), pipeline(views=Views())
    for each in (data, plain):
        for tensor in each.batch(0, 0):
            tensor.zero_()
    for each, fresh in ((data, pipeline()), (plain, pipeline(views=Views()))):
        for mine, other in zip(each.batch(0, 0), fresh.batch(0, 0), strict=True):
            assert torch.equal(mine, other)
    assert LABELS.any()


@pytest.mark.parametrize("views", [ALL, Views()])
def test_batch_makes_its_views_in_one_call(monkeypatch: pytest.MonkeyPatch, views: Views) -> None:
    calls, real = [], view.apply_views

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(len(arguments[0]))
        return real(*arguments)

    monkeypatch.setattr(view, "apply_views", counted)
    pipeline(views=views).batch(0, 6)
    assert calls == [5]


def test_images_stay_bytes() -> None:
    data = pipeline()
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (COUNT, 1, 16, 16)
    assert not [
        n
        for n, v in vars(data).items()
        if isinstance(v, torch.Tensor) and v.is_floating_point() and v.numel() > 1
    ]


def test_images_that_cannot_be_written_to_are_taken() -> None:
    locked = IMAGES.copy()
    locked.setflags(write=False)
    assert torch.equal(pipeline(images=locked).images, pipeline().images)


def test_clean_images_and_chunks_have_no_random_views() -> None:
    data = pipeline()
    resized = (view.resize(torch.from_numpy(IMAGES), 16) / 255 - 0.5) / 0.25
    torch.testing.assert_close(data.clean([5, 0, 52]), resized[[5, 0, 52]])
    images, labels = zip(*data.chunks(10), strict=True)
    assert [len(part) for part in images] == [10] * 5 + [3]
    torch.testing.assert_close(torch.cat(images), resized)
    assert torch.equal(torch.cat(labels), torch.from_numpy(LABELS))


def test_augmented_views_are_others_for_each_purpose_and_epoch() -> None:
    data, chosen = pipeline(), np.arange(COUNT)
    kinds = [("embedding", 0), ("embedding", 1), ("bank", 0), ("views", 0)]
    drawn = [data.augmented(chosen, purpose=purpose, epoch=epoch) for purpose, epoch in kinds]
    trained = data.augmented(chosen, purpose="embedding", epoch=0)
    assert torch.equal(drawn[0], trained)
    order = np.argsort(epoch_order(0, 0, COUNT))
    drawn.append(torch.cat([data.batch(0, step).images for step in range(data.steps)])[order])
    for position, first in enumerate(drawn):
        assert not any(torch.equal(first, second) for second in drawn[position + 1 :])
    assert torch.equal(drawn[0][[9, 3]], data.augmented([9, 3], purpose="embedding", epoch=0))


def test_step_that_an_epoch_does_not_have_is_an_error() -> None:
    for step in (-1, 7):
        with pytest.raises(IndexError, match=f"step {step} of an epoch of 7"):
            pipeline().batch(0, step)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"batch_size": 0}, "batch size must be an integer"),
        ({"labels": LABELS[:-1]}, "as many, 1 or more, got \\(53, 52\\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "as many, 1 or more, got \\(0, 0\\)"),
        ({"images": IMAGES / 255}, "images must be uint8 of shape"),
        ({"mean": (0.5, 0.5)}, "mean and std must be 1 numbers each"),
    ],
)
def test_numbers_that_do_not_fit_are_answered(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        pipeline(**changed)


def test_batch_never_waits_for_a_cuda_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        data = pipeline(device="cuda")
        images, labels, indices = data.batch(0, 6)
        assert images.shape == (5, 1, 16, 16)
        assert {images.device.type, labels.device.type, indices.device.type} == {"cuda"}
