import importlib.metadata

import pytest
import torch

import kdzoo
from kdzoo.training import runtime


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    read = importlib.metadata.version

    def version(name: str) -> str:
        if name == "kdzoo":
            raise importlib.metadata.PackageNotFoundError(name)
        return read(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    runtime._versions.cache_clear()
    versions = runtime.environment(torch.device("cpu"))["versions"]
    assert versions["kdzoo"] == kdzoo.__version__
    assert versions["numpy"] == read("numpy")
