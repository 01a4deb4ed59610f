"""Checkpoints of RepDistiller, mdistiller and their like load, every tensor into its right place."""

import argparse
import functools
import re
from pathlib import Path

import numpy as np
import publicnets
import pytest
import torch
from ownmodels import OWN
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.models import build_model, count_parameters
from kdzoo.models.base import _spelled, names_in_file
from kdzoo.training.artifacts import fitting_weights

FAMILIES = sorted(publicnets.NETWORKS)
# The smallest of each family and of each kind of block.
COMPARED = (
    "resnet8x4", "resnet14", "resnet18", "wrn_16_1", "wrn_16_2", "vgg8", "vgg11", "mobilenetv2",
    "shufflenetv1", "shufflenetv2",
)  # fmt: skip


def without_weights(name: str, **changes: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, **{"num_classes": 100, "channels": 3, "size": 32, **changes})


@functools.cache
def for_names(name: str) -> nn.Module:
    """Built once; not to be changed."""
    return without_weights(name)


def as_repdistiller(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """As its train_teacher.py saves in torch's old format, with a learning rate of numpy's."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.05, momentum=0.9)
    optimizer.param_groups[0]["lr"] = 0.05 * 0.1 ** np.sum(np.asarray([150, 180, 210]) < 240)
    content = {
        "epoch": 240,
        "model": tensors,
        "accuracy": torch.tensor([79.4]),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)


def expected_features(public: publicnets.Public, name: str) -> list[torch.Tensor]:
    preacts, feats = public.preacts, public.feats
    if name.startswith("vgg"):
        # At 32 pixels: no stage of the first block, and one of the last two.
        preacts, feats = [preacts[i] for i in (1, 2, 4)], [feats[i] for i in (1, 2, 4)]
    if name == "shufflenetv2":
        preacts = [publicnets.shuffled(p, 2) for p in preacts]
    return [public.logits, public.pooled, *preacts, *feats]


@pytest.mark.parametrize("name", COMPARED)
def test_network_is_the_public_one_with_a_public_checkpoint(name, tmp_path):
    file = publicnets.Checkpoint()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        public = publicnets.NETWORKS[name](file, images, 100)
        as_repdistiller(file.tensors, tmp_path / "ckpt_epoch_240.pth")
        network = without_weights(name)
        weights = fitting_weights(network, tmp_path / "ckpt_epoch_240.pth")
        assert list(weights) == list(network.state_dict())
        network.load_state_dict(weights, assign=True)
        output = network.double().eval()(images)
    got = [output.logits, output.embedding, *output.preactivations, *output.stages]
    torch.testing.assert_close(got, expected_features(public, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "size"), [("vgg8", 64), ("mobilenetv2", 64), ("resnet50", 16)])
def test_network_for_images_of_other_sizes_is_the_public_one(name, size):
    file = publicnets.Checkpoint()
    images = torch.randn(2, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        public = publicnets.NETWORKS[name](file, images, 7)
        network = without_weights(name, num_classes=7, channels=1, size=size)
        names = names_in_file(network, file.tensors)
        network.load_state_dict({n: file.tensors[theirs] for n, theirs in names.items()}, assign=True)
        output = network.double().eval()(images)
    torch.testing.assert_close(output.logits, public.logits, rtol=1e-9, atol=1e-9)
    # Of VGG's five blocks the last four are stages at 64 pixels.
    torch.testing.assert_close(list(output.preactivations), public.preacts[-4:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_has_its_public_name_and_shape(name):
    public = publicnets.listed(name)
    network = for_names(name)
    names = names_in_file(network, public)
    assert sorted(names.values()) == sorted(public)
    own = network.state_dict()
    assert {n: own[n].shape for n in own} == {n: public[theirs].shape for n, theirs in names.items()}
    # The same by a second count: the public network's trained numbers.
    trained = [t for n, t in public.items() if not n.endswith(("running_mean", "running_var", "tracked"))]
    assert count_parameters(network) == sum(t.numel() for t in trained)


def test_every_classifier_for_small_images_has_a_public_twin():
    assert set(OWN) - set(FAMILIES) == {"autoencoder", "lenet5"}


@pytest.mark.parametrize("name", ["resnet8x4", "resnet20", "resnet18", "resnet50"])
@pytest.mark.parametrize("downsample", ["downsample", "shortcut"])
@pytest.mark.parametrize("head", ["fc", "linear"])
def test_residual_networks_are_known_under_both_names_of_their_parts(name, downsample, head):
    file = publicnets.Checkpoint("meta")
    images = torch.empty(1, 3, 32, 32, device="meta")
    publicnets.NETWORKS[name](file, images, 100, downsample=downsample, head=head)
    assert {f"layer2.0.{downsample}.0.weight", f"{head}.weight"} <= set(file.tensors)
    assert set(names_in_file(for_names(name), file.tensors).values()) == set(file.tensors)


@pytest.mark.parametrize("name", OWN)
def test_our_own_names_come_first_and_no_two_tensors_share_a_public_one(name):
    network = for_names(name)
    own = list(network.state_dict())
    for given in (own, own[:1], [], ["something.else"]):
        assert names_in_file(network, given) == {n: n for n in own}
    for spelling in getattr(network, "spellings", ()):
        public = [_spelled(n, spelling) for n in own]
        assert not set(public) & set(own) - {"classifier.weight", "classifier.bias"}
        assert len(set(public)) == len(own)


@pytest.fixture(scope="module")
def small():
    """A checkpoint of a thin ResNet."""
    file = publicnets.Checkpoint()
    publicnets.NETWORKS["resnet8"](file, torch.zeros(1, 3, 8, 8, dtype=torch.float64), 100)
    return file.tensors


@pytest.mark.parametrize(
    "form",
    [
        lambda tensors: tensors,
        lambda tensors: {
            "model": tensors,
            "epoch": 239,
            "best_acc": 79.42,
            "optimizer": {"state": {}, "note": "sgd"},
        },
        lambda tensors: {"net": tensors, "acc": 93.0, "epoch": 199},
        lambda tensors: {"state_dict": tensors, "arch": "resnet8", "best_acc1": torch.tensor(70.0)},
        lambda tensors: {"model_state_dict": tensors, "loss": None},
        lambda tensors: {"state_dict": {"model": tensors}},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {**tensors, "epoch": 240, "best_acc": np.float64(79.42)},
        lambda tensors: {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")},
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_what_stands_beside_the_weights_does_not_disturb(small, tmp_path, form, old_format):
    path = tmp_path / "teacher.pth"
    torch.save(form(small), path, _use_new_zipfile_serialization=not old_format)
    network = without_weights("resnet8")
    weights = fitting_weights(network, path)
    names = names_in_file(network, small)
    assert {n for n in names if not n.endswith("num_batches_tracked")} <= set(weights) <= set(names)
    assert all(torch.equal(small[names[n]], tensor) for n, tensor in weights.items())


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_old_and_new_numpy_are_left_out(small, tmp_path, module):
    path = tmp_path / "teacher.pth"
    as_repdistiller(small, path)
    content = re.sub(rb"numpy\.(_core|core)\.multiarray", module, path.read_bytes())
    assert module in content
    path.write_bytes(content)
    assert len(fitting_weights(for_names("resnet8"), path)) == len(small)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (argparse.Namespace(model="resnet8"), "argparse.Namespace"),
        (np.zeros(3), "numpy._core.multiarray._reconstruct"),
        (nn.ReLU(), "torch.nn.modules.activation.ReLU"),
    ],
)
def test_anything_but_tensors_and_plain_values_is_refused_by_name(small, tmp_path, beside, named):
    path = tmp_path / "resnet8_last.pth"
    torch.save({"opt": beside, "model": small}, path)
    with pytest.raises(UsageError) as error:
        fitting_weights(for_names("resnet8"), path)
    if isinstance(beside, np.ndarray):  # numpy 1 calls the module numpy.core
        named = named.replace("_core", np.zeros(3).__reduce__()[0].__module__.split(".")[1])
    assert str(error.value) == (
        f"checkpoint {path}: must hold tensors alone (.safetensors, or a .pt that "
        f"torch.load(weights_only=True) accepts), but it cannot be read: it also holds {named}. "
        "Save the weights alone, torch.save(network.state_dict(), ...)."
    )


def test_numbers_of_numpy_are_no_weights(tmp_path):
    path = tmp_path / "teacher.pth"
    torch.save({"model": {"fc.weight": np.float64(1.0)}}, path)
    with pytest.raises(UsageError, match=r"must hold a dictionary of tensors by parameter name\.$"):
        fitting_weights(for_names("resnet8"), path)


def test_what_does_not_match_is_named_as_the_file_names_it(small, tmp_path):
    path = tmp_path / "teacher.pth"
    tensors = dict(small)
    del tensors["layer3.0.conv2.weight"], tensors["bn1.weight"]
    tensors["layer4.0.conv1.weight"] = torch.zeros(1)
    tensors["fc.weight"] = torch.zeros(10, 64)
    torch.save({"model": {f"module.{n}": t for n, t in tensors.items()}}, path)
    with pytest.raises(UsageError) as error:
        fitting_weights(for_names("resnet8"), path)
    assert str(error.value) == (
        f"--teacher-checkpoint: {path} does not fit the teacher's network: tensors 2 missing (bn1.weight, "
        "layer3.0.conv2.weight); 1 unknown (layer4.0.conv1.weight); 1 of another shape (fc.weight (10, 64) "
        "for (100, 64))."
    )


def test_one_tensor_under_two_names_is_not_taken_twice(small, tmp_path):
    path = tmp_path / "teacher.pth"
    torch.save(
        {**small, "linear.weight": small["fc.weight"] + 1, "stem.0.weight": small["conv1.weight"]}, path
    )
    with pytest.raises(UsageError, match=r"tensors 2 unknown \(linear\.weight, stem\.0\.weight\)\.$"):
        fitting_weights(for_names("resnet8"), path)


def test_a_checkpoint_of_another_network_says_so(small, tmp_path):
    path = tmp_path / "teacher.pth"
    torch.save(small, path)
    with pytest.raises(UsageError, match=r"\d+ missing \(.*\); \d+ unknown \(.*\)") as error:
        fitting_weights(for_names("wrn_16_2"), path)
    assert "\n" not in str(error.value)
