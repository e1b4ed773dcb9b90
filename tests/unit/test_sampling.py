"""The path, guidance and the solvers."""

import math
from itertools import pairwise

import pytest
import torch

from danqing.errors import ConfigError, RequestError
from danqing.sampling.denoise import denoise
from danqing.sampling.guidance import guided
from danqing.sampling.path import denoised_estimate, interpolate, velocity_target
from danqing.sampling.schedule import ScheduleConfig, shifted, sigma_grid, training_sigmas


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_path_ends_in_data_and_in_noise():
    latents, noise = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    assert torch.equal(interpolate(latents, noise, torch.zeros(2)), latents)
    assert torch.equal(interpolate(latents, noise, torch.ones(2)), noise)
    mixed = interpolate(latents, noise, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(mixed[0], 0.75 * latents[0] + 0.25 * noise[0])
    assert torch.equal(mixed[1], noise[1])


def test_the_true_velocity_points_at_the_data():
    latents, noise = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    noised = interpolate(latents, noise, torch.full((2,), 0.6))
    found = denoised_estimate(noised, velocity_target(latents, noise), 0.6)
    torch.testing.assert_close(found, latents)


def test_guidance_of_one_is_the_conditional_velocity():
    cond, uncond = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    torch.testing.assert_close(guided(cond, uncond, 1.0), cond)
    torch.testing.assert_close(guided(cond, uncond, 1.0, rescale=False), cond)


def test_guidance_keeps_the_length_of_every_token():
    cond, uncond = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    free = guided(cond, uncond, 4.0, rescale=False)
    kept = guided(cond, uncond, 4.0)
    torch.testing.assert_close(free, uncond + 4 * (cond - uncond))
    torch.testing.assert_close(kept.norm(dim=-1), cond.norm(dim=-1))
    torch.testing.assert_close(torch.cosine_similarity(kept, free, dim=-1), torch.ones(2, 5))
    assert (free.norm(dim=-1) > 1.5 * kept.norm(dim=-1)).any()


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 7])
def test_solvers_are_exact_on_a_constant_velocity(solver, steps):
    data, noise = draw(1, 5, 4), draw(1, 5, 4, seed=1)
    sigmas = sigma_grid(ScheduleConfig(), steps, 256)
    found = list(denoise(lambda latents, index: noise - data, noise, sigmas, solver=solver))
    torch.testing.assert_close(found[-1].latents, data)
    for step in found:
        torch.testing.assert_close(step.denoised, data)


def error(solver, steps):
    """Solve dx/dsigma = x cos(3 sigma) from 1 to 0.1, away from the last step, which is always Euler's."""
    sigmas = torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    last = list(
        denoise(lambda x, index: x * math.cos(3 * float(sigmas[index])), start, sigmas, solver=solver)
    )[-1]
    exact = math.exp((math.sin(0.3) - math.sin(3)) / 3)
    return abs(float(last.latents) - exact)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_converge_at_their_order(solver, order):
    errors = [error(solver, steps) for steps in (80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_heun_ends_with_a_step_of_euler():
    levels = []
    sigmas = torch.tensor([1.0, 0.5, 0.0])

    def velocity(latents, index):
        levels.append(index)
        return latents

    list(denoise(velocity, draw(1, 2, 4), sigmas, solver="heun"))
    assert levels == [0, 1, 1]


def test_steps_are_numbered_from_one_and_end_at_zero():
    sigmas = sigma_grid(ScheduleConfig(), 4, 256)
    found = list(denoise(lambda latents, index: latents, draw(1, 2, 4), sigmas))
    assert [step.number for step in found] == [1, 2, 3, 4]
    assert [step.sigma for step in found] == [float(sigma) for sigma in sigmas[1:]]
    assert found[-1].sigma == 0
    torch.testing.assert_close(found[-1].latents, found[-1].denoised)


def test_an_unknown_solver_is_told_before_the_first_step():
    with pytest.raises(RequestError, match="expected one of euler, heun, found 'rk4'"):
        next(denoise(lambda latents, index: latents, draw(1, 2, 4), torch.tensor([1.0, 0.0]), solver="rk4"))


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_grid_descends_from_one_to_zero(steps):
    sigmas = sigma_grid(ScheduleConfig(), steps, 1024)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    if steps > 1:
        assert float(sigmas[-2]) == pytest.approx(0.02)


def test_more_tokens_mean_more_noise():
    small, large = (sigma_grid(ScheduleConfig(shift_terminal=None), 20, n) for n in (256, 4096))
    assert (large[1:-1] > small[1:-1]).all()


def test_a_schedule_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="expected time_shift_type exponential or linear, found 'cosine'"):
        ScheduleConfig(time_shift_type="cosine")
    with pytest.raises(RequestError, match="steps: expected at least 1, found 0"):
        sigma_grid(ScheduleConfig(), 0, 256)


def test_training_levels_are_those_of_the_seed_and_shifted_towards_noise():
    def levels(**changes):
        options = {"shift": 1.0, "uniform": 0.1, **changes}
        return training_sigmas(2000, torch.Generator().manual_seed(3), **options)

    assert torch.equal(levels(), levels())
    assert ((levels() >= 0) & (levels() <= 1)).all()
    assert float(levels(uniform=0.0).mean()) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(levels(shift=3.0), shifted(levels(), 3.0))
    assert levels(mean=1.0, uniform=0.0).mean() > levels(uniform=0.0).mean()
    assert float(levels(uniform=1.0).std()) == pytest.approx(12**-0.5, abs=0.02)
