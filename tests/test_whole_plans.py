"""Whole plans: exact truths, and an oracle that comes near them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import soundfile

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.listener import Listener
from smartdj_agent.steps import Operation
from training.clips import SAMPLE_RATE, ClipStore
from training.designer import default_knowledge
from training.metrics import si_sdr_db
from training.whole_plans import LEAST_STEPS, PlanCase, make_plan_case, oracle_plan

LABELS = (
    "dog barking",
    "rain",
    "car horn",
    "wind blowing",
    "church bell ringing",
    "sea waves",
    "piano",
    "crowd cheering",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """A clip per label: noise in a band of its own, so that a band mask can part any two."""
    folder = tmp_path_factory.mktemp("clips")
    rows = [("path", "label", "kind", "split")]
    for number, label in enumerate(LABELS):
        rng = np.random.default_rng(number)
        spectrum = np.zeros(12_001, np.complex128)
        low = 150 + 1200 * number
        spectrum[low : low + 500] = rng.standard_normal(500) + 1j * rng.standard_normal(500)
        samples = np.fft.irfft(spectrum)
        name = f"{number}.wav"
        soundfile.write(folder / name, 0.5 * samples / np.abs(samples).max(), SAMPLE_RATE)
        rows.append((name, label, "transient", "test"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return ClipStore.open([folder], "test")


def plan_case(store: ClipStore, index: int, seed: int = 0) -> PlanCase:
    return make_plan_case(store, default_knowledge(), "test", index, seed, 2.0)


@pytest.fixture(scope="module")
def cases(store: ClipStore) -> list[PlanCase]:
    return [plan_case(store, index) for index in range(8)]


def test_cases_are_plans_and_functions_of_their_seed(store: ClipStore, cases: list[PlanCase]) -> None:
    for case in cases:
        assert len(case.example.steps) >= LEAST_STEPS
        assert case.example.instruction
        assert case.text.count("; ") == len(case.example.steps) - 1
        assert 2 <= len(case.sounds) <= 5
        assert 0 <= case.seed < 2**32
        assert np.any(case.example.final)
    again = plan_case(store, 3)
    assert again.text == cases[3].text
    np.testing.assert_array_equal(again.example.final, cases[3].example.final)
    assert plan_case(store, 3, seed=1).seed != cases[3].seed
    assert len({case.seed for case in cases}) == len(cases)


def test_oracle_comes_nearer_than_copying(cases: list[PlanCase]) -> None:
    """But for reverbs, whose room is another one, and for plans that leave next to nothing to part."""
    listener = Listener(stem_channels=(2, 2, 2, 2), width=8, depth=1, heads=1, query_depth=1, pixel_channels=2).eval()
    gains = []
    for case in cases:
        if any(step.operation is Operation.REVERB for step in case.example.steps):
            continue
        truth = case.example.final
        gains.append(si_sdr_db(oracle_plan(case, listener), truth) - si_sdr_db(case.example.source, truth))
    assert len(gains) >= 3
    assert np.median(gains) > 6
    assert min(gains) > -1


def test_clips_that_give_no_plan_are_an_error(store: ClipStore) -> None:
    few = ClipStore([clip for clip in store.clips if clip.label in LABELS[:4]], "test")
    with pytest.raises(SmartDJError) as caught:
        plan_case(few, 0)
    assert caught.value.code is ErrorCode.USAGE
