"""Fixtures of all tests: one thread, the same seed, and devices that are not here skip their tests."""

import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs a hub is a wrong test
os.environ["DANQING_CACHE"] = "off"  # a test that is about kept results says where

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")

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


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers in every run: none passes or fails by luck."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint of our own classes, in the released layout."""
    from tests.tiny import write_tiny

    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path):
    """The tiny checkpoint as a loaded danqing.Model, fp32 on the CPU."""
    import danqing

    return danqing.load(tiny_folder, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def tiny21_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of 2.1 of our own classes, in the released layout."""
    from tests.tiny21 import write_tiny21

    return write_tiny21(tmp_path_factory.mktemp("tiny21") / "tiny-2.1")


@pytest.fixture(scope="session")
def tiny21(tiny21_folder: Path):
    """The tiny checkpoint of 2.1 as a loaded danqing.Model, fp32 on the CPU."""
    import danqing

    return danqing.load(tiny21_folder, device="cpu", precision="fp32")
