"""Our noise levels against the scheduler of the reference."""

import math

import pytest
import torch

from danqing.sampling.schedule import LIGHTNING, TURBO, ScheduleConfig, shifted, sigma_grid
from tests.parity.peer_parts import LAYERED_SCHEDULER, SCHEDULER, TURBO_SCHEDULER, TURBO_SIGMAS

diffusers = pytest.importorskip("diffusers")

LIGHTNING_SCHEDULER = {  # the published script of the Lightning adapters
    **SCHEDULER,
    "base_shift": math.log(3),
    "max_shift": math.log(3),
    "shift_terminal": None,
}


def reference_grid(values, steps, num_tokens):
    """Return the levels as the pipeline sets them."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**values)
    keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(num_tokens, *(values[key] for key in keys))
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy(), mu=mu)
    return scheduler.sigmas


@pytest.mark.parametrize("num_tokens", [16, 256, 1024, 4096, 6889, 36864])
@pytest.mark.parametrize("steps", [2, 4, 8, 20, 50, 1000])
def test_released_grid(steps, num_tokens):
    expected = reference_grid(SCHEDULER, steps, num_tokens)
    torch.testing.assert_close(sigma_grid(ScheduleConfig(), steps, num_tokens), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lightning_grid(steps):
    expected = reference_grid(LIGHTNING_SCHEDULER, steps, 6889)
    torch.testing.assert_close(sigma_grid(LIGHTNING, steps, 6889), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [64, 16384])
def test_turbo_grid(num_tokens):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**TURBO_SCHEDULER)
    scheduler.set_timesteps(sigmas=TURBO_SIGMAS, mu=num_tokens / 1000)
    torch.testing.assert_close(sigma_grid(TURBO, 8, num_tokens), scheduler.sigmas, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("terminal", [None, 0.02])
def test_static_shift(shift, terminal):
    values = {**TURBO_SCHEDULER, "shift": shift, "shift_terminal": terminal}
    expected = reference_grid(values, 10, 1024)
    ours = sigma_grid(ScheduleConfig(**values), 10, 1024)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_tokens", [64, 1024, 4096])
def test_linear_shift(num_tokens):
    expected = reference_grid(LAYERED_SCHEDULER, 12, num_tokens)
    ours = sigma_grid(ScheduleConfig(**LAYERED_SCHEDULER), 12, num_tokens)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_a_given_linear_shift(mu):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**LAYERED_SCHEDULER)
    sigmas = torch.linspace(1, 0, 13)[:-1]
    scheduler.set_timesteps(sigmas=sigmas.numpy(), mu=mu)
    torch.testing.assert_close(shifted(sigmas, mu), scheduler.sigmas[:-1], rtol=0, atol=1e-6)


def test_one_step_goes_from_noise_to_data():
    assert sigma_grid(ScheduleConfig(), 1, 4096).tolist() == [1.0, 0.0]  # the reference divides 0 by 0 here
