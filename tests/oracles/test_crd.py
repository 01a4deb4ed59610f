"""CRD against the paper's formula and the one with a constant Z, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.crd import CRD, crd_loss
from kdzoo.functional.memories import drawn_rows
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress

Vector = list[float]
Vectors = list[Vector]


def critic(score: float, k: int, samples: int, temperature: float, z: float) -> float:
    """Tian, the critic h: e / (e + N / M), of N negatives and M samples; Z is 1 in the paper."""
    e = math.exp(score / temperature) / z
    return e / (e + k / samples)


def objective(positive: Vector, negatives: Vectors, samples: int, temperature: float, z: float) -> float:
    """Tian: E[log h] under C = 1 plus N E[log(1 - h)] under C = 0, negated."""
    total = 0.0
    for own, others in zip(positive, negatives, strict=True):
        k = len(others)
        average = sum(math.log(1 - critic(s, k, samples, temperature, z)) for s in others) / k
        total += math.log(critic(own, k, samples, temperature, z)) + k * average
    return -total / len(positive)


def contrastive(positive: Vector, negatives: Vectors, samples: int, temperature: float, z: float) -> float:
    """The noise-contrastive form: a sample comes from the model, P, or is one of k from the noise, 1 / M."""
    noise, loss = 1 / samples, 0.0
    for own, others in zip(positive, negatives, strict=True):
        k = len(others)
        p = math.exp(own / temperature) / z
        loss -= math.log(p / (p + k * noise))
        for score in others:
            p = math.exp(score / temperature) / z
            loss -= math.log(k * noise / (p + k * noise))
    return loss / len(positive)


def tensor(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@st.composite
def scores(draw):
    count, k = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    cosine = st.floats(-1, 1).map(lambda x: round(x, 6))
    positive = draw(st.lists(cosine, min_size=count, max_size=count))
    negatives = draw(st.lists(st.lists(cosine, min_size=k, max_size=k), min_size=count, max_size=count))
    return positive, negatives


@settings(deadline=None, derandomize=True, max_examples=25)
@given(scores(), st.integers(2, 50), st.sampled_from([0.07, 0.1, 0.5, 2.0]), st.sampled_from([1.0, 40.0]))
def test_crd_is_the_papers_objective_and_the_noise_contrastive_form(case, samples, temperature, z):
    positive, negatives = case
    found = crd_loss(
        tensor(positive), tensor(negatives), samples=samples, temperature=temperature, log_z=math.log(z)
    ).item()
    for form in (objective, contrastive):
        assert found == pytest.approx(form(positive, negatives, samples, temperature, z), rel=1e-7)


def mapped(layer: torch.nn.Linear, embedding: Vector) -> Vector:
    """A linear map, divided by the length of what comes out."""
    rows, bias = layer.weight.tolist(), layer.bias.tolist()
    made = [
        sum(w * x for w, x in zip(r, embedding, strict=True)) + b for r, b in zip(rows, bias, strict=True)
    ]
    return shortened(made)


def shortened(vector: Vector) -> Vector:
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


def inner(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    st.lists(st.integers(0, 2), min_size=6, max_size=6).filter(lambda labels: len(set(labels)) > 1),
    st.sampled_from(["other_classes", "other_samples"]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(0, 1000),
)
def test_steps_contrast_with_what_was_remembered(labels, apart, momentum, seed):
    """Three batches, of samples that come again: memories by sample, Z of the first batch."""
    k, temperature, samples = 7, 0.4, len(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        distiller = CRD(
            3, 4, torch.tensor(labels), weight=1, dim=3, k=k, temperature=temperature, momentum=momentum,
            negatives=apart,
        ).double()  # fmt: skip
        sample_of, row = distiller.row.argsort().tolist(), distiller.row.tolist()
        memories = [
            {i: buffer[row[i]].tolist() for i in range(samples)}
            for buffer in (distiller.student_memory, distiller.teacher_memory)
        ]
        constants: list[float] = []
        for number, chosen in enumerate(([0, 3, 5], [3, 1, 0], [5, 2, 4])):
            student, teacher = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
            indices = torch.tensor(chosen)
            torch.manual_seed(number)
            places = [buffer[indices] for buffer in (distiller.row, distiller.first, distiller.count)]
            drawn = [
                [sample_of[r] for r in some] for some in drawn_rows(*places, k=k, samples=samples).tolist()
            ]
            for i, others in zip(chosen, drawn, strict=True):
                assert others[0] == i
                assert all(labels[j] != labels[i] if apart == "other_classes" else j != i for j in others[1:])

            anchors = [
                [mapped(layer, e) for e in given.tolist()]
                for layer, given in ((distiller.student_map, student), (distiller.teacher_map, teacher))
            ]
            expected = 0.0
            for network in (0, 1):
                other = memories[1 - network]
                found = [
                    [inner(a, other[j]) for j in some]
                    for a, some in zip(anchors[network], drawn, strict=True)
                ]
                if number == 0:
                    flat = [math.exp(s / temperature) for some in found for s in some]
                    constants.append(samples * sum(flat) / len(flat))
                positive, negatives = [some[0] for some in found], [some[1:] for some in found]
                expected += contrastive(positive, negatives, samples, temperature, constants[network])
            for network in (0, 1):
                for i, anchor in zip(chosen, anchors[network], strict=True):
                    old = memories[network][i]
                    mixed = [momentum * m + (1 - momentum) * a for m, a in zip(old, anchor, strict=True)]
                    memories[network][i] = shortened(mixed)

            torch.manual_seed(number)
            guide = Guide(None, {"embedding": teacher})
            batch = Batch(None, torch.tensor([labels[i] for i in chosen]), indices)
            (term,) = distiller(ModelOutput(None, student), guide, batch, Progress(0, 1, number, 3)).values()
            assert term.item() == pytest.approx(expected, rel=1e-9)
            assert distiller.log_z.exp().tolist() == pytest.approx(constants, rel=1e-9)
            for buffer, memory in zip(
                (distiller.student_memory, distiller.teacher_memory), memories, strict=True
            ):
                assert buffer[distiller.row].flatten().tolist() == pytest.approx(
                    [v for i in range(samples) for v in memory[i]], rel=1e-9, abs=1e-12
                )
