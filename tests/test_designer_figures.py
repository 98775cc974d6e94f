"""Figures of the designer's pairs: counted right, written whole, the published plans as published."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from smartdj_agent.plan_text import plan_text
from smartdj_agent.steps import parse_step
from training.designer import ScenePresent, default_knowledge
from training.designer_figures import (
    PAPER,
    PUBLISHED_PLANS,
    count_pairs,
    count_published,
    main,
    overlap,
    table_csv,
    words_of,
    write_figures,
)
from training.pairs import Pair, write_pairs

KNOWLEDGE = default_knowledge()


def pair(kind: str, instruction: str, *plans: str, style: str = "plain", scene: str = "") -> Pair:
    present = (ScenePresent("rain", 0.0), ScenePresent("piano", 90.0))
    return Pair(0, (), instruction, plans, present, kind, style, (), scene, ())


def test_counts() -> None:
    plan = plan_text([parse_step("remove rain"), parse_step("add thunder at the left with 3 dB")])
    asked = "ask What?\nor make it quiet\nor make it loud\n"
    counts = count_pairs(
        [
            pair("scene", "a stormy night", plan, "turn up rain by 2 dB\n", scene="thunderstorm, at night"),
            pair("direct", "rain 2 dB up", "turn up rain by 2 dB\n", style="direct"),
            pair("question", "hm", asked, style="empty"),
            pair("direct", "rain out", "remove cat meowing\n", style="direct"),
        ],
        KNOWLEDGE,
    )
    assert counts.unsound == 1
    assert counts.kinds == {"scene": 1, "direct": 2, "question": 1}
    assert counts.operations == {"remove": 2, "add": 1, "volume": 1}
    assert counts.plan_length == {"2": 1, "1": 2}
    assert counts.gains_db == {"3": 1, "2": 1}
    assert counts.add_azimuths == {"left": 1}
    assert counts.scenes == {"thunderstorm": 1}
    assert counts.labels["rain"] == 2
    assert counts.questions == {"empty": 1}
    assert counts.styles == {"plain": 1, "direct": 2}
    assert counts.shares("kinds")["direct"] == 0.5


def test_published_plans() -> None:
    counts = count_published(KNOWLEDGE)
    assert counts.pairs == len(PUBLISHED_PLANS) == 12
    assert set(counts.plan_length) == {"2", "3", "4"}
    assert set(counts.operations) == {"add", "remove", "volume", "direction"}
    assert set(counts.add_azimuths) == {"left", "front", "right"}


def test_overlap() -> None:
    train = ["Turn this into a busy street, please", "remove the dog"]
    found = overlap(train, ["turn this into a busy harbour", "Remove the dog!"], 5)
    assert found == {"same": 0.5, "ngrams": 0.5}
    assert overlap(train, ["hello"], 5) == {"same": 0.0, "ngrams": 0.0}
    assert overlap([*train, "???"], ["...", "hello"], 5) == {"same": 0.0, "ngrams": 0.0}
    assert words_of("Don't — stop, 3dB") == ("don't", "stop", "3db")


def test_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "docs"
    assert main(["--pairs", str(pairs), "--out", str(out)]) == 2
    assert "no finished set" in capsys.readouterr().err
    manifest = write_pairs(pairs, train=30, test=10, shard_size=20)
    assert main(["--pairs", str(pairs), "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "figures.csv").open()))
    lengths = [row for row in rows if row["figure"] == "plan_length" and row["set"] == PAPER]
    assert {row["value"]: row["count"] for row in lengths} == {"3": "8", "4": "3", "2": "1"}
    assert sum(int(row["count"]) for row in rows if row["figure"] == "kinds" and row["set"] == "our train") == 30
    assert (out / "figures.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "README.md").read_text()
    assert manifest["test_sha256"] in page
    assert "0 of our train, 0 of our test" in page
    assert json.loads((pairs / "manifest.json").read_text())["train"] == 30
    assert write_figures(pairs, out, first=7)["our train"].pairs == 7


def test_the_table_holds_every_value_once() -> None:
    rows = table_csv({PAPER: count_published(KNOWLEDGE)}).splitlines()
    assert rows[0] == "figure,value,set,count,share"
    assert len({tuple(row.split(",")[:2]) for row in rows[1:] if row.startswith("labels")}) == sum(
        row.startswith("labels") for row in rows
    )
