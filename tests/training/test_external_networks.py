"""Networks from elsewhere in a benchmark: planned, trained, recorded and kept like others."""

import json

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from kdzoo import api, cli
from kdzoo.checks import KdzooError, UsageError
from kdzoo.models import build_model
from kdzoo.models.base import published_classes
from kdzoo.training.artifacts import fitting_weights

SMALL = "mobilenetv3_small_050"
PAIR = f"""
student["network"] = dict(type="module:toynets.Plain", arguments="width=3")
teacher["network"] = dict(type="timm:{SMALL}")
"""


def student(name, **options):
    return f'student["network"] = dict(type={name!r}, **{options})\n'


def test_a_pair_from_elsewhere_trains_under_every_kind_of_method(make_bench):
    bench = make_bench(PAIR)
    methods = "scratch,kd,at,fitnet,pkt,rkd,dkd,kdsvd,reffakd"
    records = bench.run(methods).records
    assert [record.status for record in records] == ["done"] * 9
    together = bench.contents()
    record, _ = together["at", 0]
    assert record["settings"]["student"]["name"] == "module:toynets.Plain"
    assert len(record["settings"]["student"]["plug_in"]) == 64
    pairs = record["settings"]["method"]["pairs"]
    assert [pair["student_shape"] for pair in pairs] == [[3, 16, 16], [3, 8, 8], [6, 4, 4]]
    (artifact,) = (bench.folder / "work" / "artifacts").glob("teacher-*")
    assert artifact.name.startswith(f"teacher-timm-{SMALL}-")
    weights = safetensors.torch.load_file(artifact / "weights.safetensors")
    bare = timm.create_model(SMALL, num_classes=4, in_chans=1)
    bare.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    # Alone, a member has the same bits.
    bench.run("at", work="alone")
    assert bench.contents("alone")["at", 0] == together["at", 0]


def test_a_transformer_student_learns_from_a_resnet(make_bench):
    changes = (
        student("timm:vit_tiny_patch16_224") + 'teacher["network"] = dict(type="torchvision:resnet18")\n'
    )
    bench = make_bench(changes + "recipe['epochs'] = 1\n")
    records = bench.run("at,pkt").records
    assert [record.status for record in records] == ["done", "done"]
    shapes = [pair["student_shape"] for pair in records[0].settings["method"]["pairs"]]
    assert shapes == [[192, 2, 2]] * 4


def test_tied_and_strided_weights_are_kept_and_found_again(make_bench):
    bench = make_bench(
        student("module:toynets.Tied") + 'teacher["network"] = dict(type="module:toynets.Tied")\n'
    )
    (record,) = bench.run("kd").records
    assert record.parameters == 6 * 9 + 6 + 6 * 6 * 9 + 12 + 6 * 4 + 4
    (path,) = bench.folder.glob("work/runs/*/*/*/*/student.safetensors")
    weights = safetensors.torch.load_file(path)
    assert torch.equal(weights["network.second.weight"], weights["network.third.weight"])
    network = build_model("module:toynets.Tied", num_classes=4, channels=1, size=32)
    assert not network.network.fc.weight.is_contiguous()
    network.load_state_dict(weights)
    assert network.network.third.weight is network.network.second.weight
    # The teacher is read back from its file.
    assert bench.run("kd,rkd").records[0] == record


def test_what_cannot_be_paired_is_refused_before_training(make_bench):
    bench = make_bench(student("torchvision:vit_b_32"))
    with pytest.raises(UsageError) as error:
        bench.run("scratch,at,rkd")
    assert str(error.value) == (
        "at: it needs the student's stages, which this student does not return. Choose another student, or a "
        "method that does not need its stages."
    )
    assert not (bench.folder / "work").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:inception_v3",
            "model timm:inception_v3: it cannot take 32x32 images of 1 channels: RuntimeErr",
        ),
        ("timm:resnet81", "model timm: there is no network 'resnet81'. Did you mean"),
        ("timm", "model 'timm': it is a family of networks. Write which one"),
        ("torchvision:alexnet", "model torchvision:alexnet: it cannot take 32x32 images"),
        ("module:toynets.Plane", "model module:toynets.Plane: there is no class or function in toynets"),
        ("module:toynets.Failing", "failed: ZeroDivisionError: a fault of this code."),
    ],
)
def test_a_network_that_cannot_be_is_told_in_a_line_before_training(make_bench, name, message):
    bench = make_bench(student(name))
    with pytest.raises(UsageError) as error:
        bench.run("scratch")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def no_hub(monkeypatch):
    """Stand where timm asks the hub for a file, and give none."""
    asked = []

    def download(repo_id, filename, **options):
        asked.append(repo_id)
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return asked


def test_published_weights_are_in_keys_and_not_fetched_by_planning(make_bench, no_hub):
    plans = {}
    for name, lines in {
        "plain": student(f"timm:{SMALL}"),
        "pretrained": student(f"timm:{SMALL}", pretrained=True),
        "teacher": f'teacher["network"] = dict(type="timm:{SMALL}", pretrained=True)\n',
    }.items():
        bench = make_bench(lines, name)
        plans[name] = api.plan(**bench.options("scratch,kd"))
    assert no_hub == []
    published = {"name": f"{SMALL}.lamb_in1k", "from": f"timm/{SMALL}.lamb_in1k"}
    assert "weights" not in plans["plain"].protocol["student"]
    assert plans["pretrained"].protocol["student"]["weights"] == published
    (artifact,) = plans["teacher"].artifacts.values()
    assert artifact.settings["weights"] == artifact.described()["weights"] == published


