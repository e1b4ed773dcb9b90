"""Danqing: a complete, open Qwen-Image system.

    import danqing

    model = danqing.load("nano")
    model.generate("a red apple on a blue table", seed=7).save("apple.png")

Public names load on first use, so that `import danqing` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danqing.errors import (
        CheckpointError,
        ConfigError,
        DanqingError,
        DataError,
        RequestError,
        ResourceError,
    )
    from danqing.evaluation.request import EvaluateRequest, evaluate
    from danqing.model import Model, load
    from danqing.pipelines.control import Control
    from danqing.pipelines.describe import DescribeRequest
    from danqing.pipelines.edit import EditRequest
    from danqing.pipelines.generate import GenerateRequest
    from danqing.pipelines.layered import LayersRequest

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Control",
    "DanqingError",
    "DataError",
    "DescribeRequest",
    "EditRequest",
    "EvaluateRequest",
    "GenerateRequest",
    "LayersRequest",
    "Model",
    "RequestError",
    "ResourceError",
    "__version__",
    "evaluate",
    "load",
]

_HOMES = {
    "CheckpointError": "danqing.errors",
    "ConfigError": "danqing.errors",
    "Control": "danqing.pipelines.control",
    "DanqingError": "danqing.errors",
    "DataError": "danqing.errors",
    "DescribeRequest": "danqing.pipelines.describe",
    "EditRequest": "danqing.pipelines.edit",
    "EvaluateRequest": "danqing.evaluation.request",
    "GenerateRequest": "danqing.pipelines.generate",
    "LayersRequest": "danqing.pipelines.layered",
    "Model": "danqing.model",
    "RequestError": "danqing.errors",
    "ResourceError": "danqing.errors",
    "evaluate": "danqing.evaluation.request",
    "load": "danqing.model",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'danqing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names and what is loaded already."""
    return sorted({*globals(), *__all__})
