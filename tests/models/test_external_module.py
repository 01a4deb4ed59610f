"""Anything that can be imported: how it is found, called and told when it fails."""

import sys

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.models import build_model
from kdzoo.models.base import find_model, model_origin
from kdzoo.registry import plug_in

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = torch.nn.Linear(3, num_classes)
    def forward(self, images):
        return self.fc(images.mean(dim=(2, 3)))
"""


def build(name, channels=3, classes=4, size=32, **options):
    return build_model(f"module:{name}", num_classes=classes, channels=channels, size=size, options=options)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory that is not on the path, as for a script that is installed elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    return tmp_path


def test_sizes_go_in_by_the_names_that_the_signature_has():
    network = build("toynets.ConvHead", channels=2, size=20).network
    assert network.size == 20
    assert network.body[0].in_channels == 2
    assert build("toynets.Plain", channels=1).network.stem[0].in_channels == 1


def test_arguments_go_in_as_python_writes_them():
    assert build("toynets.Plain", arguments="width=6").network.head.in_features == 12
    assert (
        build("toynets.built", arguments="classes=4, in_chans=2", channels=2).network.head.out_features == 4
    )
    assert build("toynets.Answering", arguments="how=dict").network.how == "dict"
    assert build("toynets.Answering", arguments="how='dict'").network.how == "dict"


@pytest.mark.parametrize("text", ["width", "width=", "width=1+f(2)", "a=1)(b=2", "**x", "1"])
def test_arguments_of_another_form_are_refused(text):
    with pytest.raises(UsageError, match=r"arguments must be name=value,name=value, got ") as error:
        build("toynets.Plain", arguments=text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Net", "must say where it is, as module:package.module.Name does"),
        ("toynet.Plain", "there is no module 'toynet'. Did you mean 'toynets'"),
        ("torch.nm.Linear", "there is no module in torch 'nm'. Did you mean"),
        ("toynets.Plane", "there is no class or function in toynets 'Plane'. Did you mean 'Plain'"),
        ("toynets.constant", "constant must be a class or a function, got 3"),
        ("toynets.partly", "partly must be a class or a function, got functools.partial("),
    ],
)
def test_wrong_places_have_their_nearest_matches(name, message):
    with pytest.raises(UsageError) as error:
        find_model(f"module:{name}")
    assert str(error.value).startswith(f"model module:{name}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Failing", {}, "Failing(num_classes=4) failed: ZeroDivisionError: a fault of this code."),
        ("Failing", {"arguments": "where=forward"}, "take 32x32 images of 3 channels: KeyError: 'missing'."),
        ("Plain", {"arguments": "depth=3"}, "Plain(num_classes=4, in_chans=3, depth=3) failed: TypeError: "),
        ("number", {}, "must give a torch.nn.Module, got int."),
        ("built", {}, "its logits must be [N, 4], got (1, 10) for one image. Let it take num_classes"),
        ("Answering", {"arguments": "how=text"}, "TypeError: a network must return logits, a tuple that"),
    ],
)  # fmt: skip
def test_faults_of_the_code_are_told_in_a_line_with_its_name(name, options, message):
    with pytest.raises(UsageError) as error, torch.device("meta"):
        build(f"toynets.{name}", **options)
    assert str(error.value).startswith(f"model module:toynets.{name}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_in_the_current_directory_is_found(here):
    (here / "net_in_cwd.py").write_text(NET)
    assert build("net_in_cwd.Net")(torch.zeros(2, 3, 32, 32)).logits.shape == (2, 4)


def test_code_that_cannot_be_imported_is_told_in_a_line(here):
    (here / "net_broken.py").write_text("import torch\n1 / 0\n")
    with pytest.raises(
        UsageError, match=r"net_broken cannot be imported: ZeroDivisionError: division by zero"
    ):
        build("net_broken.Net")
    (here / "net_missing.py").write_text("import no_such_package_anywhere\n")
    with pytest.raises(
        UsageError, match=r"cannot be imported: ModuleNotFoundError: No module named 'no_such"
    ):
        build("net_missing.Net")


def test_its_file_decides_its_key(here):
    (here / "net_keyed.py").write_text(NET)
    origin = model_origin("module:net_keyed.Net", {})
    assert origin == {"plug_in": plug_in(sys.modules["net_keyed"].Net)}
    (here / "net_keyed.py").write_text(NET + "\n# changed\n")
    assert model_origin("module:net_keyed.Net", {}) != origin
