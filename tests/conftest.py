"""Fixtures of all tests: one thread, and devices that are not here skip their tests."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs a hub is a wrong test

import pytest
import torch

HERE = Path(__file__).parent


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the bit-equality we promise is for one thread count


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and skip `gpu` tests on a machine without a CUDA device."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder in ("parity", "distributed", "e2e"):
            item.add_marker(folder)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
