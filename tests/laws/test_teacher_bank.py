"""Laws 1 and 3 with a teacher bank: on, off, filled by another run, resumed, no number changes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.torch
import torch
from tinyzoo import STEPS, Bench, TinyStudent, registered
from torch import nn

from kdzoo.api import Results
from kdzoo.checks import KdzooError, UsageError
from kdzoo.data.picture_files import PictureFiles
from kdzoo.data.pipeline import Pipeline
from kdzoo.data.views import Views
from kdzoo.distillers import Distiller
from kdzoo.registry import DISTILLERS, MODELS, SOURCES
from kdzoo.sources.base import Source
from kdzoo.training import keeping, planned_bank
from kdzoo.training.bank import TeacherBank
from kdzoo.training.member import Member

METHODS = "kd,at,rkd,kdsvd,fitnet,pkt"


def run(folder: Path, methods: str = METHODS, **options: Any) -> Results:
    folder.mkdir(exist_ok=True)
    results = Bench(folder).run(methods, **options)
    assert not results.failed
    return results


def of(results: Results) -> dict[str, Any]:
    return {record.method: record.repeatable() for record in results.records}


def passes(results: Results) -> int:
    return results.records[0].timing["teacher_passes"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The methods' numbers without any bank, three epochs of which the third repeats the first's views."""
    with registered():
        return run(tmp_path_factory.mktemp("plain"), epochs=3, views=2, teacher_bank="off")


@pytest.fixture(autouse=True)
def _zoo(zoo: None) -> None:
    """All tests here work with the tiny zoo."""


def test_a_run_has_the_same_numbers_with_a_bank(plain, tmp_path):
    banked = run(tmp_path, epochs=3, views=2)
    assert of(banked) == of(plain)
    # The third epoch has the views of the first, and needs no teacher.
    assert passes(banked) == 2 * STEPS
    assert passes(plain) == 3 * STEPS


def test_a_bank_filled_by_other_methods_and_lengths_serves_all_alike(plain, tmp_path):
    bank = tmp_path / "bank"
    run(tmp_path / "a", "at,dkd,fitnet,kdsvd", epochs=2, teacher_bank=bank)
    more = run(tmp_path / "b", "pkt", epochs=3, views=2, teacher_bank=bank)
    assert of(more)["pkt"] == of(plain)["pkt"]
    warm = run(tmp_path / "c", epochs=3, views=2, teacher_bank=bank)
    assert of(warm) == of(plain)
    assert passes(warm) == 0


def test_a_sum_reads_what_is_kept_for_its_methods_alone(tmp_path):
    bank = tmp_path / "bank"
    live = run(tmp_path / "a", "at~kd,fitnet~pkt", epochs=2, teacher_bank="off")
    run(tmp_path / "b", "at,fitnet,pkt,kd", epochs=2, teacher_bank=bank)
    warm = run(tmp_path / "c", "at~kd,fitnet~pkt", epochs=2, teacher_bank=bank)
    assert of(warm) == of(live)
    assert passes(warm) == 0


def test_what_is_too_large_for_the_limit_keeps_the_teacher_running_and_is_named(plain, tmp_path, capsys):
    some = run(tmp_path, epochs=3, views=2, bank_limit=0.0005, progress=True)
    assert of(some) == of(plain)
    assert passes(some) == 3 * STEPS
    told = capsys.readouterr()
    assert "too large to be kept" in told.out + told.err
    assert "fitnet" in told.out + told.err
    assert "See --bank-limit" in told.out + told.err


