"""A clone stays small: what git tracks, and the weights inside the package."""

from tests.guards.files import SOURCE, short, tracked

MIB = 2**20


def _size(paths) -> int:
    return sum(path.stat().st_size for path in paths)


def test_tracked_files_fit_40_mib():
    assert 0 < _size(tracked()) <= 40 * MIB


def test_shipped_weights_fit_28_mib():
    weights = [path for path in tracked() if path.suffix == ".safetensors"]
    shipped = [path for path in weights if path.is_relative_to(SOURCE / "checkpoints")]
    assert _size(shipped) <= 28 * MIB


def test_no_file_can_run_code_when_loaded():
    unsafe = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".npy", ".npz"}
    assert [short(path) for path in tracked() if path.suffix in unsafe] == []
