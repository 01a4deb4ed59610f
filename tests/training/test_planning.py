import sys

import numpy as np
import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.data.base import Dataset, Split
from kdzoo.distillers.dkd import DKD
from kdzoo.registry import MODELS, SOURCES
from kdzoo.sources.reffakd import ReffAKD
from kdzoo.training import planning
from kdzoo.training.benchmark import load_benchmark
from kdzoo.training.choices import choose_device, parse_seeds
from kdzoo.training.needs import needs_teacher
from kdzoo.training.plan import described
from kdzoo.training.planning import make_plan


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    """Forty made-up images, read once, in place of the benchmark's."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32)).astype(np.uint8)
    labels = np.arange(40, dtype=np.int64) % 10
    split = Split(images, labels)
    data = Dataset("digits", split, split, tuple("0123456789"))
    monkeypatch.setattr(planning, "load_dataset", lambda *args: data)


@pytest.fixture
def plan(tmp_path):
    """A function that plans methods on the digits benchmark."""

    def make(methods, *, seeds=1, device="cpu", teacher_checkpoint=None, work_dir=None, **changes):
        return make_plan(
            load_benchmark("digits", **changes), methods=methods, seeds=seeds, device=device,
            work_dir=work_dir or tmp_path / "work", teacher_checkpoint=teacher_checkpoint,
        )  # fmt: skip

    return make


@pytest.fixture
def keys(plan):
    """A function that gives the members' keys by method, for one seed."""

    def give(methods, **changes):
        return {m.method.name: m.key for m in plan(methods, **changes).members}

    return give


METHODS = "scratch,kd,dkd,reffakd,dkd+reffakd,kd+uniform"
TEACHER_SETTINGS = [
    {"section_epochs": {"teacher": 7}},
    {"cfg_options": {"teacher.network.type": "resnet56"}},
    {"cfg_options": {"teacher.recipe.optimizer.lr": 0.01}},
]


@pytest.mark.parametrize("changes", TEACHER_SETTINGS)
def test_a_teachers_settings_reach_only_who_uses_it(keys, changes):
    before, after = keys(METHODS), keys(METHODS, **changes)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"kd", "dkd"}


def test_an_autoencoders_settings_reach_only_who_uses_it(keys):
    before, after = keys(METHODS), keys(METHODS, section_epochs={"autoencoder": 7})
    assert {name for name in before if before[name] != after[name]} == {"reffakd", "dkd+reffakd"}


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 7},
        {"precision": "bf16"},
        {"val_fraction": 0.25},
        {"cfg_options": {"recipe.batch_size": 8}},
        {"cfg_options": {"recipe.optimizer.lr": 0.01}},
        {"cfg_options": {"views.rotation": 5.0}},
        {"cfg_options": {"student.network.type": "resnet8"}},
    ],
    ids=lambda c: str(next(iter(c.values()))),
)
def test_a_protocol_reaches_everybody(plan, changes):
    before, after = plan(METHODS), plan(METHODS, **changes)
    assert before.protocol["hash"] != after.protocol["hash"]
    assert not {m.key for m in before.members} & {m.key for m in after.members}


def test_protocols_do_not_know_methods_seeds_or_teachers(plan):
    hashes = {
        plan("scratch").protocol["hash"],
        plan("dkd:beta=4,reffakd", seeds=3).protocol["hash"],
        *(plan("kd", **changes).protocol["hash"] for changes in TEACHER_SETTINGS),
    }
    assert len(hashes) == 1


def test_a_members_key_does_not_depend_on_company(keys):
    together = keys(METHODS)
    for name in together:
        assert keys(name) == {name: together[name]}
    assert keys("kd,scratch") == {name: together[name] for name in ("kd", "scratch")}


def test_spellings_of_one_method_are_one_member(plan):
    found = plan("kd+teacher,kd,kd:temperature=4,kd+reffakd,reffakd:gamma=auto")
    assert [m.method.name for m in found.members] == ["kd", "reffakd"]
    assert [m.method.name for m in plan(["reffakd", "scratch,kd"]).members] == ["reffakd", "scratch", "kd"]


