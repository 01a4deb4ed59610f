"""Tf-KD's virtual teacher: its golden labels, and its loss through kd."""

import json
from pathlib import Path

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers.kd import kd_loss
from kdzoo.outputs import Batch
from kdzoo.sources import build_source
from kdzoo.sources.tfkd_reg import virtual_teacher

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tfkd_reg.json").read_text())


def test_the_virtual_teacher_is_right_with_a_fixed_share():
    entry = GOLDEN["entries"]["tfkd_reg_labels"]
    classes, label = entry["inputs"]["K"], entry["inputs"]["y"]
    row = virtual_teacher(classes, entry["params"]["a"])[label]
    assert row.tolist() == pytest.approx(entry["p_d"], rel=1e-5)
    softened = (row / entry["params"]["tau"]).softmax(dim=0)
    assert softened.tolist() == pytest.approx(entry["softened"], rel=1e-6)


def test_kd_on_it_is_the_papers_loss_times_the_squared_temperature(workshop):
    entry = GOLDEN["entries"]["tfkd_reg_paper"]
    labels = torch.tensor(GOLDEN["labels"])
    student = torch.tensor(GOLDEN["student"], dtype=torch.float64, requires_grad=True)
    source = build_source("tfkd_reg")
    source.fit(workshop(list(range(student.shape[1]))))
    tau = entry["params"]["tau"]
    loss = kd_loss(student, source(Batch(None, labels, None)), temperature=tau).mean() / tau**2
    assert loss.item() == pytest.approx(entry["value"]["kl"], rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.norm().item() == pytest.approx(entry["grad_norm"]["kl"]["s"], rel=1e-3)


def test_its_option_and_its_bounds(workshop):
    source = build_source("tfkd_reg", {"correct": 0.9})
    source.fit(workshop([0, 1, 2, 3]))
    row = source(Batch(None, torch.tensor([2]), None)).log_probs(1.0).exp()[0]
    assert row.argmax() == 2
    assert (row[2] / row[0]).log().item() == pytest.approx(0.9 - 0.1 / 3, rel=1e-5)
    assert source.gives_scores
    with pytest.raises(UsageError, match=r"^tfkd_reg: correct must be a number in \(0, 1\], got 0\."):
        build_source("tfkd_reg", {"correct": 0})
