"""Plans: documents that a person can edit, limits on what is read, and files that are never half written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import (
    MAX_PLAN_BYTES,
    MAX_STEPS,
    Plan,
    PlanStep,
    Provenance,
    check_source,
    make_plan,
    plan_from_json,
    plan_from_yaml,
    plan_to_json,
    plan_to_yaml,
    read_plan,
    write_plan,
)
from smartdj_agent.steps import Operation, Step, format_step, parse_step

HASH = "0123456789abcdef" * 4
STEPS = ("remove the sound of metal knock", "add seagulls at left by 3 dB", "turn down motorboat by 2 dB")


@pytest.fixture
def plan() -> Plan:
    made = make_plan(
        STEPS,
        "make this sound like a dock",
        source_sha256=HASH,
        source_name="harbour.wav",
        provenance=Provenance("small", "small", 7, "2026-01-02T03:04:05+00:00"),
    )
    return made.toggled("s2")


def expect(code: ErrorCode, field: str, call: Callable[[], object]) -> SmartDJError:
    with pytest.raises(SmartDJError) as caught:
        call()
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


# --- documents ------------------------------------------------------------


def test_a_plan_round_trips(plan: Plan) -> None:
    assert plan_from_yaml(plan_to_yaml(plan)) == plan
    assert plan_from_json(plan_to_json(plan)) == plan


def test_the_yaml_is_for_people(plan: Plan) -> None:
    text = plan_to_yaml(plan)
    assert text.startswith("# SmartDJ plan.")
    assert "version: 1\ninstruction: make this sound like a dock\n" in text
    assert "- id: s2\n  do: add the sound of seagulls at the left with 3 dB\n  enabled: false\n" in text
    assert all(len(line) < 100 for line in text.splitlines())


def test_every_example_in_the_header_is_a_step(plan: Plan) -> None:
    header = [line.removeprefix("#").strip() for line in plan_to_yaml(plan).splitlines() if line.startswith("#")]
    examples = [line for line in header if line.startswith(("add the", "turn", "change"))]
    assert len(examples) == 3
    for example in examples:
        assert format_step(parse_step(example)) == example


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n\r\t"), max_size=40)


def _step_or_none(label: str) -> Step | None:
    try:
        return Step(Operation.REMOVE, label)
    except SmartDJError:
        return None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(TEXTS.map(_step_or_none).filter(bool), st.booleans()), max_size=5),
    TEXTS,
    TEXTS,
    st.none() | st.integers(-(2**63), 2**63),
)
def test_any_text_survives_the_file(
    steps: list[tuple[Step, bool]], instruction: str, name: str, seed: int | None
) -> None:
    plan = Plan(
        tuple(PlanStep(f"s{i}", step, enabled) for i, (step, enabled) in enumerate(steps)),
        instruction,
        HASH,
        name,
        Provenance(planner=name, seed=seed),
    )
    assert plan_from_yaml(plan_to_yaml(plan)) == plan
    assert plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize("text", ["null", "~", "true", "on", "1", "1e3", "2026-01-01", "", " x ", "- a", "a: b", "# c"])
def test_text_that_yaml_could_mistake_stays_text(text: str) -> None:
    plan = make_plan(["remove rain"], text, source_name=text)
    assert plan_from_yaml(plan_to_yaml(plan)) == plan


def test_a_bare_list_of_steps_is_a_plan() -> None:
    assert plan_from_yaml("- Remove metal knock\n- Add seagulls at left by 3dB\n") == make_plan(
        ["remove metal knock", "add seagulls at left by 3 dB"]
    )
    assert plan_from_json('["remove metal knock"]') == make_plan(["remove metal knock"])


def test_hand_written_steps_get_free_ids() -> None:
    plan = plan_from_yaml(
        "version: 1\nsteps:\n- remove a\n- {id: s1, do: remove b}\n"
        "- {do: remove c, enabled: no}\n- {id: 7, do: remove d}\n"
    )
    assert [(s.id, s.step.target, s.enabled) for s in plan.steps] == [
        ("s2", "a", True),
        ("s1", "b", True),
        ("s3", "c", False),
        ("7", "d", True),
    ]


def test_an_all_digit_hash_stays_a_hash() -> None:
    digits = "1" * 64
    assert plan_from_yaml(f"version: 1\nsource: {{sha256: {digits}}}\nsteps: []").source_sha256 == digits


BAD = [
    ("", ErrorCode.PLAN_INVALID, "plan", "Write at least one step"),
    ("just text", ErrorCode.PLAN_INVALID, "plan", "version: 1"),
    ("steps: [remove a]", ErrorCode.PLAN_INVALID, "plan.version", "version: 1"),
    ("version: 2\nsteps: []", ErrorCode.PLAN_VERSION, "plan.version", "Make the plan again"),
    ("version: one\nsteps: []", ErrorCode.PLAN_VERSION, "plan.version", "Make the plan again"),
    ("version: 1", ErrorCode.PLAN_INVALID, "plan.steps", "- do:"),
    ("version: 1\nsteps: remove a", ErrorCode.PLAN_INVALID, "plan.steps", "- do:"),
    ("version: 1\nstepz: []", ErrorCode.PLAN_INVALID, "plan.stepz", "Did you mean 'steps'?"),
    (
        "version: 1\nsteps:\n- {doo: remove a}",
        ErrorCode.PLAN_INVALID,
        "plan.steps[0].doo",
        "Did you mean 'do'?",
    ),
    ("version: 1\nsource: {sha: x}\nsteps: []", ErrorCode.PLAN_INVALID, "plan.source.sha", "'sha256'"),
    ("version: 1\nsource: x\nsteps: []", ErrorCode.PLAN_INVALID, "plan.source", "name, sha256"),
    (
        "version: 1\nsource: {sha256: abc}\nsteps: []",
        ErrorCode.PLAN_INVALID,
        "plan.source.sha256",
        "64 digits",
    ),
    (
        "version: 1\nprovenance: {sed: 1}\nsteps: []",
        ErrorCode.PLAN_INVALID,
        "plan.provenance.sed",
        "Did you mean 'seed'?",
    ),
    (
        "version: 1\nprovenance: {seed: x}\nsteps: []",
        ErrorCode.PLAN_INVALID,
        "plan.provenance.seed",
        "whole number",
    ),
    ("version: 1\ninstruction: [a]\nsteps: []", ErrorCode.PLAN_INVALID, "plan.instruction", "as text"),
    ("- remove a\n- fly away", ErrorCode.STEP_SYNTAX, "plan.steps[1].do", "A step begins with"),
    (
        "- remove a\n- remove b\n- turn up c by 50 dB",
        ErrorCode.STEP_RANGE,
        "plan.steps[2].gain_db",
        "-24 to 24 dB",
    ),
    ("- remove a: b", ErrorCode.PLAN_INVALID, "plan.steps[0].remove a", "in quotes"),
    ("- [remove a]", ErrorCode.PLAN_INVALID, "plan.steps[0]", "as text"),
    ("- {id: s1}", ErrorCode.PLAN_INVALID, "plan.steps[0].do", "do:"),
    ("- {id: [1], do: remove a}", ErrorCode.PLAN_INVALID, "plan.steps[0].id", "short name"),
    ("- {id: a b, do: remove a}", ErrorCode.PLAN_INVALID, "plan.steps[0].id", "letters"),
    ("- {do: remove a, enabled: maybe}", ErrorCode.PLAN_INVALID, "plan.steps[0].enabled", "true or false"),
    ("- {do: remove a, enabled: }", ErrorCode.PLAN_INVALID, "plan.steps[0].enabled", "true or false"),
    (
        "- {id: x, do: remove a}\n- {id: x, do: remove b}",
        ErrorCode.PLAN_INVALID,
        "plan.steps[1].id",
        "own id",
    ),
    ("- remove a\n" * (MAX_STEPS + 1), ErrorCode.PLAN_INVALID, "plan.steps", "several plans"),
    ("version: 1\nversion: 1\nsteps: []", ErrorCode.PLAN_INVALID, "plan", "Keep one"),
    ("\t- remove a", ErrorCode.PLAN_INVALID, "plan", "spaces"),
    ("- remove a\n- 'b", ErrorCode.PLAN_INVALID, "plan", "quotes"),
    ("- remove a\n---\n- remove b", ErrorCode.PLAN_INVALID, "plan", "quotes"),
    ("- &x remove a\n- *x", ErrorCode.PLAN_INVALID, "plan", "Write the value out"),
    ("- !!python/object/apply:os.system [ls]", ErrorCode.PLAN_INVALID, "plan", "without it"),
    ("? [a]\n: b", ErrorCode.PLAN_INVALID, "plan", "in quotes"),
    ("[" * 5000, ErrorCode.PLAN_INVALID, "plan", "simple list"),
    ("- " * 5000, ErrorCode.PLAN_INVALID, "plan", "simple list"),
    ("- a\n" * 5000, ErrorCode.PLAN_INVALID, "plan", "at most 50"),
    ("- \x00", ErrorCode.PLAN_INVALID, "plan", "quotes"),
    ("x" * (MAX_PLAN_BYTES + 1), ErrorCode.PLAN_INVALID, "plan", "right file"),
]


@pytest.mark.parametrize(("text", "code", "field", "hint"), BAD, ids=lambda value: str(value)[:30])
def test_a_bad_document_is_one_clear_error(text: str, code: ErrorCode, field: str, hint: str) -> None:
    assert hint in expect(code, field, lambda: plan_from_yaml(text)).hint


def test_a_yaml_error_names_the_line() -> None:
    assert "line 3" in expect(ErrorCode.PLAN_INVALID, "plan", lambda: plan_from_yaml("- a\n- b\n\t- c")).message


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("", ErrorCode.PLAN_INVALID, "plan"),
        ("{", ErrorCode.PLAN_INVALID, "plan"),
        ("[" * 200_000, ErrorCode.PLAN_INVALID, "plan"),
        ("9" * 10_000, ErrorCode.PLAN_INVALID, "plan"),
        ('{"version": 1, "version": 1, "steps": []}', ErrorCode.PLAN_INVALID, "plan"),
        ('{"version": true, "steps": []}', ErrorCode.PLAN_VERSION, "plan.version"),
        ('{"version": 1, "instruction": 5, "steps": []}', ErrorCode.PLAN_INVALID, "plan.instruction"),
        ('{"version": 1, "instruction": "\\ud800", "steps": []}', ErrorCode.PLAN_INVALID, "plan.instruction"),
        ('{"version": 1, "steps": [null]}', ErrorCode.PLAN_INVALID, "plan.steps[0]"),
        ('{"version": 1, "steps": [{"do": 5}]}', ErrorCode.PLAN_INVALID, "plan.steps[0].do"),
        (
            '{"version": 1, "steps": [{"do": "remove a", "enabled": 1}]}',
            ErrorCode.PLAN_INVALID,
            "plan.steps[0].enabled",
        ),
        (
            '{"version": 1, "steps": [], "provenance": {"seed": 1.5}}',
            ErrorCode.PLAN_INVALID,
            "plan.provenance.seed",
        ),
    ],
)
def test_bad_json_is_one_clear_error(text: str, code: ErrorCode, field: str) -> None:
    expect(code, field, lambda: plan_from_json(text))


YAML_WORDS = "- : ? [ ] { } , & * ! | > ' \" # % @ ` \n do id steps version 1 remove a"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=100) | st.lists(st.sampled_from(YAML_WORDS.split(" "))).map(" ".join))
def test_any_text_is_a_plan_or_a_smartdj_error(text: str) -> None:
    for read in (plan_from_yaml, plan_from_json):
        try:
            plan = read(text)
        except SmartDJError:
            continue
        assert plan_from_yaml(plan_to_yaml(plan)) == plan


@pytest.mark.parametrize(
    "text",
    [
        "- " + "x" * 1_000_000,
        "- 'x " + "\n  y" * 200_000,
        "{" + "a, " * 300_000,
        "# x\n" * 250_000,
        "- |\n" + " x\n" * 300_000,
    ],
    ids=["word", "quoted", "flow", "comments", "block"],
)
def test_a_large_document_is_refused(text: str) -> None:
    with pytest.raises(SmartDJError):
        plan_from_yaml(text)


# --- editing --------------------------------------------------------------


def test_editing_keeps_ids(plan: Plan) -> None:
    moved = plan.reordered(["s3", "s1", "s2"])
    assert [s.id for s in moved.steps] == ["s3", "s1", "s2"]
    assert moved.steps[0] == plan.steps[2]
    assert [s.id for s in plan.without("s1").steps] == ["s2", "s3"]
    assert [s.id for s in plan.enabled_steps()] == ["s1", "s3"]
    assert plan.toggled("s2").enabled_steps() == plan.toggled("s2").steps
    assert (moved.instruction, moved.source_sha256) == (plan.instruction, plan.source_sha256)


def test_steps_are_added_and_replaced(plan: Plan) -> None:
    added = plan.without("s2").with_step("remove rain", position=0)
    assert [(s.id, s.step.target) for s in added.steps] == [
        ("s2", "rain"),
        ("s1", "metal knock"),
        ("s3", "motorboat"),
    ]
    replaced = plan.with_step("remove rain", id="s2")
    assert replaced.steps[1] == PlanStep("s2", parse_step("remove rain"), enabled=False)
    assert len(plan.steps) == 3


def test_impossible_edits_are_errors(plan: Plan) -> None:
    assert "s1, s2, s3" in expect(ErrorCode.PLAN_INVALID, "id", lambda: plan.without("s9")).hint
    expect(ErrorCode.PLAN_INVALID, "ids", lambda: plan.reordered(["s1", "s2"]))
    expect(ErrorCode.PLAN_INVALID, "ids", lambda: plan.reordered(["s1", "s2", "s2"]))
    full = make_plan(["remove a"] * MAX_STEPS)
    expect(ErrorCode.PLAN_INVALID, "plan.steps", lambda: full.with_step("remove b"))


def test_a_bad_step_names_its_place() -> None:
    error = expect(ErrorCode.STEP_RANGE, "plan.steps[1].gain_db", lambda: make_plan(["remove a", "turn up b by 99 dB"]))
    assert error.message == "plan.steps[1]: gain_db is 99 dB; allowed is -24 to 24 dB"


def test_a_plan_for_another_recording_is_refused(plan: Plan) -> None:
    check_source(plan, HASH)
    check_source(plan, HASH.upper())
    check_source(replace(plan, source_sha256=""), "f" * 64)
    error = expect(ErrorCode.PLAN_MISMATCH, "plan.source.sha256", lambda: check_source(plan, "f" * 64))
    assert "harbour.wav" in error.message


# --- files ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["plan.yaml", "plan.yml", "plan.json", "plan"])
def test_a_file_round_trips(plan: Plan, tmp_path: Path, name: str) -> None:
    write_plan(tmp_path / name, plan)
    assert read_plan(tmp_path / name) == plan
    assert os.listdir(tmp_path) == [name]


def test_json_files_hold_json(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", plan)
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == 1


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + plan_to_yaml(plan).replace("\n", "\r\n").encode())
    assert read_plan(path) == plan


def test_an_existing_file_is_kept_unless_asked(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    expect(ErrorCode.OUTPUT_EXISTS, "", lambda: write_plan(path, plan))
    assert path.read_text() == "mine"
    write_plan(path, plan, overwrite=True)
    assert read_plan(path) == plan
    assert os.listdir(tmp_path) == ["plan.yaml"]


def test_a_file_that_appears_meanwhile_is_kept(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    expect(ErrorCode.OUTPUT_EXISTS, "", lambda: write_plan(path, plan))
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["plan.yaml"]


def test_file_systems_without_hard_links_work(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "plan.yaml"
    write_plan(path, plan)
    assert read_plan(path) == plan
    expect(ErrorCode.OUTPUT_EXISTS, "", lambda: write_plan(path, plan))
    assert os.listdir(tmp_path) == ["plan.yaml"]


def test_a_full_disk_leaves_nothing_behind(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    expect(ErrorCode.DISK_FULL, "", lambda: write_plan(tmp_path / "plan.yaml", plan))
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (
        tmp_path / "none" / "plan.yaml",
        tmp_path,
        tmp_path / "file" / "plan.yaml",
        tmp_path / "a\0b",
    ):
        expect(ErrorCode.OUTPUT_UNWRITABLE, "", lambda path=path: write_plan(path, plan, overwrite=True))


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    (tmp_path / "audio.wav").write_bytes(b"RIFF\xff\xfe\x00\x00WAVE")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_PLAN_BYTES + 1))
    for name in ("missing.yaml", "audio.wav", "large.yaml", ".", "a\0b"):
        expect(ErrorCode.PLAN_INVALID, "plan", lambda name=name: read_plan(tmp_path / name))
