"""Seeds and noise."""

import random

import pytest
import torch

from danqing.errors import RequestError
from danqing.rng import MAX_SEED, check_seed, fresh_seed, sample_noise, seeded

SHAPE = (1, 1, 16, 8, 12)


def test_noise_is_the_stream_of_a_seeded_cpu_generator():
    expected = torch.randn(SHAPE, generator=torch.Generator("cpu").manual_seed(7), dtype=torch.float32)
    noise = sample_noise(SHAPE, 7)
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    assert torch.equal(noise, expected)


def test_noise_of_seed_0_has_the_published_first_values():
    first = sample_noise((4,), 0)
    assert torch.allclose(first, torch.tensor([1.5410, -0.2934, -2.1788, 0.5684]), atol=1e-4)


def test_noise_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = sample_noise(SHAPE, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(sample_noise(SHAPE, 7), one)


def test_noise_keeps_fp32_under_another_default_dtype():
    torch.set_default_dtype(torch.bfloat16)
    try:
        noise = sample_noise(SHAPE, 7)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(noise, sample_noise(SHAPE, 7))


def test_seeds_below_2_to_the_32_differ():
    seeds = [0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
    assert len({tuple(sample_noise((8,), seed).tolist()) for seed in seeds}) == len(seeds)


def test_only_the_low_32_bits_count_as_in_the_reference():
    assert torch.equal(sample_noise(SHAPE, 7 + 2**32), sample_noise(SHAPE, 7))
    assert torch.equal(sample_noise(SHAPE, MAX_SEED), sample_noise(SHAPE, 2**32 - 1))
    assert seeded(MAX_SEED).initial_seed() == MAX_SEED


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, "7", None, True])
def test_a_wrong_seed_is_a_request_error_that_shows_it(seed):
    with pytest.raises(RequestError, match="whole number") as caught:
        check_seed(seed)
    assert repr(seed) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fresh_seeds_vary_are_valid_and_ignore_the_random_module():
    random.seed(0)
    first = [fresh_seed() for _ in range(8)]
    random.seed(0)
    second = [fresh_seed() for _ in range(8)]
    assert len({*first, *second}) > 8
    assert all(0 <= check_seed(seed) < 2**32 for seed in first + second)
