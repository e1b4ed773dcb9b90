"""Weights that come and go: the same results, and nothing in memory that a plan does not allow."""

import dataclasses

import pytest
import torch
from torch import nn

from danqing.errors import CheckpointError, RequestError, ResourceError
from danqing.models.lora import LowRank, attach, detach
from danqing.models.mmdit import MMDiT
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.rope import GridShape
from danqing.models.single_stream import SingleStream, is_modulation
from danqing.models.vae import VAE, fold
from danqing.models.vision import patchify
from danqing.models.vlm import VLM
from danqing.weights.build import build
from danqing.weights.plan import Placement
from danqing.weights.residency import parts_of, resident, staying
from danqing.weights.single_file import PartFiles
from danqing.weights.store import Shards, write_shards
from tests import tiny, tiny21
from tests.tiny import randomized
from tests.unit.test_qwen3_vl import CONFIG as QWEN3

CPU = torch.device("cpu")
DENOISER = dataclasses.replace(tiny.TRANSFORMER, num_layers=5, zero_cond_t=True)
DENOISER21 = dataclasses.replace(tiny21.TRANSFORMER, num_layers=5)
WORDS = {f"{name}_token": 50 + place for place, name in enumerate(("image", "video", "vision_start", "eos"))}
CONDITIONER = dataclasses.replace(tiny.text_encoder(60, {**WORDS, "pad_token": 55}), num_layers=3)
CONDITIONER21 = dataclasses.replace(QWEN3, num_layers=3)
PLANS = {
    "nothing stays": Placement(blocks=0, kept=False),
    "some blocks stay": Placement(blocks=2),
    "one is streamed": Placement(blocks=4),
    "all in the stage": Placement(kept=False),
    "all": Placement(),
}


def draw(model: MMDiT) -> list[torch.Tensor]:
    """Return velocities of two steps and what modulates them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [GridShape(1, 4, 4), GridShape(1, 2, 2)]
    img, txt = torch.randn(1, 20, 64, generator=generator), torch.randn(1, 3, 32, generator=generator)
    with torch.no_grad():
        table = model.modulation_table(torch.linspace(1, 0.1, 18))
        return [*table, *(model(img, txt, table.at(step), shapes=shapes) for step in (0, 1))]


def draw21(model: SingleStream) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    img, txt = torch.randn(1, 16, 64, generator=generator), torch.randn(1, 3, 32, generator=generator)
    with torch.no_grad():
        table = model.modulation_table(torch.linspace(1, 0.1, 3))
        prefix = model.prefix(txt, table)
        shape = GridShape(1, 4, 4)
        return [*table, *(model(img, prefix, table.at(step), shape=shape) for step in (0, 1))]


def speak(model: VLM | Qwen3VL) -> list[torch.Tensor]:
    """Return features of a text, of a text with a picture, and tokens that the model writes."""
    side = 2 * model.config.vision.patch_size
    seen = {
        "patches": patchify(torch.linspace(-1, 1, 3 * side * side).view(3, side, side), model.config.vision),
        "grid_thw": [(1, 2, 2)],
    }
    token_ids = [1, 2, model.config.image_token, 3]
    with torch.no_grad():
        features = model.features(torch.tensor([[5, 6, 7, 5]], device=model.device))
        with_picture = model.features(torch.tensor([token_ids], device=model.device), **seen)
    written = list(model.generate(token_ids, max_new_tokens=5, **seen))
    return [features, with_picture, torch.tensor(written)]


CASES = {
    "1.x": (lambda: MMDiT(DENOISER), draw),
    "2.1": (lambda: SingleStream(DENOISER21), draw21),
    "conditioner of 1.x": (lambda: VLM(CONDITIONER), speak),
    "conditioner of 2.1": (lambda: Qwen3VL(CONDITIONER21), speak),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A stored model, what makes it, what it is used for, and what comes out when all of it is in memory."""
    make, use = CASES[request.param]
    folder = tmp_path_factory.mktemp("stored")
    write_shards(folder, "model", randomized(make(), 4).state_dict(), max_shard_bytes=100_000)
    return make, use, folder, use(build(make, folder, device=CPU, dtype=torch.float32))


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def absent(module: nn.Module) -> set[str]:
    return {name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta}