def test_a_download_that_fails_ends_in_a_line(make_bench, no_hub):
    bench = make_bench(student(f"timm:{SMALL}", pretrained=True))
    with pytest.raises(
        KdzooError, match=rf"^model timm:{SMALL}: its published weights .* no route to the hub"
    ):
        bench.run("scratch")
    assert no_hub


def test_a_published_teacher_is_taken_as_it_comes_and_fetched_once(make_bench, monkeypatch, tmp_path, capsys):
    torch.manual_seed(4)
    published = timm.create_model(SMALL)
    safetensors.torch.save_file(published.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repo_id, filename, **options):
        asked.append(repo_id)
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    bench = make_bench("")
    teacher = f"timm:{SMALL}:pretrained=true"
    command = bench.command("scratch,pkt", "--teacher", teacher, "--teacher-epochs", "0")
    assert cli.main([*command, "--dry-run"]) == 0
    assert f"read       teacher (timm:{SMALL}, pretrained, as it comes)" in capsys.readouterr().out
    assert asked == []
    assert cli.main(command) == 0
    assert "(pretrained)" in capsys.readouterr().out
    assert len(asked) == 1
    artifact = bench.contents()["pkt", 0][0]["artifacts"]["teacher"]
    assert (artifact["origin"], artifact["seed"]) == ("pretrained", None)
    assert artifact["settings"]["weights"]["name"] == f"{SMALL}.lamb_in1k"
    assert "optimizer" not in artifact["settings"]
    [folder] = (bench.folder / "work" / "artifacts").glob("teacher-*")
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    kept = [n for n, v in published.state_dict().items() if torch.equal(weights[f"network.{n}"], v)]
    # All but the first convolution, fitted to one channel, and the classifier of other classes.
    assert len(weights) - len(kept) == 3
    assert "Teacher: " in (page := (bench.folder / "work" / "leaderboard.md").read_text())
    assert "pretrained weights, not trained further" in page
    # Another start fetches nothing: its weights are in the work directory.
    assert cli.main(bench.command("scratch,pkt,at", "--teacher", teacher, "--teacher-epochs", "0")) == 0
    assert len(asked) == 1
    trained = make_bench("", "trained")
    assert cli.main(trained.command("kd", "--teacher", teacher, "--teacher-epochs", "1")) == 0
    assert trained.contents()["kd", 0][0]["artifacts"]["teacher"]["origin"] == "trained"


def test_a_classifier_at_random_teaches_no_scores(make_bench):
    bench = make_bench(f'teacher["network"] = dict(type="timm:{SMALL}", pretrained=True)\n')
    with pytest.raises(
        UsageError, match=r"for 1,000 classes, the data has 4, .*Train it for kd, dkd: --teacher-epochs\."
    ):
        api.plan(**bench.options("scratch,pkt,kd,dkd,reffakd", teacher_epochs=0))
    assert api.plan(**bench.options("scratch,pkt,at,reffakd", teacher_epochs=0))
    assert api.plan(**bench.options("kd", teacher_epochs=1))


def test_published_weights_tell_their_classes():
    assert published_classes("torchvision:resnet18", {"pretrained": "true"}) == 1000
    assert published_classes("timm:convnext_tiny.fb_in22k", {"pretrained": True}) == 21841
    assert published_classes("timm:resnet18", {"pretrained": False}) is None
    assert published_classes("torchvision:resnet18", {}) is None
    assert published_classes("resnet20", {}) is None


def test_plain_checkpoints_of_timm_and_torchvision_are_teachers(make_bench, tmp_path):
    torch.manual_seed(4)
    bare = timm.create_model(SMALL, num_classes=4, in_chans=1)
    safetensors.torch.save_file(bare.state_dict(), tmp_path / "timm.safetensors")
    bench = make_bench(f'teacher["network"] = dict(type="timm:{SMALL}")\n')
    bench.run("pkt", teacher_checkpoint=tmp_path / "timm.safetensors")
    (artifact,) = (bench.folder / "work" / "artifacts").glob("teacher-*")
    weights = safetensors.torch.load_file(artifact / "weights.safetensors")
    assert all(torch.equal(weights[f"network.{n}"], v) for n, v in bare.state_dict().items())
    assert json.loads((artifact / "settings.json").read_text())["origin"] == "checkpoint"

    name = "shufflenet_v2_x0_5"
    bare = torchvision.models.get_model(name, num_classes=4)
    torch.save(bare.state_dict(), tmp_path / "torchvision.pth")
    network = build_model(f"torchvision:{name}", num_classes=4, channels=3, size=32)
    for path, content in (("torchvision.pth", None), ("ours.pth", network.state_dict())):
        if content is not None:
            torch.save(content, tmp_path / path)
        given = fitting_weights(network, tmp_path / path)
        network.load_state_dict(given)
    torch.save(bare.state_dict() | {"fc.weight": torch.zeros(1000, 1024)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"1 of another shape \(fc\.weight \(1000, 1024\) for \(4, "):
        fitting_weights(network, tmp_path / "other.pth")
