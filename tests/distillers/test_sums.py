"""Sums of methods: terms, labels, options and digests are those of the methods alone."""

import textwrap
from typing import Any

import pytest
import torch

from kdzoo.checks import UsageError, options_of
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.distillers.at import AT
from kdzoo.distillers.crd import CRD
from kdzoo.distillers.kd import KD, kd_loss
from kdzoo.distillers.rkd import RKD
from kdzoo.outputs import Batch, Guide, Progress, scores
from kdzoo.plugins import load_plugin
from kdzoo.provenance import plug_in
from kdzoo.registry import DISTILLERS
from kdzoo.testing import Check, distiller_checks
from kdzoo.training.networks import SharedTeacher

LATE = Progress(150, 200, 3, 10)


def learned(distiller: Distiller, outputs: Any, progress: Progress = LATE) -> dict[str, torch.Tensor]:
    labels = torch.arange(len(outputs.student.logits)) % 5
    digest = distiller.detached_digest(outputs.teacher) if distiller.needs_teacher() else {}
    soft: Any = scores(outputs.teacher.logits) if "soft_labels" in distiller.needs else None
    batch = Batch(torch.empty(len(labels), 0), labels, torch.arange(len(labels)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return distiller.terms(outputs.student, Guide(soft, digest), batch, progress)


@pytest.mark.parametrize("check", [
    pytest.param(check, id=f"{name}-{check}") for name in ("ctkd~rkd~vid", "kd~simkd")
    for check in distiller_checks(name)
])  # fmt: skip
def test_a_sum_keeps_the_contract_of_a_distiller(check: Check):
    check()


def test_its_terms_are_those_of_its_methods(pair):
    outputs = pair(dtype=torch.float32)
    together = learned(build_distiller("rkd~at~kd", outputs.setting), outputs)
    assert list(together) == ["label", "at", "kd", "rkd/distance", "rkd/angle"]
    kd = learned(build_distiller("kd", outputs.setting, {"alpha": 1.0}), outputs)
    alone = learned(build_distiller("at", outputs.setting), outputs) | kd
    alone |= {f"rkd/{n}": t for n, t in learned(build_distiller("rkd", outputs.setting), outputs).items()}
    for name in ("label", "at", "kd", "rkd/distance", "rkd/angle"):
        assert together[name].item() == alone[name].item()


def test_crd_and_kd_have_the_public_weights(pair):
    """RepDistiller's CRD+KD: -r 1 -a 1 -b 0.8, that is CE + KD + 0.8 CRD."""
    outputs = pair(dtype=torch.float32)
    distiller = build_distiller("crd~kd", outputs.setting)
    assert (distiller.options["crd.weight"], distiller.options["kd.alpha"]) == (0.8, 1.0)
    terms = learned(distiller, outputs)
    labels = torch.arange(6) % 5
    assert terms["label"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(outputs.student.logits, labels).item()
    )
    soft = kd_loss(outputs.student.logits, scores(outputs.teacher.logits), temperature=4.0).mean()
    assert terms["kd"].item() == pytest.approx(soft.item())


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        ("at~kd", {}, [1, 1]),
        ("at~kd", {"kd.alpha": 0.5}, [1, 1]),
        ("mlkd~rkd", {"mlkd.alpha": 0.75}, [0.25, 0.25]),
        ("at~simkd", {}, [0, 0]),
        ("kd~simkd", {}, [0, 0]),
        ("fitnet~kd", {"fitnet.two_stage": True}, [0, 1]),
    ],
)
def test_labels_keep_the_least_that_a_method_leaves_them(pair, name, options, weights):
    outputs = pair()
    setting = outputs.setting._replace(teacher_head=torch.nn.Linear(4, 5))
    distiller = build_distiller(name, setting, options)
    found = [distiller.label_weight(Progress(epoch, 200, 0, 1)) for epoch in (0, 199)]
    assert found == pytest.approx(weights)


def test_a_sum_declares_what_its_methods_declare():
    sum_ = DISTILLERS.find("kd~crd")
    assert sum_ is DISTILLERS.find("crd~kd")
    assert sum_.needs == CRD.needs | KD.needs
    assert sum_.version == CRD.version + KD.version
    assert sum_.year == CRD.year
    assert sum_.paper == f"{CRD.paper}; {KD.paper}"
    assert list(options_of(sum_)) == [
        f"{n}.{o}" for n in ("crd", "kd") for o in options_of(DISTILLERS.find(n))
    ]
    assert DISTILLERS.find("at~rkd").digest_scope == "batch"
    assert RKD.digest_scope == "batch"
    assert DISTILLERS.find("at~kd").digest_scope == AT.digest_scope == "sample"
    assert DISTILLERS.has("crd~kd")
    assert not DISTILLERS.has("crd~cd")
    assert "crd~kd" not in DISTILLERS.names()


