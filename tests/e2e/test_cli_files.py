"""Single files on the command line."""

from safetensors.torch import save_file

from danqing.weights.store import Shards


def test_a_picture_of_a_folder_and_a_single_file(cli, tiny_folder, tmp_path):
    shards = Shards.open(tiny_folder / "transformer")
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in shards.read(shards.tensors)}
    save_file(state, tmp_path / "denoiser.safetensors")
    common = ["a red apple", "--model", tiny_folder, "--seed", 7, "--device", "cpu", "--precision", "fp32"]
    whole = cli("generate", *common, "-o", "whole.png")
    assert whole.code == 0, whole.err
    parts = cli("generate", *common, "--transformer", "denoiser.safetensors", "-o", "parts.png")
    assert parts.code == 0, parts.err
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "parts.png").read_bytes()


def test_a_file_is_described(cli, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 40)
    done = cli("info", "broken.gguf")
    assert done.code == 2
    assert "expected a whole GGUF file, found a broken one" in done.err