@pytest.mark.parametrize("plan", PLANS)
def test_streamed_is_resident_bit_for_bit(case, plan):
    make, use, folder, expected = case
    module, residency = resident(
        make, folder, PLANS[plan], device=CPU, dtype=torch.float32, modulation_kept=plan != "nothing stays"
    )
    whole = plan == "all"
    names = {name for name, _ in module.named_parameters()}
    assert residency.whole == whole == (not absent(module))
    for _ in range(2):
        with residency.stage():
            assert same(use(module), expected)
            assert same(use(module), expected)
        streamed = {name for name in names if is_streamed(name, residency.streamed)}
        table = {name for name in names if "_mod.1." in name} - streamed
        assert absent(module) == (streamed if PLANS[plan].kept else names - table)


def is_streamed(name: str, units: tuple[str, ...]) -> bool:
    """Tell whether a parameter belongs to a unit that is streamed; modulation is no part of its block's."""
    if "_mod.1." in name:
        return name.rpartition(".")[0] in units
    return any(name.startswith(f"{unit}.") for unit in units)


def test_a_part_that_stays_runs_without_a_stage(case):
    make, use, folder, expected = case
    module, residency = resident(make, folder, Placement(blocks=1), device=CPU, dtype=torch.float32)
    assert same(use(module), expected)
    with residency.stage():
        pass
    assert {is_streamed(name, residency.streamed) for name in absent(module)} == {True}


def test_stages_may_be_nested_and_held(case, monkeypatch):
    make, use, folder, expected = case
    module, residency = resident(make, folder, Placement(kept=False), device=CPU, dtype=torch.float32)
    with residency.hold():
        with residency.stage():
            use(module)
        monkeypatch.setattr(Shards, "read_into", None)  # what has been read is not read again
        with residency.stage(), residency.stage():
            assert same(use(module), expected)


def test_outside_its_stage_a_dropped_part_says_so(tmp_path):
    write_shards(tmp_path, "model", randomized(MMDiT(DENOISER), 4).state_dict())
    module, residency = resident(
        lambda: MMDiT(DENOISER), tmp_path, Placement(kept=False), device=CPU, dtype=torch.float32
    )
    block = module.transformer_blocks[0]
    with torch.no_grad(), pytest.raises(ResourceError, match="run the module in its stage"):
        block(None, None, None, None, None, None)
    with residency.stage():
        draw(module)


def test_gradients_through_streamed_weights_are_refused(tmp_path):
    write_shards(tmp_path, "model", randomized(MMDiT(DENOISER), 4).state_dict())
    module, _ = resident(
        lambda: MMDiT(DENOISER), tmp_path, Placement(blocks=0), device=CPU, dtype=torch.float32
    )
    with pytest.raises(ResourceError, match="expected no gradients through streamed weights"):
        module.transformer_blocks[0](torch.ones(1, 4, 32, requires_grad=True), None, None, None, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_another_precision_are_cast(tmp_path, dtype):
    state = randomized(SingleStream(DENOISER21), 4).state_dict()
    write_shards(tmp_path, "model", {name: tensor.bfloat16() for name, tensor in state.items()})
    whole = build(lambda: SingleStream(DENOISER21), tmp_path, device=CPU, dtype=dtype)
    module, residency = resident(
        lambda: SingleStream(DENOISER21), tmp_path, Placement(blocks=0, kept=False), device=CPU, dtype=dtype
    )
    assert {tensor.dtype for tensor in module.parameters()} == {dtype}
    prefix = "transformer_blocks.3."
    block = module.transformer_blocks[3]
    with residency.stage(), torch.no_grad():
        residency._before(residency._units[prefix[:-1]])
        own = dict(block.named_parameters())
        assert all(torch.equal(own[n], p) for n, p in whole.transformer_blocks[3].named_parameters())
        assert {tensor.dtype for tensor in own.values()} == {dtype}


def test_an_autoencoder_is_folded_each_time_it_is_read(tmp_path):
    state = randomized(VAE(tiny.AUTOENCODER), 2).state_dict()
    write_shards(tmp_path, "model", state)
    whole = build(lambda: VAE(tiny.AUTOENCODER), tmp_path, device=CPU, dtype=torch.float32, adapt=fold)
    finished = []
    vae, residency = resident(
        lambda: VAE(tiny.AUTOENCODER),
        tmp_path,
        Placement(kept=False),
        device=CPU,
        dtype=torch.float32,
        adapt=fold,
        finish=finished.append,
    )
    assert absent(vae) == set(state)
    for _ in range(2):
        with residency.stage(), torch.no_grad():
            latents = torch.linspace(-1, 1, 16 * 16).view(1, 16, 4, 4)
            assert torch.equal(vae.decode(latents), whole.decode(latents))
        assert absent(vae) == set(state)
    assert finished == [vae, vae]


@pytest.mark.parametrize("place", ["transformer_blocks.1.attn.to_q", "transformer_blocks.1.img_mod.1"])
def test_adapters_stay_beside_layers_that_come_and_go(tmp_path, place):
    write_shards(tmp_path, "model", randomized(MMDiT(DENOISER), 4).state_dict())
    whole = build(lambda: MMDiT(DENOISER), tmp_path, device=CPU, dtype=torch.float32)
    module, residency = resident(
        lambda: MMDiT(DENOISER),
        tmp_path,
        Placement(blocks=0, kept=False),
        device=CPU,
        dtype=torch.float32,
        modulation_kept=False,
    )
    plain = draw(whole)
    for model in (whole, module):
        generator = torch.Generator().manual_seed(1)
        down, up = (
            torch.randn(size, generator=generator)
            for size in ((2, 32), (32 * (6 if "mod" in place else 1), 2))
        )
        attach(model, {place: LowRank(down, up)}, name="a")
    expected = draw(whole)
    assert not same(plain, expected)
    for _ in range(2):
        with residency.stage():
            assert same(draw(module), expected)
        assert {
            name.rpartition(".")[2] for name in set(dict(module.named_parameters())) - absent(module)
        } == {"up", "down"}
    detach(module, "a")
    with residency.stage():
        assert same(draw(module), plain)
    assert absent(module) == set(dict(module.named_parameters()))


def test_files_of_other_programs_are_streamed_too(tmp_path):
    gguf = pytest.importorskip("gguf")
    state = randomized(MMDiT(DENOISER), 4).state_dict()
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen_image")
    for name, tensor in state.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.dim() == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = PartFiles.open([tmp_path / "x.gguf"], "transformer", dtype=torch.bfloat16)
    check_source(source)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.bfloat16, torch.float32])
