"""Natural instructions: the file is well-formed and covers what it should; judging says what is right and wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Heard
from smartdj_agent.planner import Asked
from smartdj_agent.steps import Operation, Step, parse_step
from training import natural
from training.designer import default_knowledge
from training.natural import (
    KINDS,
    Natural,
    Rule,
    answer,
    broken_rules,
    judge,
    main,
    matched,
    measure,
    read_set,
    read_wanted,
    same_step,
    same_target,
    summarise,
)

KNOWLEDGE = default_knowledge()
SET = read_set()


def key(label: str) -> str:
    return KNOWLEDGE.bank_label(label) or label


def steps(*texts: str) -> list[Step]:
    return [parse_step(text) for text in texts]


def test_the_set_covers_every_category() -> None:
    kinds = Counter(item.kind for item in SET.instructions)
    assert len(SET.instructions) >= 150
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 8
    styles = Counter(item.style for item in SET.instructions)
    assert min(styles[style] for style in ("misspelt", "foreign", "multi")) >= 15
    assert len({(item.on, item.says) for item in SET.instructions}) == len(SET.instructions)


def test_every_entry_says_what_it_asks() -> None:
    for item in SET.instructions:
        present = {label for label, _, _ in SET.recordings[item.on]}
        asking = item.kind in ("contradiction", "impossible", "empty", "offtopic")
        assert item.asks is asking, item.says
        assert bool(item.steps) or item.kind not in ("direct", "mixed"), item.says
        assert item.rule is not None or item.kind != "constraint", item.says
        assert item.more is (item.kind == "mixed"), item.says
        for wanted in map(read_wanted, item.steps):
            there = KNOWLEDGE.bank_label(wanted.step.target) in present
            assert there is (wanted.step.operation is not Operation.ADD), (item.says, wanted.step.target)
        if item.rule is not None:
            assert item.rule != Rule(), item.says
            for label in (*item.rule.keep, *item.rule.untouched, *item.rule.only):
                assert label in present, (item.says, label)
            assert set(item.rule.absent) <= set(KNOWLEDGE.labels)


def test_labels_are_of_the_bank() -> None:
    for sounds in SET.recordings.values():
        assert 1 <= len(sounds) <= 5
        for label, _, level in sounds:
            assert label in KNOWLEDGE.labels
            assert level <= 0


def test_open_values_match_anything() -> None:
    wanted = read_wanted("turn down dog barking by * dB")
    assert same_step(wanted, parse_step("turn down dog bark by 9 dB"), key)
    assert not same_step(wanted, parse_step("turn up dog barking by 3 dB"), key)
    assert not same_target(wanted, parse_step("remove dog barking"), key)
    stated = read_wanted("turn down dog barking by 6 dB")
    assert same_target(stated, parse_step("turn down dog barking by 5 dB"), key)
    assert not same_step(stated, parse_step("turn down dog barking by 5 dB"), key)
    assert same_step(stated, parse_step("turn down dog barking at the left by 6 dB"), key)
    reverb = read_wanted("reverb piano with reverb level *")
    assert same_step(reverb, parse_step("reverb piano with reverb level 9"), key)
    added = read_wanted("add rain at the right with * dB")
    assert same_step(added, parse_step("add raining at the right with 2 dB"), key)
    assert not same_step(added, parse_step("add rain at the left with 2 dB"), key)


def test_one_step_does_one_wanted_thing() -> None:
    wanted = [read_wanted("remove dog barking"), read_wanted("remove dog barking")]
    assert matched(wanted, steps("remove dog barking"), key, same_target) == 1


HEARD = (
    Heard("rain", 0.9, -20.0, -90.0, 0.0, 10.0),
    Heard("piano", 0.9, -20.0, 90.0, 0.0, 10.0),
    Heard("dog barking", 0.9, -20.0, 0.0, 0.0, 10.0),
)


@pytest.mark.parametrize(
    ("rule", "fine", "broken"),
    [
        (Rule(keep=("rain",)), "turn up rain by 3 dB", "turn down rainfall by 1 dB"),
        (Rule(keep=("rain",)), "extract rain", "extract piano"),
        (Rule(keep=("rain",)), "remove piano", "remove rain"),
        (Rule(untouched=("piano",)), "remove rain", "reverb piano with reverb level 3"),
        (Rule(untouched=("piano",)), "extract piano and rain", "extract rain"),
        (Rule(absent=("thunder",)), "remove rain", "add thunder at the left with 0 dB"),
        (Rule(absent=("rain",)), "remove rain", "remove piano"),
        (Rule(only=("rain",)), "remove rain", "remove piano"),
        (Rule(only=("rain",)), "shift rain by 1 second", "add thunder at the left with 0 dB"),
        (Rule(closed=("left",)), "add thunder at the right with 0 dB", "add thunder at the left front with 0 dB"),
        (Rule(closed=("left",)), "move rain to the right", "move piano to the left"),
        (Rule(closed=("front",)), "add thunder at the right with 0 dB", "add thunder at the front with 0 dB"),
        (Rule(no_adds=True), "remove rain", "add thunder at the right with 0 dB"),
    ],
)
def test_rules(rule: Rule, fine: str, broken: str) -> None:
    if "and rain" not in fine:
        assert broken_rules(rule, steps(fine), HEARD, key) == []
    assert broken_rules(rule, steps(broken), HEARD, key)


def test_too_many_steps_break_a_rule() -> None:
    two = steps("remove rain", "remove piano")
    assert broken_rules(Rule(max_steps=1), two, HEARD, key)
    assert broken_rules(Rule(max_steps=2), two, HEARD, key) == []


class FakePlanner:
    """Answers by what the instruction holds; counts how often it is asked."""

    def __init__(self, *_: Any) -> None:
        self.asked: list[str] = []

    def write(self, heard: Sequence[Heard], instruction: str, *, seed: int) -> Iterator[Step | Asked | str]:
        self.asked.append(instruction)
        yield "tu"
        if "silent" in instruction:
            yield Asked("Silent or loud?", ("make it silent", "make it loud"))
        else:
            yield Step(Operation.VOLUME, heard[0].label, gain_db=-6.0)


def test_answers_and_verdicts() -> None:
    planner: Any = FakePlanner()
    item = Natural(on="x", says="turn the rain down 6 dB", kind="direct", steps=("turn down rain by 6 dB",))
    answered = answer(planner, HEARD, item.says)
    assert answered == {"steps": ["turn down the volume of rain by 6 dB"], "question": "", "choices": []}
    verdict = judge(item, HEARD, answered, KNOWLEDGE)
    assert (verdict["wanted"], verdict["written"], verdict["hits"], verdict["exact_hits"]) == (1, 1, 1, 1)
    assert verdict["valid"]
    assert answer(planner, HEARD, "silent but loud")["question"] == "Silent or loud?"
    # An empty instruction never reaches the planner: every door asks for one.
    assert answer(planner, HEARD, " ")["question"]
    assert len(planner.asked) == 2
    nonsense = judge(item, HEARD, {"steps": ["dance"], "question": "", "choices": []}, KNOWLEDGE)
    assert not nonsense["valid"]
    assert nonsense["hits"] == 0
    silent = judge(item, HEARD, {"steps": [], "question": "", "choices": []}, KNOWLEDGE)
    assert not silent["valid"]


def record(kind: str, asked: bool, **verdict: Any) -> dict[str, Any]:
    asks = kind == "contradiction"
    common = {"asked": asked, "valid": True, "known": False, "changes": 2, "changes_there": 1}
    return {"kind": kind, "style": "plain", "asks": asks, "more": kind == "mixed", "verdict": common | verdict}


def test_figures_are_counted_right() -> None:
    found = summarise(
        [
            record("contradiction", True, known=True),
            record("contradiction", False),
            record("scene", True),
            record("scene", False),
            record("constraint", False, broken=["rain was to stay"]),
            record("constraint", False, broken=[]),
            record("direct", False, wanted=2, written=1, hits=1, exact_hits=0),
            record("direct", False, wanted=1, written=3, hits=1, exact_hits=1),
            record("mixed", False, wanted=2, written=6, hits=1, exact_hits=1),
        ]
    )
    shares = {name: value["share"] for name, value in found.items()}
    assert shares["question recall"] == 0.5
    assert shares["question recall, no wording of the designer's"] == 0.0
    assert shares["false questions"] == pytest.approx(1 / 7, abs=1e-4)
    assert shares["constraints kept (of plans)"] == 0.5
    assert shares["direct steps F1 (operation and sound)"] == pytest.approx(4 / 7, abs=1e-4)
    assert shares["direct steps F1 (all values)"] == pytest.approx(2 / 7, abs=1e-4)
    assert shares["mixed: asked steps done"] == 0.5
    assert shares["changed sounds that are there"] == 0.5
    assert found["asked back: scene"] == {"share": 0.5, "of": 2}


SMALL = """
recordings: {wet: [[rain, left, 0], [piano, right, -3]]}
instructions:
  - {on: wet, says: "turn the rain down by 6 dB", kind: direct, steps: ["turn down rain by 6 dB"]}
  - {on: wet, says: "silent and loud", kind: contradiction, asks: true}
  - {on: wet, says: "", kind: empty, asks: true}