def test_what_is_too_large_for_the_disk_is_said_to_be(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    run(tmp_path, "kd", epochs=1, progress=True)
    told = "".join(capsys.readouterr())
    assert "no more than half of the free disk" in told
    assert "--bank-limit" not in told


def test_versions_of_a_bank_are_of_what_makes_the_answers():
    def versions(network, images):
        plan = SimpleNamespace(data=SimpleNamespace(train=SimpleNamespace(images=images)))
        teacher = SimpleNamespace(section=SimpleNamespace(network=network))
        return set(planned_bank._versions(plan, teacher, {"torch": "1", "timm": "2", "torchvision": "3"}))

    array, streamed = np.zeros(1), PictureFiles.__new__(PictureFiles)
    assert versions("resnet18", array) == {"torch"}
    assert versions("timm:resnet18", array) == {"torch", "timm"}
    assert versions("torchvision:resnet18", streamed) == {"torch", "torchvision", "pillow"}
    assert versions("module:mine.Net", array) == {"torch"}


def test_a_row_that_is_not_what_the_teacher_says_is_loud(tmp_path, monkeypatch):
    bank = tmp_path / "bank"
    run(tmp_path / "a", "kd", epochs=1, teacher_bank=bank)
    read = TeacherBank.read

    def spoilt(self, *place, **how):
        rows = read(self, *place, **how)
        return rows and {name: tensor + 1e-6 for name, tensor in rows.items()}

    monkeypatch.setattr(TeacherBank, "read", spoilt)
    with pytest.raises(KdzooError, match=r"does not hold what the teacher says.*--teacher-bank off"):
        run(tmp_path / "b", "kd,dkd", epochs=1, teacher_bank=bank)


def test_wrong_rows_are_found_before_anybody_learns_from_them(tmp_path, monkeypatch):
    bank = tmp_path / "bank"
    run(tmp_path / "a", "kd", epochs=1, teacher_bank=bank)
    read, step, learnt = TeacherBank.read, Member.step, []

    def spoilt(self, *place, **how):
        rows = read(self, *place, **how)
        return rows and {name: tensor + 1e-6 for name, tensor in rows.items()}

    def noted(self, *shared):
        learnt.append(self.name)
        step(self, *shared)

    monkeypatch.setattr(TeacherBank, "read", spoilt)
    monkeypatch.setattr(Member, "step", noted)
    with pytest.raises(KdzooError, match="does not hold what the teacher says"):
        run(tmp_path / "b", "dkd", epochs=1, teacher_bank=bank)
    assert set(learnt) == {"teacher"}


class Sized(TinyStudent):
    """Rounds otherwise for few images, as the kernels of wide networks do."""

    def forward(self, images):
        output = super().forward(images)
        return output._replace(logits=output.logits + 1e-5 * (len(images) < 6))


def test_a_short_last_batch_has_the_numbers_that_it_has_without_a_bank(tmp_path, request):
    MODELS.register("sized")(Sized)
    request.addfinalizer(lambda: MODELS._module_dict.pop("sized"))
    # Batches of 16, 16 and 4.
    options = {"epochs": 4, "views": 1, "cfg_options": {"data.count": 36, "teacher.network.type": "sized"}}
    off = run(tmp_path / "off", "kd,pkt", teacher_bank="off", **options)
    on = run(tmp_path / "on", "kd,pkt", **options)
    assert of(on) == of(off)
    assert passes(on) < passes(off)


class Odd(Distiller):
    """Keeps something that is not what a bank expects."""

    needs = frozenset({"embedding"})
    digest_options = ("what",)

    def __init__(self, *, what: Literal["half", "mean", "some"] = "half") -> None:
        super().__init__()
        self.what = what

    def digest(self, teacher):
        found = teacher.embedding
        if self.what == "half":
            return {"it": found.half()}
        return {"it": found.mean() if self.what == "mean" else found[found[:, 0] > found[:, 0].median()]}

    def forward(self, student, guide, batch, progress):
        it = guide.teacher["it"]
        return {"odd": (it * student.logits.mean().to(it.dtype)).mean().square().float()}


@pytest.mark.parametrize("what", ["half", "mean", "some"])
def test_digests_of_any_type_and_shape_have_the_same_numbers_with_a_bank(tmp_path, request, what):
    DISTILLERS.register("odd")(Odd)
    request.addfinalizer(lambda: DISTILLERS._module_dict.pop("odd"))
    off = run(tmp_path / "off", f"odd:what={what}", epochs=3, views=1, teacher_bank="off")
    on = run(tmp_path / "on", f"odd:what={what}", epochs=3, views=1)
    assert of(on) == of(off)
    assert (passes(on) < passes(off)) == (what == "half")


class Curious(Source):
    """Reads more of the teacher than it declares."""

    needs = frozenset({"teacher"})
    teacher_fields = frozenset({"logits"})

    def __init__(self, *, asks: Literal["logits", "embedding"] = "logits") -> None:
        self.asks = asks

    def fit(self, workshop):
        self.teacher = workshop.teacher

    def __call__(self, batch):
        self.teacher(batch, frozenset({self.asks})).embedding.sum()
        raise AssertionError("it read the embedding")


@pytest.mark.parametrize("bank", ["auto", "off"])
@pytest.mark.parametrize("asks", ["logits", "embedding"])
def test_a_source_reads_what_it_declares_with_and_without_a_bank(tmp_path, request, bank, asks):
    SOURCES.register("curious")(Curious)
    request.addfinalizer(lambda: SOURCES._module_dict.pop("curious"))
    results = Bench(tmp_path).run(f"kd+curious:asks={asks}", epochs=1, teacher_bank=bank)
    (fault,) = results.failed.values()
    expected = "declare it in teacher_fields" if asks == "embedding" else "'NoneType' object has no"
    assert expected in str(fault)


def test_compiled_runs_end_with_a_record(tmp_path, monkeypatch):
    # Dynamo alone: what it hands over is run as it is, which takes no compiler and no half a minute.
    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: plain(self, backend="eager", **how))
    monkeypatch.setattr("kdzoo.training.execution._compiler_fault", lambda device: None)
    compiled = run(tmp_path, "kd,fitnet", epochs=2, views=1, compile="on")
    assert compiled.records[0].settings["precision"] == "float32, compiled"
    usual = run(tmp_path, "kd,fitnet", epochs=2, views=1)
    assert [r.flops for r in compiled.records] == [r.flops for r in usual.records]