class Two(Distiller):
    """Has terms of two names."""

    def forward(self, student, guide, batch, progress):
        return {"distance": student.logits.mean(), "angle": 2 * student.logits.mean()}


class One(Distiller):
    """Is called as a term of the other would be."""

    def forward(self, student, guide, batch, progress):
        return {"angle": 3 * student.logits.mean()}


def test_no_term_takes_the_place_of_another(pair):
    outputs = pair(dtype=torch.float32)
    made = DISTILLERS._join({"two": Two, "two.angle": One})
    terms = learned(build_distiller(made, outputs.setting), outputs)
    assert list(terms) == ["label", "two/distance", "two/angle", "two.angle"]
    with pytest.raises(UsageError, match="a sum cannot have 'label', which is the name of a term"):
        DISTILLERS._join({"kd": KD, "label": One})


@pytest.mark.parametrize("name", ["kd~kd", "at~kd~crd~pkt", "kd~", "~kd"])
def test_the_limits_of_a_sum_hold_everywhere(name, pair):
    with pytest.raises(UsageError, match="a sum of distillers must be at most 3, each once"):
        build_distiller(name, pair().setting)


def test_two_methods_that_judge_networks_of_their_own_are_refused(monkeypatch):
    monkeypatch.setattr(AT, "deployed", lambda self, student: student)
    with pytest.raises(UsageError, match=r"^at~simkd: at and simkd each judge a network of their own"):
        DISTILLERS._join({"at": AT, "simkd": DISTILLERS.find("simkd")})


def test_standardised_logits_of_one_method_refuse_probabilities_for_the_sum(pair):
    setting = pair().setting
    assert build_distiller("dkd~kd", setting, {"dkd.standardize": True}).needs_scores
    assert not build_distiller("dkd~kd", setting).needs_scores


def test_a_pair_that_one_method_cannot_take_is_refused(pair):
    with pytest.raises(UsageError, match=r"^crd~kd: it needs a teacher"):
        build_distiller("crd~kd", pair().setting._replace(teacher=None))


class Silent(torch.nn.Module):
    """A teacher whose outputs are given."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output


def test_digests_are_made_once_for_a_sum_and_its_methods_alone(pair):
    outputs = pair(dtype=torch.float32)
    teacher = SharedTeacher(Silent(outputs.teacher), "float32")
    batch = Batch(torch.zeros(6, 1, 4, 4), torch.arange(6) % 5, None)
    alone, together, other = (build_distiller(n, outputs.setting) for n in ("at", "at~kd~pkt", "at~pkt"))
    for distiller in (together, alone, other):
        teacher.ready(batch, distiller)
    found = teacher.digest(batch, together)
    for name, tensor in teacher.digest(batch, alone).items():
        assert found[f"at/{name}"] is tensor
    again = teacher.digest(batch, other)
    assert list(again) == list(found)
    assert all(again[name] is tensor for name, tensor in found.items())
    assert teacher.passes == 1


def test_own_loops_take_sums(pair):
    outputs = pair(dtype=torch.float32)
    distiller = build_distiller("at~kd", outputs.setting)
    labels = torch.arange(6) % 5
    loss = distiller.loss(outputs.student, labels, teacher=outputs.teacher, epoch=0, epochs=10)
    terms = learned(distiller, outputs, Progress(0, 10, 0, 1))
    assert loss.item() == pytest.approx(sum(t.item() for t in terms.values()))


def test_a_changed_plug_in_changes_the_sum_that_it_is_part_of(tmp_path):
    assert plug_in(DISTILLERS.find("at~kd")) is None
    file, hashes = tmp_path / "mine.py", []
    for weight in (1, 2):
        file.write_text(
            textwrap.dedent(f"""
                from kdzoo.distillers import Distiller
                from kdzoo.registry import DISTILLERS

                @DISTILLERS.register("mine.sum")
                class Mine(Distiller):
                    '''Mean of logits.'''
                    paper = "none: a test"

                    def forward(self, student, guide, batch, progress):
                        return {{"mean": {weight} * student.logits.mean()}}
            """)
        )
        load_plugin(file)
        try:
            assert DISTILLERS.find("kd~mine.sum").made_of["mine.sum"] is DISTILLERS.find("mine.sum")
            hashes.append(plug_in(DISTILLERS.find("kd~mine.sum")))
        finally:
            DISTILLERS._module_dict.pop("mine.sum")
    assert None not in hashes
    assert len(set(hashes)) == 2
