"""The denoising loop: guards, guidance, cancelling, and accuracy on a distribution whose score is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.sampling import (
    SCHEDULE,
    Conditioning,
    SamplerConfig,
    ddim_scheduler,
    denoise,
    guided,
    make_scheduler,
)

CENTRES, WEIGHTS, DEVIATION = torch.tensor([-1.5, 0.4, 2.0]), torch.tensor([0.5, 0.2, 0.3]), 0.35


class MixtureModel:
    """The exact v-prediction for entries drawn independently from a mixture of Gaussians; it counts its calls."""

    def __init__(self, text_strength: float = 0.0) -> None:
        self.alphas = ddim_scheduler(1).alphas_cumprod.double()
        self.text_strength = text_strength
        self.batches: list[int] = []
        self.texts = 0

    def text_keys_values(self, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        self.texts += 1
        return [(states, states)]

    def __call__(self, noisy: Tensor, source: Tensor, time: Tensor, text: list, mask: Tensor) -> Tensor:
        assert len(noisy) == len(source) == len(time) == len(text[0][0]) == len(mask)
        self.batches.append(len(noisy))
        alpha = self.alphas[time.long()][:, None, None, None]
        x = noisy.double()[..., None]
        variance = alpha * DEVIATION**2 + 1 - alpha
        distance = x - alpha.sqrt() * CENTRES
        share = torch.softmax(WEIGHTS.log() - distance**2 / (2 * variance), dim=-1)
        clean = (share * (CENTRES + alpha.sqrt() * DEVIATION**2 / variance * distance)).sum(-1)
        alpha, x = alpha[..., 0], x[..., 0]
        noise = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        return (v + self.text_strength * (text[0][0].mean(dim=(1, 2))[:, None, None] + source)).float()


def text_pair(count: int = 1) -> Conditioning:
    states = torch.cat([torch.ones(count, 2, 3), torch.zeros(count, 2, 3)])
    return Conditioning(states, torch.ones(2 * count, 2, dtype=torch.bool))


def start(count: int = 1) -> Tensor:
    return torch.randn(count, 4, 50, generator=torch.Generator().manual_seed(3))


def run(config: SamplerConfig, scheduler=None, model=None, generator=None) -> Tensor:
    noise = start()
    *_, (_, _, latent) = denoise(
        model or MixtureModel(),
        torch.zeros_like(noise),
        noise,
        text_pair(),
        scheduler or make_scheduler(config),
        config,
        generator,
    )
    return latent


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("solver", ["ddim", "unipc"])
def test_steps_out_of_range(solver: str, steps: int) -> None:
    with pytest.raises(SmartDJError) as caught:
        make_scheduler(SamplerConfig(solver=solver, steps=steps))
    assert caught.value.code is ErrorCode.USAGE


def test_ddim_takes_only_divisors_of_1000() -> None:
    for steps in range(1, 1001):
        config = SamplerConfig(solver="ddim", steps=steps)
        if 1000 % steps == 0:
            scheduler = make_scheduler(config)
            assert len(scheduler.timesteps) == steps
            gaps = set((scheduler.timesteps[:-1] - scheduler.timesteps[1:]).tolist())
            assert gaps <= {1000 // steps}
        else:
            with pytest.raises(SmartDJError) as caught:
                make_scheduler(config)
            assert caught.value.code is ErrorCode.USAGE
            assert caught.value.hint


@pytest.mark.parametrize("solver", ["ddim", "unipc"])
def test_the_schedule_is_the_released_one(solver: str) -> None:
    scheduler = make_scheduler(SamplerConfig(solver=solver, steps=20))
    assert {key: scheduler.config[key] for key in SCHEDULE} == SCHEDULE
    assert int(scheduler.timesteps[0]) == 999
    assert float(ddim_scheduler(20).alphas_cumprod[-1]) < 1e-6
    assert not ddim_scheduler(20).config.clip_sample


def test_unipc_is_nearer_than_ddim() -> None:
    plain = SamplerConfig(guidance_scale=1.0)
    truth = run(replace(plain, solver="ddim", steps=1000))
    errors = {
        name: float((run(replace(plain, solver=name, steps=16), scheduler) - truth).square().mean().sqrt())
        for name, scheduler in (("unipc", None), ("ddim", ddim_scheduler(16)))
    }
    errors["ddim-20"] = float((run(replace(plain, solver="ddim", steps=20)) - truth).square().mean().sqrt())
    assert errors["unipc"] < 0.7 * errors["ddim"]
    assert errors["unipc"] < errors["ddim-20"]
    # The loop really samples the distribution.
    nearest = (truth[..., None] - CENTRES).abs().amin(dim=-1)
    assert nearest.mean() < 2 * DEVIATION


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.8, 1.0])
def test_guidance_formula(rescale: float) -> None:
    torch.manual_seed(0)
    p, n = torch.randn(2, 3, 4, 5)
    got = guided(p, n, 4.0, rescale)
    for row in range(3):
        mixed = n[row] + 4.0 * (p[row] - n[row])
        expected = rescale * mixed * p[row].std() / mixed.std() + (1 - rescale) * mixed
        torch.testing.assert_close(got[row], expected)
    if rescale == 1.0:
        torch.testing.assert_close(got.std(dim=(1, 2)), p.std(dim=(1, 2)))
    torch.testing.assert_close(guided(p, n, 1.0, rescale), p)
    torch.testing.assert_close(guided(p, p, 7.0, rescale), p)


def test_a_constant_prediction_stays_finite() -> None:
    p, n = torch.full((1, 2, 8), 2.0), torch.full((1, 2, 8), 1.0)
    torch.testing.assert_close(guided(p, n, 4.0, 0.8), torch.full((1, 2, 8), 5.0))


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.6), (0.5, 1.0), (0.0, 0.0)])
def test_guidance_interval(interval: tuple[float, float]) -> None:
    model = MixtureModel()
    run(SamplerConfig(steps=10, guidance_interval=interval), model=model)
    assert model.batches == [2 if interval[0] <= i / 10 < interval[1] else 1 for i in range(10)]
    assert model.texts == 1


def test_without_guidance_the_empty_text_is_never_computed() -> None:
    model = MixtureModel(text_strength=0.1)
    with_text = run(SamplerConfig(steps=5, guidance_scale=1.0), model=model)
    assert model.batches == [1] * 5
    full = run(SamplerConfig(steps=5, guidance_scale=1.0 + 1e-7, guidance_rescale=0.0), model=MixtureModel(0.1))
    torch.testing.assert_close(with_text, full, atol=1e-4, rtol=1e-4)
    assert (with_text - run(SamplerConfig(steps=5, guidance_scale=1.0))).abs().max() > 1e-2


def test_guidance_moves_further_along_the_text() -> None:
    results = [
        run(SamplerConfig(steps=8, guidance_scale=scale, guidance_rescale=0.0), model=MixtureModel(0.02)).mean()
        for scale in (1.0, 4.0)
    ]
    plain = run(SamplerConfig(steps=8, guidance_scale=1.0)).mean()
    assert abs(results[1] - plain) > 2 * abs(results[0] - plain)


@pytest.mark.parametrize("solver", ["ddim", "unipc"])
def test_one_yield_per_step_and_none_after_closing(solver: str) -> None:
    model, noise = MixtureModel(), start()
    config = SamplerConfig(solver=solver, steps=10)
    loop = denoise(model, torch.zeros_like(noise), noise, text_pair(), make_scheduler(config), config)
    assert model.batches == []
    seen = []
    for done, total, latent in loop:
        seen.append(done)
        assert total == 10
        assert latent.shape == noise.shape
        assert len(model.batches) == done
        if done == 4:
            loop.close()
    assert seen == [1, 2, 3, 4]
    assert len(model.batches) == 4
    assert not torch.is_inference_mode_enabled()


def test_the_whole_loop_yields_every_step_in_order() -> None:
    model, noise = MixtureModel(), start()
    config = SamplerConfig(steps=7)
    done = [d for d, *_ in denoise(model, noise, noise, text_pair(), make_scheduler(config), config)]
    assert done == list(range(1, 8))


def test_a_batch_is_its_rows() -> None:
    config = SamplerConfig(steps=6)
    noise = start(3)
    states = torch.randn(6, 2, 3)
    mask = torch.ones(6, 2, dtype=torch.bool)

    def sample(rows: list[int]) -> Tensor:
        text = Conditioning(states[[*rows, *(row + 3 for row in rows)]], mask[: 2 * len(rows)])
        part = noise[rows]
        model = MixtureModel(0.1)
        *_, (_, _, latent) = denoise(model, part, part, text, make_scheduler(config), config)
        return latent

    together = sample([0, 1, 2])
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], sample([row]), atol=1e-5, rtol=1e-4)


def test_ddim_noise_comes_from_the_generator() -> None:
    config = SamplerConfig(solver="ddim", steps=10, eta=0.8)
    first, again, other = (run(config, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-2
    assert torch.equal(run(replace(config, eta=0.0)), run(replace(config, eta=0.0)))