def test_options_and_seeds_are_part_of_a_key(plan):
    found = plan("dkd,dkd:beta=4,dkd+reffakd,dkd+reffakd:draws=2", seeds="0,5")
    assert len({m.key for m in found.members}) == 8
    assert [m.seed for m in found.members] == [0] * 4 + [5] * 4
    assert len({m.folder for m in found.members}) == 8
    assert all(m.folder.is_relative_to(found.work_dir) for m in found.members)


def test_options_that_a_benchmark_sets_are_part_of_a_key(keys):
    assert keys("dkd") != keys("dkd", cfg_options={"methods.dkd.beta": 2.0})


def test_names_are_part_of_a_key(keys):
    # Records say benchmark and method by name: two names under one key would contradict each other.
    assert keys("dkd")["dkd"] != keys("dkd:beta=8", cfg_options={"methods.dkd.beta": 2.0})["dkd:beta=8"]


def test_a_new_version_of_a_method_is_another_member(keys, monkeypatch):
    before = keys(METHODS)
    monkeypatch.setattr(DKD, "version", DKD.version + 1)
    after = keys(METHODS)
    assert {name for name in before if before[name] != after[name]} == {"dkd", "dkd+reffakd"}


def test_a_new_version_of_a_source_is_another_member_and_another_artifact(plan, monkeypatch):
    before = plan(METHODS)
    monkeypatch.setattr(ReffAKD, "version", ReffAKD.version + 1)
    after = plan(METHODS)
    changed = {m.method.name for m, n in zip(before.members, after.members, strict=True) if m.key != n.key}
    assert changed == {"reffakd", "dkd+reffakd"}
    assert {a.name for a in before.artifacts.values() if a.key not in after.artifacts} == {"autoencoder"}


def test_artifacts_are_shared_and_planned_only_where_needed(plan):
    assert {a.name for a in plan(METHODS, seeds=2).artifacts.values()} == {"teacher", "autoencoder"}
    assert not plan("scratch,kd+uniform").artifacts
    assert [a.name for a in plan("reffakd,dkd+reffakd:gamma=1").artifacts.values()] == ["autoencoder"]
    two = plan("reffakd,reffakd:target=pixels")
    assert [a.name for a in two.artifacts.values()] == ["autoencoder", "autoencoder"]
    by_name = {m.method.name: m.artifacts for m in plan(METHODS).members}
    assert by_name["scratch"] == {}
    assert set(by_name["dkd"]) == {"teacher"}
    assert by_name["kd"] == by_name["dkd"]


def test_nothing_is_written_by_planning(plan, tmp_path):
    found = plan(METHODS)
    assert not (tmp_path / "work").exists()
    assert found.pending() == list(found.members)


def test_all_mistakes_are_told_at_once(plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        plan("kdd,kd:alpha=2,scratch", seeds="0,0", device="tpu", work_dir=tmp_path / "file")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for word in ("kdd", "alpha", "seeds", "device", "work_dir"):
        assert sum(word in line for line in lines) == 1


def test_a_network_that_is_unknown_is_found_before_training(plan):
    with pytest.raises(UsageError, match=r"there is no model 'lenet'\. Did you mean 'lenet5'"):
        plan("scratch", cfg_options={"student.network.type": "lenet"})
    with pytest.raises(UsageError, match=r"there is no model 'resnet19'"):
        plan("kd", cfg_options={"teacher.network.type": "resnet19"})
    # Nobody asks for a teacher, so nobody looks at it.
    plan("scratch,reffakd", cfg_options={"teacher.network.type": "resnet19"})


def test_a_teacher_that_nobody_needs_is_remarked_on(plan, tmp_path):
    given = tmp_path / "nosuch.safetensors"
    (remark,) = plan("scratch,reffakd", teacher_checkpoint=given).remarks
    assert "is not used" in remark
    with pytest.raises(UsageError, match=r"nosuch\.safetensors"):
        plan("scratch,kd", teacher_checkpoint=given)


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        (1, (0,)),
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        ("0,5", (0, 5)),
        ("7,", (7,)),
        (" 2, 1 ", (2, 1)),
        ([4], (4,)),
        ((3, 1), (3, 1)),
        ([2**31 - 1], (2**31 - 1,)),
        ([np.int64(3)], (3,)),
        (range(2, 4), (2, 3)),
    ],
)
def test_seeds_are_a_count_or_a_list(given, seeds):
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize(
    "given",
    [0, -1, "0", "", ",", "a", "1,a", "1.5", 1.5, None, [], [1, 1], "5,5", [-1], [2**31], [None], [1.5]],
)
def test_other_seeds_are_refused(given):
    with pytest.raises(UsageError, match=r"^kdzoo: seeds must be a count such as 3 .* got "):
        parse_seeds(given)


