import pytest
import torch

from kdzoo.checks import UsageError, options_of
from kdzoo.models import build_model, count_parameters, flops, output_shapes
from kdzoo.registry import MODELS

EXPANSIONS = {"resnet18": 1, "resnet34": 1, "resnet50": 4, "resnet101": 4}
DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


@pytest.mark.parametrize(
    ("name", "num_classes", "channels", "size", "expected"),
    [
        ("resnet50", 100, 3, 32, 23_705_252),
        ("resnet18", 100, 3, 32, 11_220_132),
        ("resnet50", 200, 3, 64, 25_138_952),
        ("resnet18", 200, 3, 64, 11_578_632),
        ("resnet18", 10, 1, 32, 11_172_810),
    ],
)
def test_parameters_are_those_of_the_paper(name, num_classes, channels, size, expected):
    with torch.device("meta"):
        network = build_model(name, num_classes=num_classes, channels=channels, size=size)
    assert count_parameters(network) == expected


@pytest.mark.parametrize("name", EXPANSIONS)
def test_parameters_are_those_of_the_architecture_spelled_out(name):
    expansion, total, inputs = EXPANSIONS[name], 9 * 3 * 64 + 2 * 64, 64
    for stage, depth in enumerate(DEPTHS[name]):
        width = 64 * 2**stage
        for position in range(depth):
            if expansion == 1:
                total += 9 * inputs * width + 9 * width * width + 2 * 2 * width
            else:
                total += inputs * width + 9 * width * width + width * 4 * width + 2 * (2 * width + 4 * width)
            if position == 0 and (stage > 0 or inputs != width * expansion):
                total += inputs * width * expansion + 2 * width * expansion
            inputs = width * expansion
    total += inputs * 10 + 10
    with torch.device("meta"):
        assert count_parameters(build_model(name, num_classes=10, channels=3, size=32)) == total


@pytest.mark.parametrize(
    ("name", "num_classes", "channels", "expected"),
    [("resnet50", 100, 3, 1_304_879_104), ("resnet18", 10, 1, 555_471_872)],
)
def test_flops_are_those_that_the_paper_facts_state(name, num_classes, channels, expected):
    network = build_model(name, num_classes=num_classes, channels=channels, size=32)
    assert flops(network, channels, 32) == expected


@pytest.mark.parametrize(("name", "expansion"), EXPANSIONS.items())
def test_stages_halve_in_size_and_double_in_width(name, expansion):
    with torch.device("meta"):
        shapes = output_shapes(build_model(name, num_classes=7, channels=3, size=32), 3, 32)
    expected = tuple((64 * 2**i * expansion, 32 // 2**i, 32 // 2**i) for i in range(4))
    assert shapes.stages == shapes.preactivations == expected
    assert shapes.embedding == (512 * expansion,)
    assert shapes.logits == (7,)


@pytest.mark.parametrize(
    ("size", "head", "embedding"),
    [
        (64, "auto", 2048),
        (64, "pool4", 2048),
        (64, "global", 512),
        (32, "auto", 512),
        (28, "auto", 512),
        (25, "pool4", 512),
        (96, "auto", 512),
        (57, "pool4", 2048),
        (8, "global", 512),
    ],
)
def test_head_decides_what_is_left_of_the_last_map(size, head, embedding):
    with torch.device("meta"):
        network = build_model("resnet18", num_classes=5, channels=3, size=size, options={"head": head})
    assert network.classifier.in_features == embedding
    assert output_shapes(network, 3, size).embedding == (embedding,)


def test_all_heads_are_the_same_at_32_pixels():
    images, logits = torch.randn(2, 3, 32, 32), []
    for head in ("auto", "global", "pool4"):
        torch.manual_seed(0)
        network = build_model("resnet18", num_classes=5, channels=3, size=32, options={"head": head})
        with torch.no_grad():
            logits.append(network.eval()(images).logits)
    assert torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])


@pytest.mark.parametrize("name", EXPANSIONS)
def test_head_is_documented(name):
    options = options_of(MODELS.find(name))
    assert list(options) == ["head"]
    assert options["head"].accepted == "'auto' or 'global' or 'pool4'"
    assert "64 pixels" in options["head"].doc


@pytest.mark.parametrize(
    ("size", "head", "message"),
    [
        (7, "auto", "model resnet18: size must be at least 8, got 7."),
        (-1, "global", "model resnet18: size must be at least 8, got -1."),
        (24, "pool4", "model resnet18 with head 'pool4': size must be at least 25, got 24."),
        (32, "max", "model resnet18: head must be 'auto' or 'global' or 'pool4', got 'max'."),
    ],
)
def test_sizes_and_heads_that_cannot_be_are_refused(size, head, message):
    with pytest.raises(UsageError) as error:
        build_model("resnet18", num_classes=5, channels=3, size=size, options={"head": head})
    assert str(error.value) == message
    with pytest.raises(UsageError) as error:
        MODELS.find("resnet18")(5, 3, size, head=head)
    assert str(error.value) == message
