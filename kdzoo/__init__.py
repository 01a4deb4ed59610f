"""kdzoo: the benchmark zoo for knowledge distillation.

    import kdzoo
    results = kdzoo.run(benchmark="digits", methods=["scratch", "dkd", "reffakd"], seeds=3)
    print(results)

Everything is imported when it is first used: neither torch nor mmengine comes with `import kdzoo`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdzoo.api import Results, build_distiller, plan, run, soft_labels
    from kdzoo.checks import KdzooError, UsageError
    from kdzoo.data.arrays import from_arrays
    from kdzoo.models import build_model
    from kdzoo.outputs import ModelOutput, probabilities, scores
    from kdzoo.plugins import load_plugin

__version__ = "0.1.0"
__all__ = [
    "KdzooError",
    "ModelOutput",
    "Results",
    "UsageError",
    "__version__",
    "build_distiller",
    "build_model",
    "from_arrays",
    "load_plugin",
    "plan",
    "probabilities",
    "run",
    "scores",
    "soft_labels",
]

_HOMES = {
    **dict.fromkeys(("Results", "build_distiller", "plan", "run", "soft_labels"), "api"),
    **dict.fromkeys(("KdzooError", "UsageError"), "checks"),
    "from_arrays": "data.arrays",
    "load_plugin": "plugins",
    "build_model": "models",
    **dict.fromkeys(("ModelOutput", "probabilities", "scores"), "outputs"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'kdzoo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kdzoo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
