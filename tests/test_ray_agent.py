"""A batch on Ray: the same events as here, lost workers cost a step, a stop stops."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartdj_agent import cli
from smartdj_agent.audio import Audio, read_audio, write_audio
from smartdj_agent.batch.ray_agent import RayAgent
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event, PlanReady, Progress, StepFinished
from smartdj_agent.plan import Plan
from smartdj_agent.scatter import connected
from tests.fake_agent import FakeAgent

AUDIO = Audio(np.random.default_rng(0).uniform(-0.3, 0.3, (2, 4000)).astype(np.float32), 8000)


class MortalAgent(FakeAgent):
    """Kills its process in the second step, as often as `deaths` says; what it does is written down."""

    def __init__(self, folder: Path, deaths: int) -> None:
        super().__init__(closed_marker=folder / "closed")
        self.folder = folder
        self.deaths = deaths

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """As the fake's."""
        for event in super().apply(audio, plan, mode=mode, seed=seed, done=done):
            if isinstance(event, Progress) and event.fraction == 0.5:
                with (self.folder / "began").open("a") as file:
                    file.write(f"{event.index}\n")
                if event.index == 1 and (self.folder / "began").read_text().split().count("1") <= self.deaths:
                    time.sleep(0.5)  # what came before gets to the other side
                    os.kill(os.getpid(), signal.SIGKILL)
            yield event


def mortal(folder: Path, deaths: int, preset: str = "small", device: str = "auto") -> MortalAgent:
    return MortalAgent(folder, deaths)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected("local", 2) as connection:
        yield connection


def planned(agent: Any) -> Plan:
    return next(event.plan for event in agent.plan(AUDIO, "make it rain") if isinstance(event, PlanReady))


def results(events: list[Event]) -> list[bytes]:
    return [event.audio.samples.tobytes() for event in events if isinstance(event, StepFinished)]


@pytest.mark.parametrize("mode", ["preserve", "generate"])
def test_a_lost_worker_costs_the_step_that_it_was_at(ray: Any, tmp_path: Path, mode: str) -> None:
    agent = RayAgent(ray, partial(mortal, tmp_path, 2))
    assert agent.max_parallel == 2
    plan = planned(agent)
    here = list(FakeAgent().apply(AUDIO, plan, mode=mode))
    there = list(agent.apply(AUDIO, plan, mode=mode))
    assert results(there) == results(here)
    assert type(there[-1]) is type(here[-1])
    began = (tmp_path / "began").read_text().split()
    expected = {"preserve": ["0", "1", "1", "1", "2"], "generate": ["0", "1", "0", "1", "0", "1", "2"]}
    assert began == expected[mode]


def test_errors_come_back_and_hopeless_work_is_given_up(ray: Any, tmp_path: Path) -> None:
    agent = RayAgent(ray, partial(mortal, tmp_path, 100))
    with pytest.raises(SmartDJError) as caught:
        list(agent.plan(AUDIO, "missing"))
    assert caught.value.code is ErrorCode.MODEL_MISSING
    with pytest.raises(SmartDJError) as caught:
        list(agent.apply(AUDIO, planned(agent)))
    assert caught.value.code is ErrorCode.WORKER_CRASHED


def test_a_batch_on_ray_has_the_bytes_of_one_here(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"here": lambda preset, device: FakeAgent(), "there": partial(mortal, tmp_path, 1)}
    for folder, options in (("here", []), ("there", ["--ray", "local"])):
        (tmp_path / folder).mkdir()
        for number in range(3):
            write_audio(tmp_path / folder / f"{number}.wav", replace(AUDIO, samples=AUDIO.samples / (1 + number)))
        monkeypatch.setattr(cli, "make_agent", agents[folder])
        assert cli.main(["batch", str(tmp_path / folder), "make it rain", "--yes", *options]) == 0
    made = [sorted((tmp_path / folder).glob("*-smartdj.wav")) for folder in ("here", "there")]
    assert [path.name for path in made[0]] == [path.name for path in made[1]]
    assert len(made[0]) == 3
    assert [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]]
    assert not np.array_equal(read_audio(made[1][0]).samples, AUDIO.samples)