def test_single_files_are_streamed_too(tmp_path, kind):
    tensors = {}
    for name, tensor in randomized(MMDiT(DENOISER), 4).state_dict().items():
        packed = kind == torch.float8_e4m3fn and tensor.dim() == 2
        tensors[f"model.diffusion_model.{name}"] = (tensor * (4 if packed else 1)).to(
            kind if packed or kind.itemsize > 1 else torch.bfloat16
        )
        if packed:
            tensors[f"model.diffusion_model.{name.removesuffix('weight')}scale_weight"] = torch.tensor(0.25)
    write_shards(tmp_path, "x", tensors)
    check_source(PartFiles.open([tmp_path / "x.safetensors"], "transformer", dtype=torch.bfloat16))


def check_source(source):
    whole = build(lambda: MMDiT(DENOISER), source, device=CPU, dtype=torch.bfloat16)
    module, residency = resident(
        lambda: MMDiT(DENOISER), source, Placement(blocks=1, kept=False), device=CPU, dtype=torch.bfloat16
    )
    with torch.no_grad():
        sigma = torch.linspace(1, 0.1, 3)
        img, txt = torch.ones(1, 16, 64, dtype=torch.bfloat16), torch.ones(1, 2, 32, dtype=torch.bfloat16)
        expected = whole(img, txt, whole.modulation_table(sigma).at(0), shapes=[GridShape(1, 4, 4)])
        with residency.stage():
            found = module(img, txt, module.modulation_table(sigma).at(0), shapes=[GridShape(1, 4, 4)])
    assert torch.equal(found, expected)


def test_a_table_is_read_by_rows(tmp_path):
    state = randomized(VLM(CONDITIONER), 4).state_dict()
    write_shards(tmp_path, "model", state)
    module, _ = resident(
        lambda: VLM(CONDITIONER), tmp_path, Placement(blocks=0, kept=False), device=CPU, dtype=torch.float32
    )
    table = state["model.embed_tokens.weight"]
    assert "model.embed_tokens.weight" not in dict(module.named_parameters())
    for token_ids in (torch.tensor([[3, 1, 3], [59, 0, 7]]), torch.empty(1, 0, dtype=torch.long)):
        assert torch.equal(module.model.embed_tokens(token_ids), table[token_ids])
    with pytest.raises(RequestError, match="expected tokens from 0 to 59, found 60"):
        module.model.embed_tokens(torch.tensor([60]))
    shards = Shards.open(tmp_path)
    assert torch.equal(shards.read_rows("model.embed_tokens.weight", [5, 2]), table[[5, 2]])


