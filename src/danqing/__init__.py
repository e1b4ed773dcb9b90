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
    from danqing.model import Model, load
    from danqing.pipelines.generate import GenerateRequest

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DanqingError",
    "DataError",
    "GenerateRequest",
    "Model",
    "RequestError",
    "ResourceError",
    "__version__",
    "load",
]

_HOMES = {
    "CheckpointError": "danqing.errors",
    "ConfigError": "danqing.errors",
    "DanqingError": "danqing.errors",
    "DataError": "danqing.errors",
    "GenerateRequest": "danqing.pipelines.generate",
    "Model": "danqing.model",
    "RequestError": "danqing.errors",
    "ResourceError": "danqing.errors",
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
