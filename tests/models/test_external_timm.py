"""timm's networks: what they give, from which weights, and what is said when they cannot be had."""

import pytest
import safetensors.torch
import timm
import torch

from kdzoo.checks import KdzooError, UsageError
from kdzoo.models import build_model, count_parameters, flops, output_shapes
from kdzoo.models.base import find_model, model_origin
from kdzoo.models.external_timm import stage_indices

SMALL = "mobilenetv3_small_050"


def build(name, size=32, channels=3, classes=10, **options):
    return build_model(f"timm:{name}", num_classes=classes, channels=channels, size=size, options=options)


def images(size=32, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


# Unlike ways to classify: linear, a 1x1 convolution, two heads, an MLP, branches, norm and linear, with aids.
HEADS = {
    "resnet18": (512, True),
    "resnetv2_18": (512, False),
    "deit_tiny_distilled_patch16_224": (384, False),
    "caformer_s18": (512, False),
    "efficientvim_m1": (960, False),
    "levit_128s": (768, False),
    "volo_d1_224": (384, False),
}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(v, other[n]) for n, v in state.items())


@pytest.mark.parametrize("name", [n for n in HEADS if n in timm.list_models()])
def test_it_is_timms_own_network_run_once(name):
    torch.manual_seed(0)
    network = build(name, 64)
    torch.manual_seed(0)
    try:
        bare = timm.create_model(name, num_classes=10, img_size=64)
    except TypeError:
        bare = timm.create_model(name, num_classes=10)
    assert same(bare.state_dict(), network.network.state_dict())
    width, linear = HEADS[name]
    assert hasattr(network, "classifier") == linear
    for training in (True, False):
        torch.manual_seed(1)
        output = network.train(training)(images(64))
        torch.manual_seed(1)
        assert torch.equal(bare.train(training)(images(64)), output.logits)
        # Statistics of batch norm have moved once.
        assert same(bare.state_dict(), network.network.state_dict())
        assert output.embedding.shape == (2, width)
        assert not linear or torch.equal(network.classifier(output.embedding), output.logits)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "xception41", "densenet121"])
def test_no_stage_is_written_into_later(name):
    network = build(name, 64).eval()
    if network.indices is None:
        pytest.skip("this version of timm offers no maps of it")
    with torch.no_grad():
        stages = network(images(64)).stages
        for stage, index in zip(stages, network.indices, strict=True):
            (alone,) = network.network.forward_intermediates(
                images(64), indices=[index], stop_early=True, intermediates_only=True
            )
            assert torch.equal(stage, alone)


def shapes(*sizes):
    return [torch.empty(1, 3, size, size, device="meta") for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "reductions", "expected"),
    [
        ((112, 56, 28, 14, 7), (2, 4, 8, 16, 32), [1, 2, 3, 4]),
        ((56, 28, 14, 7), (4, 8, 16, 32), [0, 1, 2, 3]),
        ((28, 28, 14, 14, 14), (8, 8, 16, 16, 16), [1, 4]),
        # Small images: the stem stays out, and stages of one pixel are one.
        ((4, 2, 1, 1, 1), (2, 4, 8, 16, 32), [1, 4]),
        ((14,) * 12, (16,) * 12, [2, 5, 8, 11]),
        ((14,) * 5, (16,) * 5, [0, 1, 2, 4]),
        ((14,) * 2, (16,) * 2, [0, 1]),
        # Where timm's words do not fit its maps, the maps count.
        ((8, 4, 4, 2), (4, 8), [0, 2, 3]),
        ((14,), (16,), None),
    ],
)
def test_stages_are_the_last_map_of_each_resolution_and_never_the_stem(sizes, reductions, expected):
    assert stage_indices(shapes(*sizes), reductions) == expected


def test_sizes_and_channels_are_the_images():
    network = build("vit_tiny_patch16_224", 48, channels=1)
    assert output_shapes(network, 1, 48).stages == ((192, 3, 3),) * 4
    assert build("resnet18", 48, channels=2)(images(48, 2)).logits.shape == (2, 10)