def test_a_tied_table_is_in_memory_where_its_head_is_needed(tmp_path):
    config = dataclasses.replace(CONDITIONER, tie_embeddings=True)
    write_shards(tmp_path, "model", randomized(VLM(config), 4).state_dict())
    whole = build(lambda: VLM(config), tmp_path, device=CPU, dtype=torch.float32)
    module, residency = resident(
        lambda: VLM(config), tmp_path, Placement(blocks=0, kept=False), device=CPU, dtype=torch.float32
    )
    with residency.stage():
        assert same(speak(module), speak(whole))


@pytest.mark.parametrize("streamed", [True, False])
def test_a_file_truncated_while_it_is_used_is_one_clear_error(tmp_path, streamed):
    write_shards(tmp_path, "model", randomized(MMDiT(DENOISER), 4).state_dict())
    module, residency = resident(
        lambda: MMDiT(DENOISER),
        tmp_path,
        Placement(blocks=0 if streamed else None, kept=False),
        device=CPU,
        dtype=torch.float32,
    )
    with residency.stage():
        expected = draw(module)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    middle = Shards.open(tmp_path).tensors["transformer_blocks.3.attn.to_q.weight"].start
    file.write_bytes(whole[:middle])
    with pytest.raises(CheckpointError, match="truncated since it was opened") as caught, residency.stage():
        draw(module)
    assert "\n" not in str(caught.value)
    assert residency.whole is False
    file.write_bytes(whole)
    with residency.stage():
        assert same(draw(module), expected)


def test_a_long_schedule_reads_its_layers_once(tmp_path, monkeypatch):
    write_shards(tmp_path, "model", randomized(MMDiT(DENOISER), 4).state_dict())
    read = []
    true_read = Shards.read_into
    monkeypatch.setattr(
        Shards, "read_into", lambda self, targets: (read.extend(targets), true_read(self, targets))[1]
    )
    module, residency = resident(
        lambda: MMDiT(DENOISER),
        tmp_path,
        Placement(),
        device=CPU,
        dtype=torch.float32,
        modulation_kept=False,
    )
    read.clear()
    with residency.stage():
        module.modulation_table(torch.linspace(1, 0.1, 50))
    assert sorted(read) == sorted(name for name in dict(module.named_parameters()) if "_mod.1." in name)


def test_blocks_that_stay_are_spread_over_their_list():
    with torch.device("meta"):
        parts = parts_of(MMDiT(DENOISER))
        both = parts_of(VLM(CONDITIONER))
    assert staying(parts, 2) == {"transformer_blocks.2", "transformer_blocks.4"}
    assert staying(parts, 9) == staying(parts, None) == frozenset(parts.blocks[0])
    assert staying(parts, 0) == frozenset()
    assert staying(both, 4) == {*both.blocks[0], "visual.blocks.1"}  # the words first, then the eyes


def test_each_streamed_block_is_read_once_a_step(tmp_path, monkeypatch):
    write_shards(tmp_path, "model", randomized(SingleStream(DENOISER21), 4).state_dict())
    read = []
    true_read = Shards.read_into
    monkeypatch.setattr(
        Shards, "read_into", lambda self, targets: (read.append(min(targets)), true_read(self, targets))[1]
    )
    module, residency = resident(
        lambda: SingleStream(DENOISER21), tmp_path, Placement(blocks=1), device=CPU, dtype=torch.float32
    )
    read.clear()
    with residency.stage(), torch.no_grad():
        draw21(module)  # three passes over the blocks, of which four are streamed
    assert 3 * 4 <= len(read) <= 3 * 4 + 2  # and two of the pass that does not come


@pytest.mark.gpu
def test_streamed_to_a_gpu_is_resident_bit_for_bit(tmp_path):
    write_shards(tmp_path, "model", randomized(SingleStream(DENOISER21), 4).state_dict())
    cuda = torch.device("cuda")

    def place(name: str) -> torch.device:
        return CPU if is_modulation(name) else cuda

    def velocities(model):
        img, txt = torch.ones(1, 16, 64, device=cuda), torch.ones(1, 3, 32, device=cuda)
        with torch.no_grad():
            table = model.modulation_table(torch.linspace(1, 0.1, 9)).to(cuda)
            prefix = model.prefix(txt, table)
            return [model(img, prefix, table.at(step), shape=GridShape(1, 4, 4)) for step in range(8)]

    whole = build(lambda: SingleStream(DENOISER21), tmp_path, device=place, dtype=torch.float32)
    module, residency = resident(
        lambda: SingleStream(DENOISER21),
        tmp_path,
        Placement(blocks=1, kept=False),
        device=place,
        dtype=torch.float32,
    )
    with residency.stage():
        assert same(velocities(module), velocities(whole))
    assert absent(module) == set(dict(module.named_parameters()))