def test_the_device_is_the_one_asked_for_or_the_best(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None) == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="device must be cpu or cuda:0 to cuda:1, got 'cuda:2'"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "meta", "tpu", "", "cpu0"])
def test_a_device_that_is_not_here_is_refused(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"device must be cpu, as torch sees no GPU here, got '{name}'"):
        choose_device(name)


def test_who_follows_a_source_shares_its_artifact_and_its_version(plan, monkeypatch):
    methods = "reffakd,kd+permuted,dkd+label_smoothing"
    found = plan(methods)
    (artifact,) = found.artifacts.values()
    source = artifact.settings["source"]
    assert source == {"name": "reffakd", "version": 1, "options": {"target": "normalised"}}
    assert {tuple(m.artifacts.items()) for m in found.members} == {(("autoencoder", artifact.key),)}
    assert len({m.key for m in found.members}) == 3
    (other,) = plan("kd+permuted:target=pixels").artifacts.values()
    assert other.key == next(iter(plan("reffakd:target=pixels").artifacts)) != artifact.key
    monkeypatch.setattr(ReffAKD, "version", 2)
    raised = plan(methods)
    assert not {m.key for m in raised.members} & {m.key for m in found.members}
    assert len(raised.artifacts) == 1


def test_what_a_follower_trains_of_its_own_is_its_own(plan, monkeypatch):
    permuted = SOURCES.find("permuted")
    monkeypatch.setattr(permuted, "trains", ("autoencoder", "teacher"))
    by_name = {a.name: a.settings["source"]["name"] for a in plan("kd+permuted").artifacts.values()}
    assert by_name == {"autoencoder": "reffakd", "teacher": "permuted"}


def test_a_network_that_is_built_untrained_is_part_of_the_key(keys):
    methods = "kd+random_cae,kd+permuted,kd+pixels,scratch"
    before = keys(methods)
    after = keys(methods, cfg_options={"autoencoder.network.type": "resnet8"})
    assert {name for name in before if before[name] != after[name]} == {"kd+random_cae", "kd+permuted"}
    # How the section would be trained is nothing to one that is not.
    longer = keys(methods, section_epochs={"autoencoder": 7})
    assert {name for name in before if before[name] != longer[name]} == {"kd+permuted"}
    for wrong, message in (
        ({"type": "autoencodr"}, "Did you mean 'autoencoder'"),
        ({"depth": 3}, "model autoencoder: it has no options, got 'depth'"),
    ):
        options = {f"autoencoder.network.{name}": value for name, value in wrong.items()}
        with pytest.raises(UsageError, match=message):
            keys("kd+random_cae", cfg_options=options)


def test_method_settings_grow_only_where_there_is_something_to_say(plan, monkeypatch):
    monkeypatch.setattr(SOURCES.find("uniform"), "content", lambda source: {"sha256": "f" * 64})
    found = plan(METHODS + ",kd+random_cae")
    settings = {m.name: planning.method_settings(m, found) for m in found.methods}
    usual = {"distiller", "options", "version", "source", "source_options", "source_version"}
    for method in found.methods:
        taught = settings[method.name].pop("teacher_pass", None)
        assert (taught is not None) == needs_teacher(method)
    extra = {name: {k: v for k, v in s.items() if k not in usual} for name, s in settings.items()}
    assert extra.pop("kd+uniform") == {"source_content": {"sha256": "f" * 64}}
    assert extra.pop("kd+random_cae") == {
        "source_builds": {"autoencoder": {"network": "autoencoder", "options": {}}}
    }  # fmt: skip
    assert not any(extra.values())