def test_parameters_and_products_are_the_published_ones():
    """Source: timm's results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv, to two digits."""
    for name, parameters, products in (("vit_tiny_patch16_224", 5.72, 1.26), ("resnet18", 11.69, 1.82)):
        network = build(name, 224, classes=1000)
        assert round(count_parameters(network) / 1e6, 2) == parameters
        assert round(flops(network, 3, 224) / 1e9, 2) == products


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "inception_v3",
            32,
            "it cannot take 32x32 images of 3 channels: RuntimeError: Calculated padded input",
        ),
        ("efficientformer_l1", 64, "it cannot take 64x64 images of 3 channels: RuntimeError: The size of"),
        ("mobilenetv5_300m_enc", 64, "it is no classifier. Choose another network."),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_at_planning_too(name, size, message):
    for device in ("meta", "cpu") if size < 64 else ("meta",):
        with pytest.raises(UsageError) as error, torch.device(device):
            build(name, size)
        assert str(error.value).startswith(f"model timm:{name}: {message}")
        assert str(error.value).endswith(("It is made for 299x299.", "for 224x224.", "another network."))
        assert "\n" not in str(error.value)


def test_published_weights_have_names():
    with pytest.raises(
        UsageError, match=r"model timm:resnet18: there is no set of published weights 'resnet18\.a9"
    ):
        find_model("timm:resnet18.a9_in1k")
    assert build("resnet18.a1_in1k").network.pretrained_cfg["tag"] == "a1_in1k"
    with pytest.raises(
        UsageError, match=r"timm:darknet17: timm has no published weights for it\. Leave pretr"
    ):
        build("darknet17", pretrained=True)


def test_origin_names_the_weights_only_where_they_are_asked_for():
    assert model_origin(f"timm:{SMALL}", {}) == {}
    found = {"weights": {"name": f"{SMALL}.lamb_in1k", "from": f"timm/{SMALL}.lamb_in1k"}}
    assert model_origin(f"timm:{SMALL}", {"pretrained": "true"}) == found
    assert model_origin(f"timm:{SMALL}.lamb_in1k", {"pretrained": True}) == found
    other = model_origin("timm:resnet18.a2_in1k", {"pretrained": True})
    assert other["weights"]["name"] == "resnet18.a2_in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Stand where timm asks the hub for a file: a real one of 1000 classes; count how often."""
    torch.manual_seed(9)
    state = timm.create_model(SMALL).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    asked = []

    def download(repo_id, filename, **options):
        asked.append(repo_id)
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return state, asked


def test_published_weights_are_fetched_for_the_real_network_alone(hub):
    state, asked = hub
    with torch.device("meta"):
        planned = build(SMALL, pretrained=True)
    build(SMALL)
    assert asked == []
    network = build(SMALL, pretrained=True)
    assert asked == [f"timm/{SMALL}.lamb_in1k"]
    own = network.network.state_dict()
    differing = {name for name, value in state.items() if not torch.equal(own[name], value)}
    assert differing == {"classifier.weight", "classifier.bias"}
    assert output_shapes(planned, 3, 32) == output_shapes(network, 3, 32)
    whole = build(SMALL, classes=1000, pretrained=True).network.state_dict()
    assert all(torch.equal(whole[name], value) for name, value in state.items())
    assert build(SMALL, channels=1, pretrained=True)(images(channels=1)).logits.isfinite().all()


def test_a_download_that_fails_is_told_in_a_line(monkeypatch):
    def download(repo_id, filename, **options):
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    with pytest.raises(KdzooError) as error:
        build(SMALL, pretrained=True)
    assert str(error.value) == (
        f"model timm:{SMALL}: its published weights {SMALL}.lamb_in1k cannot be loaded from "
        f"timm/{SMALL}.lamb_in1k: ConnectionError: no route to the hub."
    )
    assert not isinstance(error.value, UsageError)


def test_a_network_without_timms_interface_gives_logits_and_an_embedding(monkeypatch):
    monkeypatch.delattr("timm.models.resnet.ResNet.forward_intermediates")
    network = build("resnet18").eval()
    output = network(images())
    assert output.stages is None
    assert torch.equal(network.classifier(output.embedding), output.logits)
