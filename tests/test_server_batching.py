"""Shared network calls: the same results, fewer calls, nobody waits for somebody who is busy elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio
from smartdj_agent.events import Finished, PlanReady
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.plan import make_plan
from smartdj_agent.server.batching import Gatherer, SharingAgent

LONG_S = 60.0
"""Longer than any test runs: who waits this long makes the test fail."""


def small_dit() -> EditDiT:
    torch.manual_seed(0)
    network = EditDiT(latent_dim=8, width=32, depth=4, heads=4, rank=4, alpha=4.0, context_width=16).eval()
    for parameter in network.parameters():  # fresh networks ignore the text: their gates are zero
        nn.init.normal_(parameter, std=0.2)
    return network


def edit(network: EditDiT, seed: int, frames: int, steps: int = 5) -> Tensor:
    """Denoise a little, as `smartdj_agent.sampling.denoise` does: guidance in the first steps only."""
    generator = torch.Generator().manual_seed(seed)
    latent, source = torch.randn((2, 1, 8, frames), generator=generator)
    states = torch.randn((2, 6, 16), generator=generator)
    mask = torch.ones((2, 6), dtype=torch.bool)
    mask[1, 1:] = False
    with torch.inference_mode():
        projected = network.text_keys_values(states)
        single = [(key[:1], value[:1]) for key, value in projected]
        for step in range(steps):
            if step < 3:
                both = torch.cat([latent, latent])
                time = torch.tensor(900 - step).expand(2)
                result = network(both, torch.cat([source, source]), time, projected, mask)
                latent = latent - 0.1 * (2 * result[:1] - result[1:])
            else:
                latent = latent - 0.1 * network(latent, source, torch.tensor([900 - step]), single, mask[:1])
    return latent


def together(gatherer: Gatherer, works: list[Callable[[], Tensor]]) -> list[Tensor]:
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], Tensor]) -> Tensor:
        with gatherer.taking_part():
            begin.wait(10)
            return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_four_edits_share_their_calls_and_come_out_the_same() -> None:
    network = small_dit()
    alone = [edit(network, seed, 20) for seed in range(4)]
    gatherer = Gatherer(4, LONG_S)
    gatherer.share(network, "forward")
    shared = together(gatherer, [lambda seed=seed: edit(network, seed, 20) for seed in range(4)])
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert one.abs().max() > 0.1
    assert gatherer.calls == 20
    assert gatherer.made == 5


def test_no_more_calls_are_joined_than_allowed() -> None:
    sizes: list[int] = []

    def double(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return 2 * x

    gatherer = Gatherer(2, LONG_S)
    results = together(gatherer, [lambda n=n: gatherer.call(double, torch.full((1, 3), n)) for n in range(3)])
    assert [int(result[0, 0]) for result in results] == [0, 2, 4]
    assert sorted(sizes) == [1, 2]


def test_calls_of_other_shapes_are_made_apart_but_at_once() -> None:
    network = small_dit()
    lengths = (20, 20, 31)
    alone = [edit(network, seed, frames) for seed, frames in enumerate(lengths)]
    gatherer = Gatherer(4, LONG_S)
    gatherer.share(network, "forward")
    shared = together(gatherer, [lambda s=s, n=n: edit(network, s, n) for s, n in enumerate(lengths)])
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert (gatherer.calls, gatherer.made) == (15, 10)


def test_different_plain_arguments_keep_calls_apart() -> None:
    gatherer = Gatherer(4, LONG_S)

    def scale(x: Tensor, *, by: float) -> tuple[Tensor, list[Tensor]]:
        return x * by, [x]

    first, second = together(
        gatherer,
        [lambda by=by: gatherer.call(scale, torch.ones(2, 3), by=by) for by in (2.0, 3.0)],
    )
    assert float(first[0].max()) == 2.0
    assert float(second[0].max()) == 3.0
    assert gatherer.made == 2


def test_what_has_no_batch_is_called_alone() -> None:
    gatherer = Gatherer(4, LONG_S)

    def total(x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight).sum()

    works = [lambda n=n: gatherer.call(total, torch.full((n, 2), 1.0), torch.tensor(3.0)) for n in (1, 2)]
    assert [float(result) for result in together(gatherer, works)] == [6.0, 12.0]


def test_an_error_reaches_only_the_call_that_caused_it() -> None:
    gatherer = Gatherer(4, LONG_S)

    def picky(x: Tensor) -> Tensor:
        if (x < 0).any():
            raise RuntimeError("negative")
        return x + 1

    def work(value: float) -> Tensor:
        if value < 0:
            with pytest.raises(RuntimeError, match="negative"):
                gatherer.call(picky, torch.full((1, 2), value))
            return torch.tensor(-1.0)
        result: Tensor = gatherer.call(picky, torch.full((1, 2), value))
        return result

    results = together(gatherer, [lambda value=value: work(value) for value in (1.0, -1.0, 2.0)])
    assert [float(result.max()) for result in results] == [2.0, -1.0, 3.0]


def test_nobody_waits_for_a_task_that_has_left() -> None:
    gatherer = Gatherer(2, LONG_S)
    inside = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:

        def leaves() -> None:
            with gatherer.taking_part():
                inside.wait(10)

        def calls() -> Tensor:
            with gatherer.taking_part():
                inside.wait(10)
                result: Tensor = gatherer.call(lambda x: x + 1, torch.zeros(1, 1))
                return result

        pool.submit(leaves)
        assert float(pool.submit(calls).result(30)) == 1.0


def test_a_busy_task_is_waited_for_only_so_long() -> None:
    gatherer = Gatherer(2, 0.01)
    with gatherer.taking_part(), ThreadPoolExecutor(1) as pool:

        def calls() -> Tensor:
            with gatherer.taking_part():
                result: Tensor = gatherer.call(lambda x: x + 1, torch.zeros(1, 1))
                return result

        assert float(pool.submit(calls).result(30)) == 1.0


@pytest.mark.parametrize("inference", [True, False])
def test_calls_are_made_in_the_callers_mode(inference: bool) -> None:
    gatherer = Gatherer(2, LONG_S)
    seen: list[bool] = []

    def note(x: Tensor) -> Tensor:
        seen.append(torch.is_inference_mode_enabled())
        return x

    def work() -> Tensor:
        with torch.inference_mode(inference):
            result: Tensor = gatherer.call(note, torch.zeros(1, 1))
            return result

    together(gatherer, [work, work])
    assert seen == [inference]


@pytest.mark.parametrize("mode", ["generate", "preserve"])
def test_the_real_agent_serves_two_threads_at_once(mode: str) -> None:
    rng = np.random.default_rng(0)
    recordings = [Audio(rng.uniform(-0.3, 0.3, (2, 12_000)).astype(np.float32), 24_000) for _ in range(2)]
    plan = make_plan(("turn down the volume of rain by 6 dB",))

    def edited(agent: Agent | SharingAgent, audio: Audio) -> tuple[tuple[str, ...], np.ndarray]:
        (ready,) = [event for event in agent.plan(audio, "add rain") if isinstance(event, PlanReady)]
        if isinstance(agent, SharingAgent):
            together.wait(60)
        texts = tuple(str(plan_step.step) for plan_step in ready.plan.steps)
        *_, finished = agent.apply(audio, plan, mode=mode, seed=1)
        assert isinstance(finished, Finished)
        return texts, finished.audio.samples

    together = threading.Barrier(2)  # plans take their own time; edits shall meet
    agent = Agent(device="cpu")
    # The shipped editor takes one step; in one of many, tasks meet wherever they were when it began.
    agent.editor.sampler = replace(agent.editor.sampler, steps=20)
    alone = [edited(agent, audio) for audio in recordings]
    gatherer = Gatherer(2, LONG_S)
    sharing = SharingAgent(agent, gatherer)
    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(lambda audio: edited(sharing, audio), recordings))
    for (plan_alone, sound_alone), (plan_shared, sound_shared) in zip(alone, shared, strict=True):
        assert plan_shared == plan_alone
        np.testing.assert_allclose(sound_shared, sound_alone, atol=1e-4)
    if mode == "generate":  # a step in preserve mode listens once, and who is first need not wait for the other
        assert gatherer.made < 0.75 * gatherer.calls
