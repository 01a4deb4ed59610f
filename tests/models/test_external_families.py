"""Names with a colon: a family and its member."""

import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.models import build_model, output_shapes
from kdzoo.models.base import Family, find_model, model_origin, names_in_file
from kdzoo.provenance import plug_in
from kdzoo.registry import MODELS


class Stray(Family):
    """Widths of a single layer."""

    example = "stray:3"
    where = "any number"

    def __init__(self, member):
        self.width = int(member)

    @classmethod
    def members(cls):
        return ["1", "2", "3"]

    def build(self, num_classes, channels, size, *, bias: bool = True):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, num_classes, bias=bias))

    def origin(self, options):
        return {"weights": self.width} if options["bias"] else {}


@pytest.fixture
def stray():
    MODELS.register("stray")(Stray)
    yield
    MODELS._module_dict.pop("stray")


def test_a_family_and_its_options_are_found_by_name(stray):
    network = build_model("stray:2", num_classes=3, channels=1, size=4, options={"bias": "false"})
    assert network[1].bias is None
    with pytest.raises(
        UsageError, match=r"^model stray:2: there is no option 'biass'\. Did you mean 'bias'\?$"
    ):
        build_model("stray:2", num_classes=3, channels=1, size=4, options={"biass": "false"})


@pytest.mark.parametrize("name", ["timm", "timm:", "torchvision", "module"])
def test_a_family_alone_says_how_to_write_a_member(name):
    family = name.rstrip(":")
    with pytest.raises(UsageError, match=rf"^model '{name}': .* for example '{family}:\w[\w.]+'\.$"):
        find_model(name)


def test_what_is_no_family_has_no_members():
    with pytest.raises(
        UsageError, match=r"^model 'lenet5:a': 'lenet5' has no members\. Write 'lenet5' alone"
    ):
        find_model("lenet5:a")
    with pytest.raises(UsageError, match=r"there is no model 'tim'\. Did you mean 'timm'\?"):
        find_model("tim:resnet18")
    with pytest.raises(UsageError, match="model must be a name, got 3"):
        find_model(3)


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_an_unknown_member_has_its_nearest_matches(family):
    with pytest.raises(UsageError, match=rf"^model {family}: there is no network 'resnet81'\. .*'resnet\d+'"):
        find_model(f"{family}:resnet81")
    with pytest.raises(UsageError, match=r"There are [\d,]+, and none is near\.$"):
        find_model(f"{family}:###")


def test_origin_tells_what_a_name_and_options_do_not(stray):
    assert model_origin("lenet5", {}) == {}
    file = plug_in(Stray)
    assert model_origin("stray:2", {"bias": "false"}) == {"plug_in": file}
    assert model_origin("stray:2", {}) == {"plug_in": file, "weights": 2}


def test_a_checkpoint_of_the_bare_network_gets_our_names():
    network = build_model("module:toynets.Plain", num_classes=3, channels=3, size=16)
    bare, own = network.network.state_dict(), network.state_dict()
    assert bare.keys() != own.keys()
    assert names_in_file(network, bare) == dict(zip(own, bare, strict=True))
    assert names_in_file(network, own) == {name: name for name in own}


def test_a_network_that_needs_numbers_is_planned_on_the_cpu_and_draws_nothing():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = build_model("module:toynets.Numbers", num_classes=3, channels=1, size=16)
        shapes = output_shapes(network, 1, 16)
    assert torch.equal(torch.get_rng_state(), before)
    assert next(network.parameters()).device.type == "cpu"
    assert shapes.logits == (3,)
    real = build_model("module:toynets.Numbers", num_classes=3, channels=1, size=16)
    assert not torch.equal(torch.get_rng_state(), before)
    assert output_shapes(real, 1, 16) == shapes
