"""Linear layers of 8 and 4 bits: how near they are, and that tokens do not hear each other."""

import copy

import pytest
import torch
from torch import nn

from danqing.errors import ConfigError
from danqing.models import quantised
from danqing.models.lora import LowRank, attach, detach, linears, merge
from danqing.models.mmdit import MMDiT
from danqing.models.quantised import (
    Int4Linear,
    Int8Linear,
    dequantise_int4,
    dequantise_int8,
    large_layers,
    quantise_int4,
    quantise_int8,
    rotated,
    rotation_block,
    working_bytes,
)
from danqing.models.qwen3_vl import Qwen3VL
from danqing.models.rope import GridShape
from danqing.models.single_stream import SingleStream
from danqing.models.vlm import VLM
from danqing.weights.quantise import Kept, with_quantised
from tests import tiny, tiny21
from tests.unit.test_qwen3_vl import CONFIG as QWEN3

BOTH = pytest.mark.parametrize("format", ["int8", "int4"])
CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(5)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR)


def linear(dim_in, dim_out, *, bias=True):
    layer = nn.Linear(dim_in, dim_out, bias=bias).requires_grad_(False)
    layer.weight.copy_(draw(dim_out, dim_in) / dim_in**0.5)
    return layer


def pair(dim_in, dim_out, format, **options):
    """Return a plain layer and its quantised form."""
    plain = nn.Sequential(linear(dim_in, dim_out, **options))
    return plain[0], with_quantised(copy.deepcopy(plain), {"0": format})[0]


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dim", [256, 192, 48, 20, 6])
def test_a_rotation_is_a_regular_hadamard_matrix_and_its_own_inverse(dim):
    block = rotation_block(dim)
    assert block == {256: 256, 192: 64, 48: 16}.get(dim, 1)
    rows = draw(5, dim)
    seed = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    whole = torch.ones(1, 1)
    while len(whole) < block:
        whole = torch.kron(whole, seed)
    torch.testing.assert_close(rotated(rows, block), (rows.view(-1, block) @ whole).view(5, dim))
    torch.testing.assert_close(rotated(rotated(rows, block), block), rows)


@pytest.mark.parametrize(("format", "limit"), [("int8", 0.013), ("int4", 0.09)])
def test_outputs_are_near_those_of_the_plain_layer(format, limit):
    plain, layer = pair(512, 96, format)
    x = draw(2, 7, 512)
    assert error(layer(x), plain(x)) < limit
    assert error(layer(x.bfloat16()), plain(x).bfloat16()) < limit * 1.2
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert error(layer.plain_weight(), plain.weight) < limit
    without, bare = pair(512, 96, format, bias=False)
    assert error(bare(x), without(x)) < limit
    assert bare(x[:, :0]).shape == (2, 0, 96)


