"""Our denoiser against the reference transformer, same weights, fp32."""

import math

import pytest
import torch

from danqing.models.mmdit import MMDiT, MMDiTConfig, ModulationTable
from danqing.models.rope import GridShape
from tests.parity import peer_parts as parts

diffusers = pytest.importorskip("diffusers")

CPU = torch.device("cpu")
SHAPES = {
    "square": [GridShape(1, 4, 4)],
    "odd": [GridShape(1, 3, 5)],
    "row": [GridShape(1, 1, 7)],
    "pictures": [GridShape(1, 3, 4), GridShape(1, 5, 2), GridShape(1, 2, 2)],
}
FLAGS = {
    "plain": {},
    "zero_cond_t": {"zero_cond_t": True},
    "layered": {"use_layer3d_rope": True, "use_additional_t_cond": True},
}


def make_pair(**flags):
    """Return the reference transformer and ours with the same weights."""
    config = {**parts.DIT, **flags}
    reference = parts.randomize(diffusers.QwenImageTransformer2DModel(**config), 31)
    ours = MMDiT(MMDiTConfig(**config)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


@pytest.fixture(scope="module")
def pairs():
    return {name: make_pair(**flags) for name, flags in FLAGS.items()}


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def tokens(shapes):
    return sum(math.prod(shape) for shape in shapes)


def close(ours, expected, atol):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@torch.no_grad()
def run_both(reference, ours, shapes, lengths, *, additional=None, dtype=torch.float32):
    """Return the velocities of the reference and of ours for a batch of len(lengths) text rows."""
    batch, txt_seq = len(lengths), max(lengths)
    img, txt = draw(batch, tokens(shapes), 64).to(dtype), draw(batch, txt_seq, 64).to(dtype)
    sigma = torch.linspace(0.9, 0.3, batch)
    mask = torch.arange(txt_seq) < torch.tensor(lengths).unsqueeze(1)
    expected = reference(
        hidden_states=img,
        encoder_hidden_states=txt,
        encoder_hidden_states_mask=None if mask.all() else mask,
        timestep=(1000 * sigma).to(dtype) / 1000,
        img_shapes=[shapes] * batch,
        additional_t_cond=None if additional is None else torch.full((batch,), additional),
        return_dict=False,
    )[0]
    table = ours.modulate(sigma, additional)
    return expected, ours(img, txt, table, shapes=shapes, lengths=lengths)


@pytest.mark.parametrize("kind", ["plain", "layered"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_rotary_tables(pairs, kind, shapes):
    reference, ours = pairs[kind]
    img, txt = reference.pos_embed([shapes], max_txt_seq_len=9, device=CPU)
    layout = ours.layout(shapes, 9, device=CPU)
    close(torch.view_as_complex(layout.img_turn), img, 1e-6)
    close(torch.view_as_complex(layout.txt_turn), txt, 1e-6)


def test_rotary_tables_of_a_large_picture_and_a_long_text(pairs):
    reference, ours = pairs["plain"]
    shapes = [GridShape(1, 83, 104)]
    img, txt = reference.pos_embed([shapes], max_txt_seq_len=1024, device=CPU)
    layout = ours.layout(shapes, 1024, device=CPU)
    close(torch.view_as_complex(layout.img_turn), img, 1e-5)
    close(torch.view_as_complex(layout.txt_turn), txt, 1e-5)


@torch.no_grad()
def test_time_embedding(pairs):
    sigma = torch.tensor([1.0, 0.73219, 0.02, 0.0])
    for kind, additional in (("plain", None), ("layered", 0), ("layered", 1)):
        reference, ours = pairs[kind]
        classes = None if additional is None else torch.full((4,), additional)
        expected = reference.time_text_embed(sigma, torch.zeros(()), classes)
        close(ours.time_text_embed(sigma, torch.float32, additional), expected, 1e-5)


@torch.no_grad()
def test_a_noise_level_in_bf16_is_rounded_as_the_pipeline_rounds_it(pairs):
    reference, ours = pairs["plain"]
    sigma = torch.linspace(1, 0.001, 300)
    timestep = (1000 * sigma).to(torch.bfloat16) / 1000  # what the pipeline hands to the transformer
    expected = reference.time_text_embed.time_proj(timestep).to(torch.bfloat16)
    seen = []
    first = ours.time_text_embed.timestep_embedder["linear_1"]
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ours.to(torch.bfloat16)
    try:
        ours.time_text_embed(sigma, torch.bfloat16, None)
    finally:
        ours.float()
        hook.remove()
        ours.load_state_dict(reference.state_dict())
    assert torch.equal(seen[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", FLAGS)
def test_modulation(pairs, kind):
    reference, ours = pairs[kind]
    sigma = torch.tensor([0.8, 0.1])
    additional = 1 if kind == "layered" else None
    table = ours.modulate(sigma, additional)
    classes = None if additional is None else torch.full((2,), additional)
    levels = [sigma, torch.zeros(2)] if kind == "zero_cond_t" else [sigma]
    embedded = [reference.time_text_embed(level, torch.zeros(()), classes) for level in levels]
    for index, block in enumerate(reference.transformer_blocks):
        expected = torch.stack([block.img_mod(level) for level in embedded], dim=1)
        close(table.img[:, index], expected, 1e-5)
        close(table.txt[:, index], block.txt_mod(embedded[0]), 1e-5)
    close(table.out, reference.norm_out.linear(torch.nn.functional.silu(embedded[0])), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[6, 6], [6, 2]], ids=["full", "padded"])
def test_one_block(pairs, lengths):
    reference, ours = pairs["plain"]
    shapes = SHAPES["odd"]
    img, txt, embedded = draw(2, 15, 48), draw(2, 6, 48), draw(2, 48)
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    peer, block = reference.transformer_blocks[0], ours.transformer_blocks[0]
    expected = peer(img, txt, mask, embedded, reference.pos_embed([shapes], max_txt_seq_len=6, device=CPU))
    img_mod, txt_mod = peer.img_mod(embedded).unsqueeze(1), peer.txt_mod(embedded)
    txt_out, img_out = block(img, txt, img_mod, txt_mod, ours.layout(shapes, 6, lengths, device=CPU))
    close(img_out, expected[1], 1e-5)
    close(txt_out[mask], expected[0][mask], 1e-5)


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_whole_model(pairs, kind, shapes):
    additional = 1 if kind == "layered" else None
    expected, ours = run_both(*pairs[kind], shapes, [6, 6], additional=additional)
    close(ours, expected, 1e-4)


@pytest.mark.parametrize("kind", FLAGS)
def test_the_whole_model_with_padded_text(pairs, kind):
    additional = 0 if kind == "layered" else None
    expected, ours = run_both(*pairs[kind], SHAPES["pictures"], [9, 1, 4], additional=additional)
    close(ours, expected, 1e-4)


def test_bf16_stays_with_the_reference(pairs):
    exact, _ = run_both(*pairs["plain"], SHAPES["odd"], [6, 3])
    reference, ours = make_pair()
    expected, low = run_both(
        reference.bfloat16(), ours.bfloat16(), SHAPES["odd"], [6, 3], dtype=torch.bfloat16
    )
    assert low.dtype == torch.bfloat16
    assert (low - exact).norm() <= 1.2 * (expected - exact).norm()
    assert (low - expected).norm() < 0.01 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("kind", FLAGS)
def test_padding_and_neighbours_change_nothing(pairs, kind):
    _, ours = pairs[kind]
    shapes = SHAPES["pictures"]
    additional = 1 if kind == "layered" else None
    img, txt = draw(1, tokens(shapes), 64), draw(1, 4, 64)
    table = ours.modulate(torch.tensor([0.5]), additional)
    alone = ours(img, txt, table, shapes=shapes)
    longer = torch.cat((torch.cat((txt, draw(1, 5, 64)), dim=1), draw(1, 9, 64)))
    batch = ours(torch.cat((img, draw(1, tokens(shapes), 64))), longer, table, shapes=shapes, lengths=[4, 9])
    close(batch[:1], alone, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", FLAGS)
def test_the_modulation_table_is_the_modulation_of_each_level(pairs, kind):
    _, ours = pairs[kind]
    additional = 1 if kind == "layered" else None
    sigmas = torch.linspace(1, 0.02, 19)
    table = ours.modulation_table(sigmas, additional)
    assert all(len(part) == 19 for part in table)
    for step in range(19):
        for row, alone in zip(
            table.at(step), ours.modulate(sigmas[step : step + 1], additional), strict=True
        ):
            close(row, alone, 1e-5)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 40])
def test_a_row_of_the_table_does_not_depend_on_the_schedule(pairs, length):
    _, ours = pairs["plain"]
    sigmas = torch.linspace(1, 0.02, length)
    table = ours.modulation_table(sigmas)
    for step in {0, length // 2, length - 1}:
        alone: ModulationTable = ours.modulation_table(sigmas[step : step + 1])
        assert all(torch.equal(a, b) for a, b in zip(table.at(step), alone, strict=True))


@torch.no_grad()
def test_skipping_the_text_of_the_last_block_is_exact():
    _, ours = make_pair()
    shapes, img, txt = SHAPES["odd"], draw(2, 15, 64), draw(2, 6, 64)
    table = ours.modulate(torch.tensor([0.6]))
    skipped = ours(img, txt, table, shapes=shapes, lengths=[6, 4])
    assert [block.last for block in ours.transformer_blocks] == [False, True]
    ours.transformer_blocks[-1].last = False
    close(ours(img, txt, table, shapes=shapes, lengths=[6, 4]), skipped, 1e-6)
