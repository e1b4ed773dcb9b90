"""Packing latents into tokens, for every size."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from danqing.conditioning.latents import noise_tokens, pack, unpack
from danqing.rng import sample_noise

HALVES = st.integers(1, 6)


@given(batch=st.integers(1, 3), channels=st.integers(1, 5), rows=HALVES, columns=HALVES)
def test_unpack_undoes_pack(batch, channels, rows, columns):
    latents = torch.arange(batch * channels * 4 * rows * columns).float()
    latents = latents.view(batch, channels, 2 * rows, 2 * columns)
    tokens = pack(latents)
    assert tokens.shape == (batch, rows * columns, 4 * channels)
    assert torch.equal(unpack(tokens, rows), latents)


@given(rows=HALVES, columns=HALVES, row=st.integers(0, 11), column=st.integers(0, 11))
def test_a_token_is_one_patch(rows, columns, row, column):
    row, column = row % rows, column % columns
    latents = torch.randn(1, 3, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(0))
    patch = latents[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.equal(pack(latents)[0, row * columns + column], patch.flatten())


@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), rows=HALVES, columns=HALVES)
def test_noise_is_a_function_of_each_seed_alone(seeds, rows, columns):
    size = {"channels": 4, "lat_h": 2 * rows, "lat_w": 2 * columns}
    noise = noise_tokens(seeds, **size)
    for row, seed in zip(noise, seeds, strict=True):
        assert torch.equal(row, noise_tokens([seed], **size)[0])
        drawn = sample_noise((1, 1, 4, 2 * rows, 2 * columns), seed)[0]
        assert torch.equal(unpack(row[None], rows), drawn)
