"""torchvision's networks: what they give, and from which weights."""

import pytest
import torch
import torchvision
from torch import nn

from kdzoo.checks import KdzooError, UsageError
from kdzoo.models import build_model, count_parameters, flops
from kdzoo.models.base import model_origin

SMALL = "shufflenet_v2_x0_5"


def build(name, size=32, channels=3, classes=10, **options):
    return build_model(
        f"torchvision:{name}", num_classes=classes, channels=channels, size=size, options=options
    )


def images(size=32, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("squeezenet1_1", 48), ("vit_b_16", 32)])
def test_it_is_torchvisions_own_network(name, size):
    torch.manual_seed(0)
    network = build(name, size)
    torch.manual_seed(0)
    own = {"image_size": size} if name == "vit_b_16" else {}
    bare = torchvision.models.get_model(name, weights=None, num_classes=10, **own)
    assert all(torch.equal(v, network.network.state_dict()[n]) for n, v in bare.state_dict().items())
    with torch.no_grad():
        assert torch.equal(network.eval()(images(size)).logits, bare.eval()(images(size)))


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 80)])
def test_auxiliary_heads_are_off(name, size):
    with torch.device("meta"):
        network = build(name, size).train()
        output = network(torch.empty(2, 3, size, size))
    assert output.logits.shape == (2, 10)
    assert not any("aux" in key.lower() for key in network.state_dict())


def test_every_parameter_learns_and_nothing_is_infinite():
    network = build(SMALL).train()
    output = network(images())
    sum(t.square().mean() for t in (output.logits, output.embedding, *output.stages)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_parameters_and_products_are_the_published_ones():
    for name in ("resnet18", "vit_b_16"):
        meta = torchvision.models.get_model_weights(name).DEFAULT.meta
        with torch.device("meta"):
            network = build(name, 224, classes=1000)
        assert count_parameters(network) == meta["num_params"]
    real = build("vit_b_32", 64, classes=1000)
    # Four patches are embedded; then 12 layers of 5 tokens have four projections, attention and the MLP.
    tokens, width = 5, 768
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width
    # fvcore counts five for each number that a layer norm gives.
    norms = 25 * tokens * width * 5
    assert flops(real, 3, 64) == 4 * width * 3 * 32**2 + 12 * layer + norms + width * 1000


def test_other_channels_get_a_first_convolution_of_their_own():
    for name in ("resnet18", SMALL):
        network = build(name, channels=1)
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        assert first.in_channels == 1
        assert network(images(channels=1)).logits.shape == (2, 10)


def test_named_stages_override_those_that_are_found():
    network = build("resnet18", stages="layer1,layer2")
    assert [stage.shape[1] for stage in network(images()).stages] == [64, 128]
    assert build("resnet18", stages="none")(images()).stages is None
    with pytest.raises(UsageError, match=r"torchvision:resnet18: there is no module for stages 'layer9'"):
        build("resnet18", stages="layer9")


@pytest.mark.parametrize("name", ["inception_v3", "maxvit_t"])
def test_what_cannot_be_is_refused_in_a_line(name):
    message = f"^model torchvision:{name}: it cannot .* 32x32 images"
    with pytest.raises(UsageError, match=message) as error, torch.device("meta"):
        build(name)
    assert "\n" not in str(error.value)


def test_origin_names_the_weights_only_where_they_are_asked_for():
    assert model_origin("torchvision:resnet18", {"stages": "none"}) == {}
    assert model_origin("torchvision:resnet18", {"pretrained": "yes"}) == {
        "weights": {
            "name": "ResNet18_Weights.IMAGENET1K_V1",
            "from": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        }
    }


def published(name):
    """Give a network's weights as their file has them."""
    torch.manual_seed(9)
    if name == "googlenet":
        state = torchvision.models.googlenet(aux_logits=True, init_weights=False).state_dict()
        assert any(key.startswith("aux1.") for key in state)
    else:
        state = torchvision.models.get_model(name, weights=None).state_dict()
    if name == "densenet121":
        parts = ("norm1.", "conv1.", "norm2.", "conv2.")
        for part in parts:
            state = {
                key.replace(part, f"{part[:-2]}.{part[-2:]}") if "denselayer" in key else key: value
                for key, value in state.items()
            }
    return state


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Stand where torch.hub downloads a file: a real one; count how often."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked, states = [], {}

    def fetch(url, path, *arguments, **options):
        asked.append(url)
        torch.save(
            next(state for name, state in states.items() if name in url.replace("netv2", "net_v2")), path
        )

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    return asked, states


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("name", ["shufflenet_v2_x0", "googlenet", "densenet121"])
def test_published_weights_are_fetched_for_the_real_network_alone(download, name):
    asked, states = download
    member = SMALL if name.startswith("shuffle") else name
    state = states[name] = published(member)
    with torch.device("meta"):
        build(member, pretrained=True)
    assert asked == []
    network = build(member, pretrained=True)
    assert len(asked) == 1
    values = {tuple(v.shape): [w for w in state.values() if w.shape == v.shape] for v in state.values()}
    own = network.network.state_dict()
    made_anew = {
        key for key, value in own.items()
        if not any(torch.equal(value, other) for other in values.get(tuple(value.shape), ()))
    }  # fmt: skip
    assert made_anew == {f"{network.heads[0]}.weight", f"{network.heads[0]}.bias"}


def test_published_weights_keep_the_classifier_of_their_own_classes(download):
    _, states = download
    state = states["shufflenet_v2_x0"] = published(SMALL)
    own = build(SMALL, classes=1000, pretrained=True).network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())


def test_weights_that_do_not_fit_or_come_are_told_in_a_line(download, monkeypatch):
    _, states = download
    states["shufflenet_v2_x0"] = {"odd": torch.zeros(1)}
    with pytest.raises(
        KdzooError, match=r"its published weights .* cannot be loaded .*: ValueError: tens"
    ) as e:
        build(SMALL, pretrained=True)
    assert "\n" not in str(e.value)

    def fetch(url, *arguments, **options):
        raise OSError("no route to the server")

    monkeypatch.setenv("TORCH_HOME", "/nonexistent-torch-home")
    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    monkeypatch.setattr("os.makedirs", lambda *arguments, **options: None)
    with pytest.raises(
        KdzooError, match=rf"^model torchvision:{SMALL}: .* OSError: no route to the server\.$"
    ):
        build(SMALL, pretrained=True)


def test_a_hostile_file_of_weights_executes_nothing(download):
    class Hostile:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    _, states = download
    states["shufflenet_v2_x0"] = {"odd": Hostile()}
    with pytest.raises(KdzooError, match="cannot be loaded"):
        build(SMALL, pretrained=True)


def test_weights_for_other_images_are_refused_before_anything_is_fetched(download):
    with pytest.raises(UsageError, match=r"are for images of 3 channels, got 1\. Leave pretrained out"):
        build("resnet18", channels=1, pretrained=True)
    with pytest.raises(UsageError, match=r"are for images of 224 pixels, got 32\. Resize the images"):
        build("vit_b_16", pretrained=True)
    assert download[0] == []