def test_a_method_whose_rows_depend_on_their_neighbours_is_not_kept(tmp_path, capsys, request):
    class Neighbourly(Distiller):
        """Declares its digest as one of samples, which it is not."""

        needs = frozenset({"embedding"})

        def digest(self, teacher):
            return {"centred": teacher.embedding - teacher.embedding.mean(dim=0)}

        def forward(self, student, guide, batch, progress):
            return {"own": (student.logits.mean() - guide.teacher["centred"].square().mean()).square()}

    DISTILLERS.register("neighbourly")(Neighbourly)
    request.addfinalizer(lambda: DISTILLERS._module_dict.pop("neighbourly"))
    off = run(tmp_path / "off", "neighbourly", epochs=2, views=1, teacher_bank="off")
    on = run(tmp_path / "on", "neighbourly", epochs=2, views=1, progress=True)
    assert of(on) == of(off)
    assert passes(on) == 2 * STEPS
    assert "neighbourly not kept" in "".join(capsys.readouterr())


def test_why_a_digest_is_not_kept_is_said(tmp_path, capsys, request):
    class Crowd(Distiller):
        """Takes no batch of two samples."""

        needs = frozenset({"embedding"})

        def digest(self, teacher):
            if len(teacher.embedding) < 3:
                raise ValueError("two are no crowd")
            return {"own": teacher.embedding}

        def forward(self, student, guide, batch, progress):
            return {"own": (student.logits.mean() - guide.teacher["own"].mean()).square()}

    DISTILLERS.register("crowd")(Crowd)
    request.addfinalizer(lambda: DISTILLERS._module_dict.pop("crowd"))
    results = run(tmp_path, "crowd", epochs=1, progress=True)
    assert passes(results) == STEPS
    told = "".join(capsys.readouterr())
    assert (
        "keeps running for crowd: its digest cannot be made of a trial of two samples: ValueError: " in told
    )
    assert "two are no crowd" in told


