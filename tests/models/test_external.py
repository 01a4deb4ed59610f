"""The wrapper of networks from elsewhere: what its hooks see, keep and leave alone."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from kdzoo.models import build_model
from kdzoo.models.external import External, Tap, as_vectors, logits_in
from kdzoo.models.external_trunk import hooked
from kdzoo.outputs import ModelOutput


def toy(name="Plain", **options):
    torch.manual_seed(0)
    return build_model(f"module:toynets.{name}", num_classes=4, channels=3, size=32, options=options)


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tensors(output):
    return [output.logits, output.embedding, *output.stages]


def test_nothing_outlives_a_forward_pass():
    network = toy()
    output = network(images())
    seen = [weakref.ref(tensor) for tensor in tensors(output)]
    del output
    gc.collect()
    assert [ref() for ref in seen] == [None] * len(seen)
    assert network._notes.seen is None


def test_nothing_is_left_behind_by_a_pass_that_fails():
    network = toy()
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 5, 32, 32))
    assert network._notes.seen is None
    assert network(images()).embedding is not None


def test_the_bare_network_runs_alone_and_keeps_nothing():
    network = toy().eval()
    with torch.no_grad():
        logits = network.network(images())
    assert network._notes.seen is None
    assert torch.equal(logits, network(images()).logits)


def test_two_passes_give_each_their_own():
    network = toy().eval()
    first, second = network(images()), network(images() + 1)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(network(images())), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def test_a_copy_has_hooks_of_its_own():
    network = toy().eval()
    expected = tensors(network(images()))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
        assert all(torch.equal(a, b) for a, b in zip(expected, tensors(other(images())), strict=True))
        network.load_state_dict(other.state_dict())


def test_state_dict_holds_the_bare_network_once():
    network = toy()
    assert {f"network.{name}" for name in network.network.state_dict()} == set(network.state_dict())
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for p in network.network.parameters()
    )


def test_compiling_gives_one_graph_with_the_same_bits():
    network = toy(stages="fine,norm").eval()
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for count in (2, 3):
        expected, got = network(images(count)), compiled(images(count))
        assert all(torch.equal(a, b) for a, b in zip(tensors(expected), tensors(got), strict=True))
    torch._dynamo.reset()


def test_a_stage_is_what_its_module_gave_whatever_happens_to_it_later():
    network = toy(stages="fine,norm")
    assert [tap.copied for tap in network.taps] == [False, True]
    *_, stage = network(images()).stages
    assert (stage < 0).any()
    assert (toy(stages="fine,relu")(images()).stages[-1] >= 0).all()


def test_dropout_in_place_corrupts_no_stage_in_training():
    network = toy("Dropped").train()
    fine, _ = network(images()).stages
    assert torch.equal(fine, network.network.fine(images()))
    assert (fine == 0).sum() == 0


def test_batch_norm_is_updated_and_dropout_drawn_once():
    network = toy().train()
    expected = copy.deepcopy(network.network)
    torch.manual_seed(3)
    output = network(images())
    torch.manual_seed(3)
    assert torch.equal(expected(images()), output.logits)
    state = network.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in expected.state_dict().items())
    assert state["norm.num_batches_tracked"] == 1


def test_channels_last_maps_are_turned():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 5)

        def forward(self, images):
            x = self.first(images.permute(0, 2, 3, 1))
            return self.second(x[:, ::2, ::2]).mean(dim=(1, 2))

    network = External(Swapped())
    network.hook_up(["second"], taps=[Tap("first", True, False)])
    output = network(images())
    assert output.stages[0].shape == (2, 8, 32, 32)
    assert output.stages[0].is_contiguous()
    expected = network.network.first(images().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.equal(output.stages[0], expected)
    # Channels-last images keep the layout that costs nothing.
    last = network(images().contiguous(memory_format=torch.channels_last)).stages[0]
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_embedding_is_a_vector_whatever_the_classifier_is_given():
    rows, maps = torch.randn(2, 3), torch.randn(2, 4, 5, 5)
    assert torch.equal(as_vectors([rows]), rows)
    assert torch.equal(as_vectors([maps]), maps.mean(dim=(2, 3)))
    assert torch.equal(as_vectors([rows, 2 * rows]), torch.cat([rows, 2 * rows], dim=1))
    assert as_vectors([torch.randn(2, 7, 3)]).shape == (2, 21)
    assert as_vectors([torch.randn(2, 7, 3)[:, 0]]).is_contiguous()


def test_classifier_is_there_where_the_logits_are_linear_in_the_embedding():
    network = toy().eval()
    output = network(images())
    assert torch.equal(network.classifier(output.embedding), output.logits)
    scaled = toy("Answering", arguments="how=scaled")
    assert not hasattr(scaled, "classifier")
    assert scaled(images()).embedding.shape == (2, 8)
    assert not hasattr(toy("ConvHead"), "classifier")


@pytest.mark.parametrize("how", ["tuple", "dict", "object", "output"])
def test_logits_are_found_in_what_is_returned(how):
    network = toy("Answering", arguments=f"how={how}").eval()
    output = network(images())
    assert type(output) is ModelOutput
    assert output.logits.shape == (2, 4)
    assert output.embedding.shape == (2, 8)
    assert [stage.shape[1:] for stage in output.stages] == [(4, 16, 16), (4, 8, 8), (8, 4, 4)]


def test_what_a_network_returns_itself_is_kept_unless_another_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 5, 3, stride=2)
            self.fc = nn.Linear(5, 4)

        def forward(self, images):
            first = self.first(images)
            second = self.second(first)
            embedding = second.mean(dim=(2, 3))
            return ModelOutput(self.fc(embedding), embedding, (second,), (first, second))

    network = Own()
    bare = network(images())

    def output(**options):
        return hooked("model x", network, 4, 3, 32, **options)(images())

    kept = output()
    assert all(torch.equal(a, b) for a, b in zip(tensors(bare), tensors(kept), strict=True))
    assert len(kept.preactivations) == 2
    assert torch.equal(hooked("model x", network, 4, 3, 32).classifier(kept.embedding), kept.logits)
    assert output(stages="none").stages is None
    assert [stage.shape[1] for stage in output(stages="first,second").stages] == [4, 5]
    assert output(embedding="first").embedding.shape == (2, 4)


def test_what_holds_no_logits_is_refused():
    with pytest.raises(TypeError, match="got str"):
        logits_in("logits")
    with pytest.raises(TypeError, match="got NoneType"):
        logits_in({"hidden": torch.zeros(1)})
    with pytest.raises(TypeError, match="got NoneType"):
        logits_in(ModelOutput(None, torch.zeros(1)))


def test_gradients_reach_everything_before_a_stage_and_none_under_no_grad():
    network = toy(stages="fine,norm")
    network(images()).stages[-1].square().sum().backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert "network.norm.weight" in with_gradient
    assert "network.head.weight" not in with_gradient
    with torch.no_grad():
        assert not any(t.requires_grad for t in tensors(network(images())))
