"""What the golden tests share: inputs from their generators."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def make(spec: dict[str, Any]) -> Tensor:
    """Make an input from its generator; one that was derived carries its numbers."""
    if spec["generator"] == "labels":
        return torch.tensor([(spec["a"] * n + spec["b"]) % spec["K"] for n in range(spec["N"])])
    if spec["generator"] != "wave":
        return torch.tensor(spec["values"], dtype=torch.float64)
    shape, phase = spec["shape"], spec["phase"]
    numbers = [
        2 * math.sin(0.7 * i + phase) + math.cos(1.3 * ((i * i) % 101) + phase)
        for i in range(math.prod(shape))
    ]
    values = torch.tensor(numbers, dtype=torch.float64).reshape(shape) * spec.get("scale", 1.0)
    values = values.abs() if spec.get("abs") else values
    return values.softmax(dim=-1) if spec.get("softmax") else values


@pytest.fixture
def made() -> Callable[[dict[str, Any]], Tensor]:
    return make