def test_rounded_digests_have_the_same_numbers_with_and_without_a_bank(plain, tmp_path):
    off = run(tmp_path / "a", epochs=3, views=2, digests="float16", teacher_bank="off")
    on = run(tmp_path / "b", epochs=3, views=2, digests="float16")
    assert of(on) == of(off)
    assert of(on) != of(plain)
    assert on.records[0].key != plain.records[0].key
    assert on.records[0].settings["method"]["teacher_pass"]["digests"] == "float16"
    exact = next((tmp_path / "b" / "work" / "banks").rglob("entry.json"))
    assert "float16" in exact.read_text()


def test_views_repeat_after_as_many_epochs_and_orders_do_not():
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)

    def feed(repeat):
        views = Views(crop_padding=2, flip=True, rotation=15.0, repeat=repeat)
        return Pipeline(
            images, np.zeros(12, np.int64), views=views, mean=(0.5,), std=(0.5,), batch_size=12, seed=0,
            device="cpu",
        )  # fmt: skip

    def seen(feed, epoch):
        batch = feed.batch(epoch, 0)
        return batch.images[batch.indices.argsort()]

    twice, always = feed(2), feed(None)
    assert torch.equal(seen(twice, 0), seen(twice, 2))
    assert torch.equal(seen(twice, 1), seen(always, 1))
    assert not torch.equal(seen(twice, 0), seen(twice, 1))
    assert not torch.equal(seen(always, 0), seen(always, 2))
    assert not torch.equal(twice.batch(0, 0).indices, twice.batch(2, 0).indices)


def test_views_that_repeat_are_a_protocol_of_their_own_and_leave_the_teacher_as_it_is(tmp_path):
    plain = run(tmp_path, "kd", epochs=1)
    repeated = run(tmp_path, "kd", epochs=1, views=2)
    assert plain.records[0].protocol["hash"] != repeated.records[0].protocol["hash"]
    assert plain.records[0].artifacts["teacher"]["key"] == repeated.records[0].artifacts["teacher"]["key"]
    assert repeated.records[0].settings["views"]["repeat"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"views": 0}, {"bank_limit": -1.0}, {"bank_limit": 1e300}, {"digests": "int8"}, {"compile": "maybe"},
        {"teacher_bank": ""}, {"teacher_bank": None}, {"teacher_bank": Path(__file__) / "bank"},
    ],
)  # fmt: skip
def test_wrong_choices_are_mistakes(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)) if "views" not in wrong else "repeat"):
        run(tmp_path, "kd", epochs=1, **wrong)


def test_no_bank_is_made_where_nobody_needs_a_teacher(tmp_path):
    run(tmp_path, "scratch,reffakd", epochs=1)
    assert not Path(tmp_path / "work" / "banks").exists()


def test_settings_of_a_bank_say_what_its_rows_depend_on(tmp_path):
    results = run(tmp_path, "kd", epochs=1)
    (bank,) = (tmp_path / "work" / "banks").iterdir()
    settings = json.loads((bank / "settings.json").read_text())
    assert settings["teacher"] == results.records[0].artifacts["teacher"]["key"]
    assert {"data", "seed", "versions", "machine", "pass", "val_fraction"} <= set(settings)
    assert settings["versions"] == {"torch": torch.__version__.partition("+")[0]}


def test_a_teacher_of_other_weights_has_a_bank_of_its_own(tmp_path):
    run(tmp_path, "kd", epochs=1)
    (weights,) = (tmp_path / "work" / "artifacts").glob("teacher-*/weights.safetensors")
    # As one of the same settings that was trained on another machine would have them.
    others = {
        n: t + 0.25 if n.endswith("bias") else t for n, t in safetensors.torch.load_file(weights).items()
    }
    safetensors.torch.save_file(others, weights)
    weights.with_name("outputs.safetensors").unlink()
    run(tmp_path, "kd:temperature=3", epochs=1)
    banks = list((tmp_path / "work" / "banks").iterdir())
    assert len(banks) == 2
    first, second = (json.loads((bank / "settings.json").read_text()) for bank in banks)
    assert {name for name in first if first[name] != second[name]} == {"weights"}
