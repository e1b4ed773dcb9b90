"""Fixtures with the reference library's tiny checkpoints; the library is imported when one is used."""

import pytest

from tests.parity.peer_tokenizers import make_tokenizer


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory):
    """Tiny reference checkpoints with the tiny tokenizer: `peers.checkpoint("qwen-image")` is a folder."""
    return _peers(tmp_path_factory.mktemp("peers-tiny"), "tiny")


@pytest.fixture(scope="session")
def peers_qwen(tmp_path_factory: pytest.TempPathFactory):
    """The same with the released vocabulary; slower, since it is rebuilt first."""
    return _peers(tmp_path_factory.mktemp("peers-qwen"), "qwen")


@pytest.fixture(scope="session")
def released_tokenizer():
    """The transformers Qwen2Tokenizer with the released vocabulary, merges and special tokens."""
    return make_tokenizer("qwen")


def _peers(folder, kind):
    from tests.parity.peers import Peers

    return Peers(folder, kind)
