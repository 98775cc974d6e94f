"""The paper's figures per pair and between sets, with judges that know nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartdj_agent.spatial import gcc_error, place
from training.embedders import Heard, Judges
from training.metrics import frechet_distance, lsd
from training.paper_style import (
    Tally,
    describe_judges,
    draw_paper,
    paper_columns,
    paper_grid,
    paper_values,
    set_distances,
)

RATE = 24_000


class Ears:
    """Hears each ear's level and lowest sample, once for each half of a recording; two classes."""

    key, name, distance, sample_rate = "ears", "two ears", "FAD", RATE

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, stereo: np.ndarray) -> Heard:
        self.calls += 1
        halves = np.array_split(stereo, 2, axis=1)
        vectors = np.stack([[*np.abs(half).mean(axis=1), half.min()] for half in halves])
        return Heard(vectors, np.log(np.abs(stereo).mean(axis=1) + 1e-3))


class Reader:
    """Likes every sound as much as its text is long; wants half the rate."""

    key, name, sample_rate = "reader", "a reader", RATE // 2

    def likeness(self, stereo: np.ndarray, text: str) -> float:
        return len(text) / stereo.shape[1]


class Crw:
    """A time difference that is the recording's first sample, in every one of ten frames."""

    def itds(self, stereo: np.ndarray, sample_rate: int) -> np.ndarray:
        return np.full((10, 465), float(stereo[0, 0]) * 1e-3)


def noise(seed: int) -> np.ndarray:
    mono = 0.1 * np.random.default_rng(seed).standard_normal(RATE // 2).astype(np.float32)
    return place(mono, -90.0 + 45 * (seed % 5), RATE)


def tallied(judges: Judges, clips: int = 3) -> dict[str, Any]:
    """Results of three rows: the truth itself, a quieter truth, other noise."""
    tally = Tally(judges, RATE)
    records = []
    for index in range(clips):
        truth = noise(index)
        impression = tally.hear(truth)
        for row, output in (("truth", truth), ("copy", 0.5 * truth), ("preserve", noise(index + 10))):
            figures = tally.figures("remove", row, truth, impression, output, "text")
            figures |= {"lsd": lsd(truth, output, RATE), "gcc_error": gcc_error(truth, output, RATE)}
            records.append({"task": "remove", "row": row, "index": index, "figures": figures})
    records.append({"task": "absent", "row": "copy", "index": 0, "figures": {"change_db": -120.0}})
    return {"about": {"judges": describe_judges(judges)}, "records": records, "distances": set_distances(tally.sets)}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return tallied(Judges((Ears(),), (Reader(),), Crw(), (("two ears", "ab"),), ("CLAP left out.",)))  # type: ignore[arg-type]


def test_the_truth_has_no_error(results: dict[str, Any]) -> None:
    values = paper_values(results)
    for key in ("lsd", "gcc_error", "crw_error"):
        assert values["remove", "truth", key] == (0.0, 3)
    assert values["remove", "truth", "kl_ears"][0] == pytest.approx(0.0, abs=1e-4)
    for key in ("fad_ears", "fsad"):
        assert values["remove", "truth", key][0] == pytest.approx(0.0, abs=1e-6)
        assert values["remove", "preserve", key][0] > 1e-6
    assert values["remove", "truth", "text_reader"] == (4 / 6000, 3)


def test_a_quieter_truth_is_exact_but_for_its_level(results: dict[str, Any]) -> None:
    values = paper_values(results)
    assert values["remove", "copy", "si_sdr_db"][0] > 60
    assert values["remove", "copy", "lsd"][0] == pytest.approx(np.log10(4), abs=0.02)
    assert values["remove", "copy", "gcc_error"][0] == 0.0
    # Its time difference is half of the truth's: the squared half, in ms, times 1000.
    expected = np.mean([1000 * (0.5 * float(noise(index)[0, 0])) ** 2 for index in range(3)])
    assert values["remove", "copy", "crw_error"][0] == pytest.approx(expected, rel=1e-5)


def test_distances_are_between_sets_of_all_pieces(results: dict[str, Any]) -> None:
    sets = [
        np.concatenate([Ears().embed(noise(index)).vectors for index in part]) for part in ((0, 1, 2), (10, 11, 12))
    ]
    found = paper_values(results)["remove", "preserve", "fad_ears"]
    assert found == (pytest.approx(frechet_distance(*sets)), 3)


def test_one_clip_makes_no_set() -> None:
    assert tallied(Judges((Ears(),)), clips=1)["distances"] == []


def test_the_truth_is_heard_once() -> None:
    ears = Ears()
    tallied(Judges((ears,)), clips=2)
    assert ears.calls == 2 * 3


def test_table_has_only_columns_that_were_measured(results: dict[str, Any]) -> None:
    headings, rows = paper_grid(results, ["remove", "absent"], ["copy", "truth", "preserve"])
    assert [row[:3] for row in rows] == [["remove", row, "3"] for row in ("copy", "truth", "preserve")]
    assert [heading.split(" ")[0] for heading in headings] == [
        "operation",
        "row",
        "clips",
        "FAD",
        "KL",
        "LSD",
        "LSD,",
        "text",
        "GCC,",
        "CRW",
        "FSAD",
        "SI-SDR,",
    ]
    assert rows[1][-1] == "exact"
    assert all(len(row) == len(headings) for row in rows)
    bare_headings, bare = paper_grid(tallied(Judges()), ["remove"], ["copy"])
    assert "FAD" not in " ".join(bare_headings)
    assert len(bare) == 1


def test_a_network_is_called_by_its_own_name_only() -> None:
    """Without the published weights none of the published names stands in a table but for LSD and GCC."""
    ours = {"key": "listener", "name": "our listener", "distance": "FD"}
    about = {"judges": {"embedders": [ours], "texts": [{"key": "listener", "name": "our listener"}]}}
    titles = [column.title for column in paper_columns(about)]
    assert not any("VGGish" in title or "PANNs" in title or "CLAP" in title for title in titles)
    for title in titles:
        if title.startswith(("FD", "FAD", "KL", "text")):
            assert "our listener" in title


def test_results_from_before_these_figures_have_no_table() -> None:
    old = {"about": {}, "records": [{"task": "remove", "row": "copy", "figures": {"lsd": 1.0}}]}
    assert paper_grid(old, ["remove"], ["copy"])[1] == []


def test_plot_is_written_whole(results: dict[str, Any], tmp_path: Path) -> None:
    draw_paper(tmp_path / "paper.png", results, ["remove"], {"copy": "grey", "truth": "green", "preserve": "blue"})
    assert [path.name for path in tmp_path.iterdir()] == ["paper.png"]
    assert (tmp_path / "paper.png").read_bytes().startswith(b"\x89PNG")
