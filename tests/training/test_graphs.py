"""Choosing graphs, and the tensors that stay where they are."""

import pytest
import torch

from kdzoo import cli
from kdzoo.checks import UsageError
from kdzoo.training.graphs import chosen_graphs
from kdzoo.training.stills import Stills

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_is_a_gpu_where_nothing_is_compiled():
    assert chosen_graphs("auto", GPU, compiled=False) == (True, None)
    assert chosen_graphs("auto", GPU, compiled=True) == (False, None)
    assert chosen_graphs("auto", CPU, compiled=False) == (False, None)
    assert chosen_graphs("on", GPU, compiled=True) == (True, None)
    assert chosen_graphs("off", GPU, compiled=False) == (False, None)
    assert chosen_graphs("on", CPU, compiled=False) == (
        False, "No step becomes a CUDA graph: training is on the CPU.",
    )  # fmt: skip


def test_another_choice_is_refused_before_anything_is_trained(bench, capsys):
    for refused in ("yes", "", 1):
        with pytest.raises(UsageError, match=r"^kdzoo: cuda_graphs must be auto, on or off, got "):
            bench.run("scratch", cuda_graphs=refused)
    assert cli.main(bench.command("scratch", "--cuda-graphs", "maybe")) == 2
    assert capsys.readouterr().err == "kdzoo: cuda_graphs must be auto, on or off, got 'maybe'.\n"
    assert not (bench.folder / "work").exists()


def test_what_is_asked_for_in_vain_is_said(bench, capsys):
    assert cli.main(bench.command("scratch", "--cuda-graphs", "on")) == 0
    assert "No step becomes a CUDA graph: training is on the CPU." in capsys.readouterr().out
    (record,) = bench.run("scratch").records
    assert "graph_steps" not in record.timing


def test_members_share_stills_and_each_is_fed_once_a_step():
    stills, images, labels, own = Stills(), torch.rand(4, 3), torch.arange(4), torch.rand(2)
    first = stills.of([images, labels])
    second = stills.of([labels, own])
    assert second[0] is first[1]
    assert [s.tolist() for s in (*first, second[1])] == [images.tolist(), [0, 1, 2, 3], own.tolist()]
    new = [torch.rand(4, 3), labels + 1]
    stills.feed(first, new)
    versions = [s._version for s in first]
    stills.feed(second, [new[1], own])
    assert [s._version for s in first] == versions
    assert first[0].tolist() == new[0].tolist()


def test_a_tensor_that_was_changed_in_place_is_copied_anew():
    stills, kept = Stills(), torch.zeros(3)
    (still,) = stills.of([kept])
    kept += 1
    stills.feed([still], [kept])
    assert still.tolist() == [1.0] * 3


def test_layouts_stay_as_they_are_or_are_refused():
    stills = Stills()
    last = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    (still,) = stills.of([last])
    assert still.stride() == last.stride()
    assert stills.of([torch.rand(1, 3).expand(4, 3)]) is None
    assert stills.of([torch.rand(4, 6)[:, ::2]]) is None
    with torch.inference_mode():
        made = torch.ones(3)
    assert stills.of([made])[0].tolist() == [1.0] * 3


def test_what_is_made_under_inference_mode_is_always_copied():
    """It counts no writes."""
    stills = Stills()
    with torch.inference_mode():
        made = torch.ones(3)
    (still,) = stills.of([made])
    with torch.inference_mode():
        made += 1
    stills.feed([still], [made])
    assert still.tolist() == [2.0] * 3