def test_the_precision_of_an_untrained_network_is_part_of_the_key(keys, monkeypatch):
    methods = METHODS + ",kd+random_cae"
    before = keys(methods, precision="auto")

    def wide(network, device):
        return "bf16" if type(network).__name__ == "Autoencoder" else "float32"

    monkeypatch.setattr("kdzoo.training.plan.has_bf16", lambda device: True)
    monkeypatch.setattr("kdzoo.training.plan.chosen_precision", wide)
    after = keys(methods, precision="auto")
    # Those of reffakd have it in their artifact's key.
    assert {n for n in before if before[n] != after[n]} == {"kd+random_cae", "reffakd", "dkd+reffakd"}


def test_content_of_a_source_is_part_of_the_key(keys, monkeypatch):
    before = keys(METHODS)
    monkeypatch.setattr(SOURCES.find("uniform"), "content", lambda source: {"sha256": "f" * 64})
    after = keys(METHODS)
    assert {name for name in before if before[name] != after[name]} == {"kd+uniform"}


def test_a_source_is_looked_at_once_however_many_read_it(plan, monkeypatch):
    asked = []
    monkeypatch.setattr(ReffAKD, "check", lambda source, setting: asked.append(setting))
    plan("reffakd,dkd+reffakd,kd:alpha=0.5+reffakd,dkd+reffakd:draws=2", seeds=3)
    assert len(asked) == 2


def test_sources_are_told_where_images_stood(plan, monkeypatch):
    asked = []
    monkeypatch.setattr(ReffAKD, "check", lambda source, setting: asked.append(setting))
    plan("reffakd")
    plan("reffakd", val_fraction=0.25)
    whole, parted = asked
    assert (whole.positions, whole.loaded) == (None, 40)
    assert parted.loaded == 40
    assert len(parted.positions) == len(parted.labels) == 30
    assert torch.equal(parted.positions % 10, parted.labels)


def test_a_changed_plug_in_is_another_member(keys, monkeypatch):
    before = keys("scratch,kd")
    monkeypatch.setattr(
        "kdzoo.training.planning.plug_in", lambda thing: "f" * 64 if thing.__name__ == "KD" else None
    )
    after = keys("scratch,kd")
    assert after["kd"] != before["kd"]
    assert after["scratch"] == before["scratch"]


def test_standardised_scores_are_asked_of_a_source_of_scores(plan):
    plan("kd:standardize=true,dkd:standardize=true+teacher,ctkd:standardize=true")
    with pytest.raises(UsageError) as refused:
        plan("scratch,kd:standardize=true+reffakd,dkd:standardize=true+uniform")
    assert str(refused.value).splitlines() == [
        f"method '{method}': it compares scores, and source {source!r} gives probabilities. Leave "
        "standardize out, or take the teacher's scores."
        for method, source in (
            ("kd:standardize=true+reffakd", "reffakd"),
            ("dkd:standardize=true+uniform", "uniform"),
        )
    ]


def test_what_comes_from_outside_is_described_as_it_is_now(plan, tmp_path, monkeypatch):
    (tmp_path / "widening.py").write_text(
        "from torch import nn\nWIDTH = 3\n\n\ndef net(num_classes):\n"
        "    first, last = nn.Linear(1024, WIDTH), nn.Linear(WIDTH, num_classes)\n"
        "    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def widths(name):
        found = plan("scratch", cfg_options={"student.network.type": name})
        return described(found, found.benchmark.student)[0].embedding

    assert widths("module:widening.net") == (3,)
    monkeypatch.setattr(sys.modules["widening"], "WIDTH", 5)
    assert widths("module:widening.net") == (5,)
    # The zoo's own are kept, by what builds them: a name that is registered again is another network.
    assert widths("resnet8") == widths("resnet8") == (64,)
    monkeypatch.setitem(MODELS.module_dict, "resnet8", MODELS.find("lenet5"))
    assert widths("resnet8") == (84,)
