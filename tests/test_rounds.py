"""Rounds of adding and removing, with editors whose drift is known."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.audio import Audio
from smartdj_agent.editor import Chain, Layers, StepOutcome, StepProgress
from smartdj_agent.steps import Operation, Step
from training import rounds
from training.clips import SAMPLE_RATE
from training.evaluate import Case
from training.metrics import CHANGE_FLOOR_DB


@pytest.fixture(scope="module")
def case() -> Case:
    source = 0.1 * np.random.default_rng(0).standard_normal((2, SAMPLE_RATE // 2)).astype(np.float32)
    step = Step(Operation.ADD, "dog barking", azimuth_deg=0.0, gain_db=0.0)
    return Case("add", 4, 99, step, (("rain", 0.0),), source, source, source, source)


class DriftingEditor:
    """Adding does nothing; removing scales the recording."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.asked: list[tuple[str, str, int, bool]] = []
        self.layered: list[bool] = []

    def preserve(
        self, audio: Audio, step: Step, *, seed: int, layers: Layers | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        self.layered.append(layers is not None)
        yield from self._edit("preserve", audio, step, seed, None)

    def generate(
        self, audio: Audio, step: Step, *, seed: int, chain: Chain | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        yield from self._edit("generate", audio, step, seed, chain)

    def _edit(
        self, mode: str, audio: Audio, step: Step, seed: int, chain: Chain | None
    ) -> Iterator[StepProgress | StepOutcome]:
        self.asked.append((mode, str(step.operation), seed, chain is not None))
        yield StepProgress(0.5, "editing")
        scale = np.float32(self.scale if step.operation is Operation.REMOVE else 1.0)
        chained = Chain((), 1.0) if mode == "generate" else None
        layers = Layers(audio.samples) if mode == "preserve" else None
        yield StepOutcome(audio.samples * scale, "fake", 0.7, ((0, audio.n_samples),), chain=chained, layers=layers)


@pytest.mark.parametrize(("mode", "layered"), [("preserve", [False, True, True, True]), ("separate", [False] * 4)])
def test_only_one_plan_keeps_apart_what_it_added(case: Case, mode: str, layered: list[bool]) -> None:
    editor = DriftingEditor(0.5)
    list(rounds.play_rounds(editor, mode, case, 2))
    assert editor.layered == layered


def test_each_round_starts_from_what_the_last_left(case: Case) -> None:
    editor = DriftingEditor(0.5)
    played = list(rounds.play_rounds(editor, "preserve", case, 3))
    assert [each.number for each in played] == [1, 2, 3]
    # Half the amplitude is 0.602 in log10 of power; drift adds up to the original, not to the round before.
    assert [each.lsd for each in played] == pytest.approx([0.602, 1.204, 1.806], abs=0.01)
    assert [each.change_db for each in played] == pytest.approx(
        [20 * np.log10(1 - 0.5**n) for n in (1, 2, 3)], abs=1e-3
    )
    assert {(each.mode, each.mixture, each.sound, each.confidence) for each in played} == {
        ("preserve", 4, "dog barking", 0.7)
    }
    assert editor.asked == [("preserve", kind, 99 + n, False) for n in (1, 2, 3) for kind in ("add", "remove")]


def test_generate_chains_within_a_round_only(case: Case) -> None:
    editor = DriftingEditor(1.0)
    played = list(rounds.play_rounds(editor, "generate", case, 2))
    assert [chained for *_, chained in editor.asked] == [False, True, False, True]
    assert {each.lsd for each in played} == {0.0}
    assert {each.change_db for each in played} == {CHANGE_FLOOR_DB}


def made(mode: str, mixture: int, lsds: list[float]) -> list[rounds.Round]:
    return [rounds.Round(mode, mixture, "rain", number, lsd, -10.0, 0.5) for number, lsd in enumerate(lsds, 1)]


def test_curve_and_bar() -> None:
    falling = made("preserve", 0, [1.0, 0.5]) + made("preserve", 1, [3.0, 2.5]) + made("generate", 0, [1.0, 9.0])
    points = rounds.curve(falling)
    first = next(point for point in points if (point.mode, point.figure, point.number) == ("preserve", "lsd", 1))
    assert (first.mixtures, first.mean, first.median, first.low, first.high) == (2, 2.0, 2.0, 1.5, 2.5)
    assert rounds.holds_bar(points)
    assert not rounds.holds_bar(rounds.curve(made("preserve", 0, [1.0, 0.2, 1.1])))
    assert rounds.holds_bar(rounds.curve(made("generate", 0, [1.0, 9.0])))


def test_files(tmp_path: Path) -> None:
    played = made("preserve", 0, [1.0, 0.5]) + made("generate", 0, [1.0, 9.0])
    rounds.write_results(tmp_path / "new", played, "test")
    folder = tmp_path / "new"
    assert sorted(path.name for path in folder.iterdir()) == ["curve.csv", "rounds.csv", "rounds.png"]
    with (folder / "rounds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mode"], row["number"], float(row["lsd"])) for row in rows] == [
        ("preserve", "1", 1.0),
        ("preserve", "2", 0.5),
        ("generate", "1", 1.0),
        ("generate", "2", 9.0),
    ]
    with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2 * 2 * 2
    assert (folder / "rounds.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_use_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rounds.main(["--out", str(tmp_path), "--rounds", "0"])
    assert rounds.main(["--out", str(tmp_path), "--folders", str(tmp_path)]) == 2
    assert "manifest" in capsys.readouterr().err