"""


def test_a_run_writes_figures_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakePlanner] = []

    def fresh(*arguments: Any) -> FakePlanner:
        made.append(FakePlanner(*arguments))
        return made[-1]

    monkeypatch.setattr(natural, "Planner", fresh)
    monkeypatch.setattr(natural, "SentenceEncoder", lambda: None)
    instructions, out = tmp_path / "set.yaml", tmp_path / "out"
    instructions.write_text(SMALL)
    console = Console(quiet=True)
    first = measure(out, "small", instructions, console)
    assert first["figures"]["question recall"] == {"share": 1.0, "of": 2}
    assert first["figures"]["direct steps F1 (all values)"]["share"] == 1.0
    assert "| question recall | 100.0 % | 2 |" in (out / "summary.md").read_text()
    # A run killed within a record asks only what is missing.
    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text(lines[0] + lines[1][:20])
    assert measure(out, "small", instructions, console) == first
    assert made[1].asked == ["silent and loud"]
    assert measure(out, "small", instructions, console) == first
    assert len(made) == 2
    assert json.loads((out / "summary.json").read_text())["about"]["instructions"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace('on: wet, says: ""', 'on: dry, says: ""'), "no recording is called dry"),
        (SMALL.replace("kind: direct", "kind: other"), "kind"),
        ("recordings: [", "set.yaml"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "set.yaml"
    path.write_text(text)
    with pytest.raises(SmartDJError) as caught:
        read_set(path)
    assert caught.value.code is ErrorCode.USAGE
    assert message in caught.value.message
    assert main(["--out", str(tmp_path / "out"), "--instructions", str(path)]) == 2
    assert "error:" in capsys.readouterr().err
