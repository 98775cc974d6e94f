"""Distillation: one step of the student is to end where several of the teacher's do."""

from __future__ import annotations

import pytest
import torch

from smartdj_agent.models.dit import EditDiT
from smartdj_agent.sampling import Conditioning, SamplerConfig, ddim_scheduler, denoise, make_scheduler
from training.distil import DistilTask, ddim_step, one_step_target, times
from training.editor import Batch


def task(steps: int, teacher_steps: int, scale: float = 1.0) -> DistilTask:
    torch.manual_seed(0)
    made = DistilTask.__new__(DistilTask)
    made.device, made.steps, made.teacher_steps, made.guidance = "cpu", steps, teacher_steps, (scale, 0.5)
    made.teacher = EditDiT(latent_dim=6, width=16, depth=2, heads=2, mlp_ratio=2.0, rank=2, alpha=2, context_width=8)
    for parameter in made.teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.teacher.requires_grad_(False)
    made.model = made.teacher
    alphas = ddim_scheduler(1).alphas_cumprod
    made.levels = torch.cat([alphas, torch.ones(1)])
    made.empty = (torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))
    return made


def batch(timesteps: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    count = len(timesteps)
    source, edited, noise = (torch.randn(count, 6, 10, generator=generator) for _ in range(3))
    states = torch.randn(count, 3, 8, generator=generator)
    mask = torch.ones(count, 3, dtype=torch.bool)
    return Batch(source, edited, states, mask, noise, torch.tensor(timesteps))


def test_times_are_the_samplers() -> None:
    for steps in (1, 2, 4, 8):
        assert times(steps)[:-1] == ddim_scheduler(steps).timesteps.tolist()
        assert times(steps)[-1] == -1


def test_a_target_leads_to_its_end() -> None:
    noisy, end = torch.randn(2, 3), torch.randn(2, 3)
    for here, there in (((0.0, 1.0), (0.6, 0.8)), ((0.6, 0.8), (0.8, 0.6)), ((0.8, 0.6), (1.0, 0.0))):
        levels = [tuple(torch.tensor(value) for value in level) for level in (here, there)]
        target = one_step_target(noisy, end, *levels)  # type: ignore[arg-type]
        torch.testing.assert_close(ddim_step(noisy, target, *levels), end)  # type: ignore[arg-type]


def test_a_student_of_as_many_steps_learns_its_teacher() -> None:
    made = task(4, 1)
    loss, _ = made.loss(batch([999, 700, 400, 3]))
    assert loss < 1e-8
    assert task(4, 2).loss(batch([999, 700, 400, 3]))[0] > 1e-4


def test_the_teacher_goes_as_the_sampler_does() -> None:
    made = task(1, 4, scale=3.0)
    item = batch([999])
    text = Conditioning(
        torch.cat([item.states, torch.nn.functional.pad(made.empty[0], (0, 0, 0, 1))]),
        torch.cat([item.mask, torch.nn.functional.pad(made.empty[1], (0, 1))]),
    )
    config = SamplerConfig("ddim", 4, 3.0, 0.5)
    *_, (_, _, latent) = denoise(made.teacher, item.source, item.noise, text, make_scheduler(config), config)
    torch.testing.assert_close(made.taught(item, item.noise, torch.tensor([999])), latent, rtol=1e-4, atol=1e-4)


def test_held_out_figures_name_both(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(2, 2)
    made.validation = [batch([0, 0])]
    with torch.no_grad():
        figures = made.evaluate()
    assert set(figures) == {"student_error", "teacher_error", "copy_error"}
    assert all(value > 0 for value in figures.values())