@BOTH
def test_the_rotation_spreads_outliers(format):
    plain = linear(512, 96)
    plain.weight[:, ::37] *= 8
    x = draw(64, 512)
    x[:, 100] *= 40
    turned, straight = (
        with_quantised(nn.Sequential(plain), {"0": Kept(format, block)})[0] for block in (256, 1)
    )
    assert error(turned(x), plain(x)) < 0.6 * error(straight(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim_in", [1024, 192, 48])
def test_a_token_does_not_hear_its_neighbours(dtype, dim_in):
    _, layer = pair(dim_in, 72, "int8")
    x = draw(700, dim_in).to(dtype)
    alone = layer(x)
    for count in (1, 2, 3, 17, 40, 300):
        assert torch.equal(layer(x[:count].clone()), alone[:count])
        assert torch.equal(layer(x[-count:].clone()), alone[-count:])
        louder = torch.cat([x[:count], 100 * x[count:]])
        assert torch.equal(layer(louder)[:count], alone[:count])


def test_layers_share_what_they_read_together():
    layers = [pair(256, 32, "int8")[1] for _ in range(3)]
    img, txt = draw(4, 256), draw(3, 256)
    with torch.no_grad():
        first = [layer(img) for layer in layers]
        shared = quantised._last.quantised(img, 256)
        layers[1](txt)
        layers[0](img)
        assert quantised._last.quantised(img, 256) is shared
        assert all(torch.equal(layer(img.clone()), out) for layer, out in zip(layers, first, strict=True))
        img.mul_(2)  # a power of two: the numbers stay, their scales double
        bias = layers[0].bias
        torch.testing.assert_close(layers[0](img) - bias, 2 * (first[0] - bias))
        with torch.inference_mode():
            assert torch.equal(layers[0](img * 1), layers[0](img))
        layers[0](txt)
        layers[0](img)
        assert len(quantised._last.read) == 2
        del img, txt
        assert not quantised._last.read


def test_tokens_that_are_not_finite_stay_so():
    _, layer = pair(256, 8, "int8")
    x = draw(3, 256)
    x[1, 5] = torch.inf
    out = layer(x)
    assert out[[0, 2]].isfinite().all()
    assert not out[1].isfinite().any()


def test_products_in_fp32_are_those_of_whole_numbers():
    tokens, weight = (torch.randint(-127, 128, (9, 3000), dtype=torch.int8) for _ in range(2))
    weight[0] = tokens[0] = 127  # the largest sum there is
    out, exact = torch.empty(9, 9, dtype=torch.int32), torch.empty(9, 9, dtype=torch.int32)
    quantised._float_matmul(tokens, weight, out=out)
    quantised._int_matmul(tokens, weight, out=exact)
    assert torch.equal(out, exact)
    assert torch.equal(out.long(), tokens.long() @ weight.long().t())


def test_nibbles():
    weight = torch.tensor([[-8.0, 7, 0, 1] + 28 * [0.0]])
    packed, scale = quantise_int4(weight, 1)
    assert scale.item() == 1
    assert packed[0, :3].tolist() == [0 | 15 << 4, 8 | 9 << 4, 8 | 8 << 4]  # plus 8, the first one below
    assert torch.equal(dequantise_int4(packed, scale, 1), weight)


@pytest.mark.parametrize(
    ("quantise", "dequantise"), [(quantise_int8, dequantise_int8), (quantise_int4, dequantise_int4)]
)
def test_rows_of_zeros(quantise, dequantise):
    weight = torch.cat([torch.zeros(1, 64), draw(1, 64)])
    found = dequantise(*quantise(weight, 64), 64)
    assert torch.equal(found[0], weight[0])
    assert error(found[1], weight[1]) < 0.15


def test_which_layers_are_large():
    def chosen(model):
        return set(large_layers({name: tensor.shape for name, tensor in model.state_dict().items()}))

    with torch.device("meta"):
        mmdit, stream = MMDiT(tiny.TRANSFORMER), SingleStream(tiny21.TRANSFORMER)
        vlm, qwen3 = VLM(tiny.text_encoder(64, {}), vision=True), Qwen3VL(QWEN3, vision=True)
    blocks = {name for name in linears(mmdit) if name.startswith("transformer_blocks.")}
    assert chosen(mmdit) == blocks
    assert {"transformer_blocks.1.img_mod.1", "transformer_blocks.0.attn.to_out.0"} <= blocks
    assert chosen(stream) == {name for name in linears(stream) if name.startswith("transformer_blocks.")}
    language = {name for name in linears(vlm) if name.startswith("model.layers.")}
    eyes = {n for n, layer in linears(vlm).items() if ".blocks." in n and layer.in_features % 16 == 0}
    assert chosen(vlm) == language | eyes
    assert all(".layers." in name or ".blocks." in name for name in chosen(qwen3))
    assert any(".layers." in name for name in chosen(qwen3))


@pytest.mark.parametrize("block", [3, 8, 1024, 64, 0])
def test_rotations_that_do_not_fit_are_refused(block):
    with pytest.raises(
        ConfigError, match="expected a rotation of 1, 4, 16, 64 or 256 that divides 48 inputs"
    ):
        Int8Linear(48, 8, bias=False, block=block)


@BOTH
def test_gradients_are_refused(format):
    _, layer = pair(64, 8, format)
    with pytest.raises(ConfigError, match="expected inputs without gradients"):
        layer(draw(2, 64).requires_grad_())


def test_working_memory_is_told():
    layer = Int8Linear(3072, 12288, bias=True)
    said = [working_bytes(layer, tokens, torch.bfloat16, CPU) for tokens in (1024, 4096)]
    assert said[1] - said[0] == 3072 * (3072 + 4)  # only the quantised tokens grow with their number
    assert said[0] < 20 * 2**20
    four = working_bytes(Int4Linear(3072, 12288, bias=True), 1024, torch.bfloat16, CPU)
    assert 1024 * 3072 * 2 < four < 20 * 2**20


@BOTH
def test_adapters_stand_beside_quantised_layers(format):
    _, layer = pair(64, 48, format)
    model, delta = nn.Sequential(layer), LowRank(draw(4, 64), draw(48, 4), scale=0.1)
    x = draw(5, 64)
    before = model(x)
    attach(model, {"0": delta}, name="style")
    torch.testing.assert_close(model(x), before + delta(x))
    with pytest.raises(ConfigError, match=r"0: expected plain weights to merge into, found \d-bit ones"):
        merge(model, [({"0": delta}, 1.0)])
    detach(model, "style")
    assert model[0] is layer
    assert torch.equal(model(x), before)


def test_a_denoiser_with_quantised_layers():
    model = tiny.randomized(MMDiT(tiny.TRANSFORMER), 3)
    names = large_layers({name: tensor.shape for name, tensor in model.state_dict().items()})
    small = with_quantised(copy.deepcopy(model), dict.fromkeys(names, "int8"))
    assert isinstance(small.transformer_blocks[1].attn.to_out[0], Int8Linear)
    img, txt = draw(2, 6, 64), draw(2, 3, 32)
    shapes = [GridShape(1, 2, 3)]
    sigmas = torch.tensor([0.5, 0.9])
    expected = model(img, txt, model.modulate(sigmas), shapes=shapes)
    assert error(small(img, txt, small.modulate(sigmas), shapes=shapes), expected) < 0.05
