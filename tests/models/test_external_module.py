"""Anything that can be imported: how it is found, called and told when it fails."""

import importlib
import os
import sys
from hashlib import sha256

import pytest
import torch

from kdzoo import provenance
from kdzoo.checks import UsageError
from kdzoo.models import build_model
from kdzoo.models.base import find_model, model_origin
from kdzoo.provenance import plug_in

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


@pytest.fixture
def fresh():
    """A function that takes modules away, as a new process has it."""

    def fresh(*names):
        for name in names:
            sys.modules.pop(name, None)

    return fresh


def origin(name="net_keyed.Net"):
    return model_origin(f"module:{name}", {})


def test_its_file_decides_its_key(here, fresh):
    (here / "net_keyed.py").write_text(NET)
    before = origin()
    assert before == {"plug_in": plug_in(sys.modules["net_keyed"].Net)}
    (here / "net_keyed.py").write_text(NET + "\n# changed\n")
    fresh("net_keyed")
    assert origin() != before


def test_a_file_that_was_changed_after_its_import_is_refused(here, fresh):
    """The loop of a notebook: the code that runs is the old one, and no record may say otherwise."""
    path = here / "net_edited.py"
    path.write_text(NET)
    before = origin("net_edited.Net")
    path.write_text(NET.replace("mean", "amax"))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"net_edited\.py: it was changed after .*\. Restart Python\.$"):
            origin("net_edited.Net")
    path.write_text(NET)
    assert origin("net_edited.Net") == before
    path.write_text(NET.replace("mean", "amax"))
    importlib.reload(sys.modules["net_edited"])
    assert origin("net_edited.Net") != before


def test_a_file_that_was_changed_before_the_zoo_saw_it_is_refused(here, monkeypatch):
    """Imported by the user's own code, tried out, changed, and only then named."""
    monkeypatch.syspath_prepend(here)
    path = here / "net_known.py"
    path.write_text(NET)
    importlib.import_module("net_known")
    path.write_text(NET.replace("mean", "amax"))
    with pytest.raises(UsageError, match=r"net_known\.py: it was changed after it was imported"):
        origin("net_known.Net")
    path.write_text(NET)
    (here / "net_unchanged.py").write_text(NET)
    importlib.import_module("net_unchanged")
    assert origin("net_unchanged.Net") == {"plug_in": sha256(NET.encode()).hexdigest()}


def test_what_it_imports_from_its_folder_decides_its_key(here, fresh):
    """And no more than that: not where the folder is, nor what else is in it."""
    names = ["net_pack", "net_pack.net", "net_pack.parts", "net_pack.parts.wide", "net_beside"]

    def write(folder, width, beside=0):
        (folder / "net_pack/parts").mkdir(parents=True, exist_ok=True)
        (folder / "net_pack/__init__.py").write_text("")
        (folder / "net_pack/parts/__init__.py").write_text("")
        (folder / "net_pack/parts/wide.py").write_text(f"WIDTH = {width}\n")
        (folder / "net_pack/unused.py").write_text(f"WIDTH = {width}{beside}\n")
        (folder / "net_beside.py").write_text(f"BESIDE = {beside}\n")
        text = "def width():\n    import net_beside\nfrom .parts.wide import WIDTH\n" + NET
        (folder / "net_pack/net.py").write_text(text)

    found = []
    for width, beside in ((1, 0), (2, 0), (1, 1), (1, 0)):
        write(here, width, beside)
        fresh(*names)
        found.append(origin("net_pack.net.Net")["plug_in"])
    assert len(set(found)) == 3
    assert found[0] == found[3]
    moved = here / "moved"
    write(moved, 1)
    fresh(*names)
    sys.path[:] = [str(moved), *(p for p in sys.path if p != str(here))]
    assert origin("net_pack.net.Net")["plug_in"] == found[0]
    assert "moved" in sys.modules["net_pack.net"].__file__
    write(moved, 2)
    with pytest.raises(UsageError, match=r"wide\.py: it was changed after it was imported\. Restart Python"):
        origin("net_pack.net.Net")


def test_code_that_was_compiled_before_is_not_taken_for_the_files(here, fresh, monkeypatch):
    """Python knows it by second and size alone, and two tries of one number are alike in both."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for number in (1, 2, 3):
        (here / "net_fast.py").write_text(f"NUMBER = {number}\n{NET}")
        os.utime(here / "net_fast.py", (1e9, 1e9))
        fresh("net_fast")
        origin("net_fast.Net")
        assert number == sys.modules["net_fast"].NUMBER


def test_an_installed_network_is_known_by_its_file_and_its_version(monkeypatch):
    before = origin("timm.models.vgg.VGG")
    monkeypatch.setattr(provenance, "version", lambda name: "0.0.1")
    provenance.forget("timm.models.vgg")
    assert origin("timm.models.vgg.VGG") != before
    provenance.forget("timm.models.vgg")
