"""Where stages and classifiers are found, on networks whose stages are plain to see."""

import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.models import build_model, output_shapes
from kdzoo.models.external_trunk import hooked

TORCHVISION = {
    "densenet121": ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features.norm5"],
    "mobilenet_v2": ["features.3", "features.6", "features.13", "features.18"],
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "shufflenet_v2_x0_5": ["stage2", "stage3", "conv5"],
    "squeezenet1_1": ["features.4", "features.7", "features.12"],
    "swin_t": ["features.1", "features.3", "features.5", "permute"],
    "vgg11_bn": ["features.6", "features.13", "features.20", "features.27"],
    "vit_b_16": None,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_stages_of_torchvision_are_those_of_its_papers(name):
    with torch.device("meta"):
        network = build_model(f"torchvision:{name}", num_classes=10, channels=3, size=64)
    assert (network.taps and [tap.name for tap in network.taps]) == TORCHVISION[name]


def found(network, **options):
    return hooked("model x", network, 4, 3, 32, **options)


def names(network, **options):
    return [tap.name for tap in found(network, **options).taps or ()]


class Block(nn.Module):
    """Squeeze and excitation around a convolution: one pixel inside a block is no stage."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.wide = nn.Conv2d(inputs, 2 * inputs, 1)
        self.conv = nn.Conv2d(2 * inputs, outputs, 3, stride=stride, padding=1)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, outputs, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(self.wide(x).relu())
        return x * self.squeeze(x)


def classified(*body):
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_what_happens_inside_a_block_is_no_stage():
    assert names(classified(Block(3, 8, 1), Block(8, 8, 2), Block(8, 8, 2))) == ["0", "1", "2"]


def test_a_container_of_several_sizes_is_looked_into():
    body = nn.Sequential(Block(3, 8, 2), Block(8, 8, 1), nn.Sequential(Block(8, 8, 2), Block(8, 8, 2)))
    assert names(classified(body)) == ["0.1", "0.2.0", "0.2.1"]


def test_the_four_coarsest_are_taken():
    assert names(classified(Block(3, 8, 1), *(Block(8, 8, 2) for _ in range(4)))) == ["1", "2", "3", "4"]


def test_pooling_dropout_and_a_stem_are_no_stages():
    stem = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2)]
    body = [Block(8, 8, 1), nn.Dropout(), nn.MaxPool2d(2), Block(8, 8, 1)]
    assert names(classified(*stem, *body)) == ["3", "6"]
    # A first convolution that leaves the size alone is what LeNet's is: a stage.
    assert names(classified(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), Block(8, 8, 1))) == ["0", "2"]


def test_what_follows_global_pooling_or_the_classifier_is_no_stage():
    head = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 4)]
    assert names(nn.Sequential(Block(3, 8, 1), Block(8, 8, 2), *head)) == ["0", "1"]
    conv = [nn.Conv2d(8, 4, 1, stride=2), nn.Hardtanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = found(nn.Sequential(Block(3, 8, 1), Block(8, 8, 2), nn.Sequential(*conv)))
    assert [tap.name for tap in network.taps] == ["0", "1"]
    assert network.heads == ("2.0",)


def test_one_size_alone_makes_no_stages():
    assert found(classified(Block(3, 8, 1), Block(8, 8, 1))).taps is None


def test_attention_weights_are_no_map():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.softmax = nn.Softmax(dim=-1)

        def forward(self, x):
            weights = self.softmax((x.mT @ x)[:, None])
            return x @ weights[:, 0]

    patches = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2))
    tokens = nn.Sequential(Attention(), Attention())
    network = nn.Sequential(patches, tokens, nn.Flatten(), nn.Linear(8 * 64, 4))
    assert found(network).taps is None


def test_a_module_that_is_called_twice_is_not_taken():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.relu, self.pool, self.fc = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(8 * 64, 4)

        def forward(self, x):
            x = self.pool(self.relu(self.first(x)))
            return self.fc(self.pool(self.relu(self.second(x))).flatten(1))

    assert names(Shared()) == ["first", "second"]


def test_maps_with_channels_last_are_told_by_their_shapes():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            # 32 channels at 32 pixels look like both.
            self.fine, self.coarse, self.fc = nn.Linear(3, 32), nn.Linear(32, 6), nn.Linear(6, 4)

        def forward(self, x):
            x = self.coarse(self.fine(x.permute(0, 2, 3, 1))[:, ::2, ::2])
            return self.fc(x.mean(dim=(1, 2)))

    network = found(Last())
    assert [tap.nhwc for tap in network.taps] == [True, True]
    assert output_shapes(network, 3, 32).stages == ((32, 32, 32), (6, 16, 16))


def test_named_stages_and_embeddings_are_taken_as_they_are():
    network = classified(Block(3, 8, 1), Block(8, 8, 2))
    assert names(network, stages="0.wide, 1.conv") == ["0.wide", "1.conv"]
    assert found(network, stages="none")(torch.randn(2, 3, 32, 32)).stages is None
    by_output = found(network, embedding="1")
    assert by_output(torch.randn(2, 3, 32, 32)).embedding.shape == (2, 8)
    assert not hasattr(by_output, "classifier")
    assert found(network, classifier="4").heads == ("4",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "0.wid"}, r"no module for stages '0\.wid'\. Did you mean '0\.wide'"),
        ({"stages": "0,3"}, r"stage '3' must be a map \[N, C, H, W\], got \(1, 8\)"),
        ({"stages": "1,0"}, r"stages must go from fine to coarse, got \['1', '0'\]"),
        ({"classifier": "x"}, "no module for classifier 'x'"),
        ({"embedding": "1", "classifier": "4"}, "classifier and embedding are both given"),
    ],
)
def test_wrong_names_are_refused_in_a_line(options, message):
    with pytest.raises(UsageError, match=f"^model x: .*{message}") as error:
        found(classified(Block(3, 8, 1), Block(8, 8, 2)), **options)
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_run_cannot_be_named():
    network = classified(Block(3, 8, 1), Block(8, 8, 2))
    network.idle = nn.Identity()
    network.forward = lambda x: network[:5](x)
    with pytest.raises(UsageError, match="module 'idle' gives no tensor in a forward pass"):
        found(network, stages="0,idle")


def test_watching_leaves_the_network_as_it_was():
    network = classified(Block(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(inplace=True), Block(8, 8, 2)).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(2)
    position = torch.get_rng_state()
    found(network, stages="none", classifier="6")
    assert torch.equal(position, torch.get_rng_state())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    modes = {name: module.training for name, module in network.named_modules()}
    assert [name for name, training in modes.items() if not training] == ["1"]
    hooks = [m for m in network.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == [network[6]]
