"""The step language: every published spelling, exact round trips, bounds, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.steps import (
    DIRECTIONS,
    MAX_LABEL_CHARS,
    OPERATIONS,
    REVERB_WORDS,
    Operation,
    Step,
    Timbre,
    direction_name,
    format_step,
    parse_step,
    prompt_table,
    rt60_s,
    step_from_dict,
    step_json_schema,
    step_to_dict,
)

ADD, REMOVE, EXTRACT, VOLUME = Operation.ADD, Operation.REMOVE, Operation.EXTRACT, Operation.VOLUME
DIRECTION, SHIFT, REVERB, TIMBRE = Operation.DIRECTION, Operation.SHIFT, Operation.REVERB, Operation.TIMBRE
LEFT, LEFT_FRONT, FRONT, RIGHT_FRONT, RIGHT = -90.0, -45.0, 0.0, 45.0, 90.0


def add(target: str, azimuth_deg: float, gain_db: float) -> Step:
    return Step(ADD, target, azimuth_deg=azimuth_deg, gain_db=gain_db)


def remove(target: str, azimuth_deg: float | None = None) -> Step:
    return Step(REMOVE, target, azimuth_deg=azimuth_deg)


def volume(target: str, gain_db: float, azimuth_deg: float | None = None) -> Step:
    return Step(VOLUME, target, azimuth_deg=azimuth_deg, gain_db=gain_db)


def direction(target: str, to_azimuth_deg: float, azimuth_deg: float | None = None) -> Step:
    return Step(DIRECTION, target, azimuth_deg=azimuth_deg, to_azimuth_deg=to_azimuth_deg)


def shift(target: str, shift_s: float, azimuth_deg: float | None = None) -> Step:
    return Step(SHIFT, target, azimuth_deg=azimuth_deg, shift_s=shift_s)


def reverb(target: str, level: int, azimuth_deg: float | None = None) -> Step:
    return Step(REVERB, target, azimuth_deg=azimuth_deg, reverb_level=level)


def timbre(target: str, to: Timbre, azimuth_deg: float | None = None) -> Step:
    return Step(TIMBRE, target, azimuth_deg=azimuth_deg, timbre=to)


# Every step of every plan that the authors published (paper.md §2.3).
PUBLISHED_PLANS = [
    ("Remove the sound of metal knock", remove("metal knock")),
    ("Add the sound of seagulls squawking at left by 3dB", add("seagulls squawking", LEFT, 3)),
    ("Turn down the sound of motorboat running by 2dB", volume("motorboat running", -2)),
    ("Add the sound of waves lapping at right by 2dB", add("waves lapping", RIGHT, 2)),
    ("Turn up the sound of emergency siren by 3dB", volume("emergency siren", 3)),
    ("Remove the sound of man speech", remove("man speech")),
    ("Add the sound of crowd chanting at front by 3dB", add("crowd chanting", FRONT, 3)),
    ("Remove whistling", remove("whistling")),
    ("Turn up wave crash by 4dB", volume("wave crash", 4)),
    ("Add seagulls calling at front by 3dB", add("seagulls calling", FRONT, 3)),
    ("Add distant sirens at left by 3 dB", add("distant sirens", LEFT, 3)),
    ("Add footsteps on pavement at right by 2 dB", add("footsteps on pavement", RIGHT, 2)),
    ("Turn down engine rev by 2dB", volume("engine rev", -2)),
    ("Remove bell ring", remove("bell ring")),
    ("Add fireplace crackle at left by 3dB", add("fireplace crackle", LEFT, 3)),
    ("Turn down woman speech by 2dB", volume("woman speech", -2)),
    ("Remove cat meow", remove("cat meow")),
    ("Remove whistle", remove("whistle")),
    ("Add guitar strumming at left by 2dB", add("guitar strumming", LEFT, 2)),
    ("Remove drilling", remove("drilling")),
    ("Add phone ringing at right by 3dB", add("phone ringing", RIGHT, 3)),
    ("Turn up typewriter type by 2dB", volume("typewriter type", 2)),
    ("Add soft hammering at right by 2dB", add("soft hammering", RIGHT, 2)),
    ("Remove tractor thud", remove("tractor thud")),
    ("Change the sound of object crumple to left", direction("object crumple", LEFT)),
    ("Add bicycle bells at left by 3dB", add("bicycle bells", LEFT, 3)),
    ("Add footsteps on gravel at right by 2dB", add("footsteps on gravel", RIGHT, 2)),
    ("Remove engine rev", remove("engine rev")),
    ("Turn up baby laugh by 2dB", volume("baby laugh", 2)),
    ("Add crickets chirping at front by 2dB", add("crickets chirping", FRONT, 2)),
    ("Turn up snore by 3dB", volume("snore", 3)),
    ("Turn down goat bleat by 2dB", volume("goat bleat", -2)),
    ("Turn up child cry by 3dB", volume("child cry", 3)),
    ("Remove car engine", remove("car engine")),
    ("Add toys clattering at left by 2dB", add("toys clattering", LEFT, 2)),
    ("Add cannon fire at right by 4dB", add("cannon fire", RIGHT, 4)),
    ("Turn up clank by 2dB", volume("clank", 2)),
    ("Remove the sound of raining", remove("raining")),
    ("Add tree leaves bustling at right by 2dB", add("tree leaves bustling", RIGHT, 2)),
]

# The editor's templates, the site's single steps and the quick examples (§2.4), the serialiser (§2.2).
PUBLISHED_COMMANDS = [
    ("remove the sound of [ev] at the left front", remove("[ev]", LEFT_FRONT)),
    ("Remove the sound of man speaking at left", remove("man speaking", LEFT)),
    ("add the sound of X at the right with 0 dB", add("x", RIGHT, 0)),
    ("Add the sound of water falling at the front with -1 db", add("water falling", FRONT, -1)),
    ("Add the sound of engine revs at the left with 0 db", add("engine revs", LEFT, 0)),
    ("extract the sound of X at the right", Step(EXTRACT, "x", azimuth_deg=RIGHT)),
    ("extract the sound of whistles", Step(EXTRACT, "whistles")),
    ("turn up the volume of X at left front by 3 dB", volume("x", 3, LEFT_FRONT)),
    ("turn down the volume of X at right by 12 dB", volume("x", -12, RIGHT)),
    ("Turn up the sound of waves crashing, wind blows by 6 db", volume("waves crashing, wind blows", 6)),
    ("change the sound of X at front to right", direction("x", RIGHT, FRONT)),
    ("change the sound of X at the right to the left", direction("x", LEFT, RIGHT)),
    (
        "Change the sound of woman speaking, food frying at the front to the right",
        direction("woman speaking, food frying", RIGHT, FRONT),
    ),
    ("shift the sound of X at the left by 0.5 seconds", shift("x", 0.5, LEFT)),
    ("reverb the sound of X at the left with reverb level 5", reverb("x", 5, LEFT)),
    ("change the timbre of the sound of X at the left to be more muffled", timbre("x", Timbre.MUFFLED, LEFT)),
    (
        "extract the sound of woman screaming and laughing at the right",
        Step(EXTRACT, "woman screaming and laughing", azimuth_deg=RIGHT),
    ),
    ("add the sound of dog barking at the right with 0 dB", add("dog barking", RIGHT, 0)),
    (
        "change the sound of baby and woman and man speaking at the right to the left",
        direction("baby and woman and man speaking", LEFT, RIGHT),
    ),
    ("turn up the sound of a main is speaking at the front by 4 db", volume("a main is speaking", 4, FRONT)),
    (
        "change the timbre of the sound of a man speaking at the left to be more muffled",
        timbre("a man speaking", Timbre.MUFFLED, LEFT),
    ),
    ("reverb the sound of man speech at the left with reverb level 5", reverb("man speech", 5, LEFT)),
    ("add the sound of dog bark at left front by 2.0 db", add("dog bark", LEFT_FRONT, 2)),
    ("turn down the sound of rain fall by 1.5 db", volume("rain fall", -1.5)),
    ("add moderate reverberation to the sound of church bell ring", reverb("church bell ring", 5)),
    ("add 7 reverberation to the sound of church bell ring", reverb("church bell ring", 7)),
    ("reverb the sound of church bell ring", reverb("church bell ring", 5)),
    *[
        (f"change the timbre of the sound of piano to {word}", timbre("piano", Timbre(word)))
        for word in ("bright", "dark", "warm", "cold", "muffled")
    ],
    *[
        (f"add {word} reverberation to the sound of man speech", reverb("man speech", level))
        for word, level in REVERB_WORDS.items()
    ],
]

VARIANTS = [
    ("  1. Remove the sound of  metal   knock. ", remove("metal knock")),
    ("- remove metal knock", remove("metal knock")),
    ("-remove metal knock;", remove("metal knock")),
    ("• Remove metal knock", remove("metal knock")),
    ("Step 2: REMOVE THE SOUND OF METAL KNOCK", remove("metal knock")),
    ("(3) remove metal knock", remove("metal knock")),
    ("remove the sound of metal knock at front left", remove("metal knock", LEFT_FRONT)),
    ("remove the sound of metal knock on the right side", remove("metal knock", RIGHT)),
    ("remove the sound of metal knock in the centre", remove("metal knock", FRONT)),
    ("add rain by 3DB at left-front", add("rain", LEFT_FRONT, 3)),
    ("add rain, at left, by +3 dB", add("rain", LEFT, 3)),
    ("add rain with −2,5 dB", add("rain", FRONT, -2.5)),
    ("add rain with - 2.5 decibels", add("rain", FRONT, -2.5)),
    ("add rain", add("rain", FRONT, 0)),
    ("add rain to the left", add("rain", LEFT, 0)),
    ("add rain at 30 degrees left", add("rain", -30, 0)),
    ("add rain at 30 degrees to the right", add("rain", 30, 0)),
    ("add rain at -30° by .5 dB", add("rain", -30, 0.5)),
    ("add rain at −30° with 3 dB", add("rain", -30, 3)),
    ("add rain at azimuth 30 degrees", add("rain", 30, 0)),
    ("add rain at azimuth -30", add("rain", -30, 0)),
    ("change rain to 20 degrees right", direction("rain", 20)),
    ("change the sound of rain from left to 12.5 deg right", direction("rain", 12.5, LEFT)),
    ("move the sound of rain to the left", direction("rain", LEFT)),
    ("change the direction of the sound of rain to left", direction("rain", LEFT)),
    ("turn the radio down by 3 dB", volume("radio", -3)),
    ("lower the volume of radio by 3 dB", volume("radio", -3)),
    ("turn down radio by 0 dB", volume("radio", 0)),
    ("shift rain by 0.5 s later", shift("rain", 0.5)),
    ("shift rain by 0.5 seconds earlier", shift("rain", -0.5)),
    ("shift rain by -0.5 s", shift("rain", -0.5)),
    ("shift rain earlier by 250 ms", shift("rain", -0.25)),
    ("shift the sound of rain at left by 1 second", shift("rain", 1, LEFT)),
    ("delay rain by 250ms", shift("rain", 0.25)),
    ("move rain 2 s later", shift("rain", 2)),
    ("reverb rain with level 8", reverb("rain", 8)),
    ("add reverb to the sound of rain at left", reverb("rain", 5, LEFT)),
    ("make the sound of rain more muffled", timbre("rain", Timbre.MUFFLED)),
    ("make rain brighter", timbre("rain", Timbre.BRIGHT)),
]

LABELS = [
    ("remove the sound of man at the door knocking", "man at the door knocking"),
    ("remove the sound of knocking at the front door", "knocking at the front door"),
    ("remove the sound of knocking at the front door at the left", "knocking at the front door"),
    ("remove the sound of dog barking to the left and cat", "dog barking to the left and cat"),
    ("remove the sound of cars driving by", "cars driving by"),
    ("remove the sound of cars passing to the right at left", "cars passing to the right"),
    ("remove the sound of woman, man, and child speaking at left", "woman, man, and child speaking"),
    ("remove the sound of a turn up the volume of sign", "a turn up the volume of sign"),
    ('remove the sound of "radio at left"', "radio at left"),
    ('remove the sound of "radio at left" at the right', "radio at left"),
    ("remove the sound of “radio at left”", "radio at left"),
    ("remove the sound of 'radio at left'", "radio at left"),
    ("remove the sound of 'til death do us part", "'til death do us part"),
    ('remove the sound of "a" and "b"', '"a" and "b"'),
    (r'remove the sound of "say \"hi\" \\ at left"', r'say "hi" \ at left'),
    ("remove the sound of Bärengebrüll", "bärengebrüll"),
    ("remove the sound of 狗叫 at left", "狗叫"),
]


@pytest.mark.parametrize(("text", "expected"), PUBLISHED_PLANS + PUBLISHED_COMMANDS + VARIANTS)
def test_every_spelling_is_understood(text: str, expected: Step) -> None:
    assert parse_step(text) == expected
    assert parse_step(format_step(expected)) == expected


@pytest.mark.parametrize(("text", "label"), LABELS)
def test_a_label_keeps_everything_but_the_parameters(text: str, label: str) -> None:
    assert parse_step(text).target == label


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (add("Seagulls", LEFT, 3), "add the sound of seagulls at the left with 3 dB"),
        (add("rain", 12.3, -0.25), "add the sound of rain at 12.3 degrees right with -0.25 dB"),
        (remove("rain"), "remove the sound of rain"),
        (volume("rain", 3), "turn up the volume of rain by 3 dB"),
        (volume("rain", -2.5, RIGHT_FRONT), "turn down the volume of rain at the right front by 2.5 dB"),
        (direction("rain", -1), "change the sound of rain to 1 degree left"),
        (shift("rain", 1), "shift the sound of rain by 1 second"),
        (shift("rain", -0.001), "shift the sound of rain by -0.001 seconds"),
        (reverb("rain", 10), "reverb the sound of rain with reverb level 10"),
        (timbre("rain", Timbre.COLD), "change the timbre of the sound of rain to be more cold"),
        (remove("radio at left"), 'remove the sound of "radio at left"'),
        (remove("dr."), 'remove the sound of "dr."'),
        (remove("song by 3 dB"), 'remove the sound of "song by 3 db"'),
    ],
)
def test_the_canonical_form(step: Step, text: str) -> None:
    assert format_step(step) == text
    assert str(step) == text


def test_every_example_of_the_table_is_canonical() -> None:
    for operation, spec in OPERATIONS.items():
        for example in spec.examples:
            step = parse_step(example)
            assert step.operation is operation
            assert format_step(step) == example


# --- round trip ------------------------------------------------------------

TRICKY = (
    "at to by with on in from and the sound of left right front behind 3 -3 30 db dB seconds s ms degrees ° "
    "level reverb reverberation more muffled be later earlier up down add remove turn volume change timbre, "
    '1. - . ; − make shift slight radio "a" " \\ \' “b”'
)
TRICKY_WORDS = st.sampled_from(TRICKY.split())
PRINTABLE = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
RAW_LABELS = st.one_of(PRINTABLE, st.lists(TRICKY_WORDS, min_size=1, max_size=8).map(" ".join))


def _usable(label: str) -> bool:
    try:
        remove(label)
    except SmartDJError:
        return False
    return True


LABEL_STRATEGY = RAW_LABELS.filter(_usable)
AZIMUTHS = st.one_of(st.sampled_from(list(DIRECTIONS.values())), st.floats(-90, 90))
GAINS = st.floats(-24, 24)


@st.composite
def any_steps(draw: st.DrawFn) -> Step:
    operation = draw(st.sampled_from(list(Operation)))
    values: dict[str, object] = {"azimuth_deg": draw(st.none() | AZIMUTHS)}
    match operation:
        case Operation.ADD | Operation.VOLUME:
            values["gain_db"] = draw(GAINS)
        case Operation.DIRECTION:
            values["to_azimuth_deg"] = draw(AZIMUTHS)
        case Operation.SHIFT:
            values["shift_s"] = draw(st.floats(-10, 10))
        case Operation.REVERB:
            values["reverb_level"] = draw(st.integers(1, 10))
        case Operation.TIMBRE:
            values["timbre"] = draw(st.sampled_from(Timbre))
    return Step(operation, draw(LABEL_STRATEGY), **values)  # type: ignore[arg-type]


@settings(max_examples=1500, deadline=None)
@given(any_steps())
def test_printing_and_parsing_gives_the_same_step(step: Step) -> None:
    text = format_step(step)
    assert parse_step(text) == step
    assert parse_step(f"2. {text}.") == step
    assert format_step(parse_step(text)) == text


@settings(max_examples=300, deadline=None)
@given(any_steps())
def test_the_json_form_round_trips(step: Step) -> None:
    assert step_from_dict(json.loads(json.dumps(step_to_dict(step)))) == step


@settings(max_examples=800, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(TRICKY_WORDS, max_size=14).map(" ".join)))
def test_any_text_is_a_step_or_a_clear_error(text: str) -> None:
    outcome: Step | SmartDJError
    try:
        outcome = parse_step(text)
    except SmartDJError as error:
        outcome = error
    if isinstance(outcome, Step):
        assert parse_step(format_step(outcome)) == outcome
    else:
        assert outcome.code in (ErrorCode.STEP_SYNTAX, ErrorCode.STEP_RANGE)
        assert outcome.hint
        assert "\n" not in outcome.message


def test_values_are_rounded_to_their_grid() -> None:
    assert volume("rain", 3.14159).gain_db == 3.14
    assert shift("rain", 0.12345).shift_s == 0.123
    assert add("rain", 44.96, 0).azimuth_deg == 45.0
    zero = shift("rain", -0.0001).shift_s
    assert str(zero) == "0.0"
    assert type(volume("rain", 3).gain_db) is float
    assert volume("rain", np.float32(-3)) == volume("rain", -3)  # type: ignore[arg-type]
    assert reverb("rain", np.int64(4)).reverb_level == 4  # type: ignore[arg-type]


def test_labels_are_normalised() -> None:
    assert remove(" Dog  Barking\n").target == "dog barking"
    assert remove("Cafe\u0301") == remove("CAFÉ")


def test_defaults_come_from_the_table() -> None:
    assert Step(ADD, "rain") == add("rain", 0, 0)
    assert Step(REVERB, "rain").reverb_level == 5
    assert remove("rain").azimuth_deg is None


# --- errors ------------------------------------------------------------

OUT_OF_RANGE = [
    ("turn up rain by 24.1 dB", "gain_db", "-24 to 24 dB"),
    ("turn down rain by 50 dB", "gain_db", "-24 to 24 dB"),
    ("add rain at left with -25 dB", "gain_db", "-24 to 24 dB"),
    ("add rain at 120 degrees left", "azimuth_deg", "-90 to 90 degrees"),
    ("change rain to -91°", "to_azimuth_deg", "-90 to 90 degrees"),
    ("shift rain by 10.1 seconds", "shift_s", "-10 to 10 seconds"),
    ("shift rain by 11000 ms earlier", "shift_s", "-10 to 10 seconds"),
    ("reverb rain with reverb level 11", "reverb_level", "whole number from 1 to 10"),
    ("reverb rain with reverb level 0", "reverb_level", "whole number from 1 to 10"),
    ("reverb rain with reverb level 4.5", "reverb_level", "whole number from 1 to 10"),
    (f"turn up rain by {'9' * 400} dB", "gain_db", "-24 to 24 dB"),
]


@pytest.mark.parametrize(("text", "field", "allowed"), OUT_OF_RANGE)
def test_a_value_out_of_range_names_field_and_range(text: str, field: str, allowed: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        parse_step(text)
    assert caught.value.code is ErrorCode.STEP_RANGE
    assert caught.value.field == field
    assert field in caught.value.message
    assert allowed in caught.value.message
    assert caught.value.hint


NOT_STEPS = [
    ("", "", "Write it like"),
    (" . ", "", "Write it like"),
    ("louder please", "", "A step begins with"),
    ("remvoe the dog", "", "remove the sound of NAME"),
    ("trun up the volume of rain by 3 dB", "", "turn up the volume of NAME"),
    ("remove the sound of", "target", "remove the sound of NAME"),
    ("add at left", "target", "add the sound of NAME"),
    ('remove the sound of ""', "target", "Name the sound"),
    ("turn up rain", "gain_db", "turn up the volume of NAME"),
    ("turn down rain by a lot", "gain_db", "turn down the volume of NAME"),
    ("turn up rain by 3", "gain_db", "NUMBER dB"),
    ("turn up rain by 6%", "gain_db", "NUMBER dB"),
    ("turn up rain by -3 dB", "gain_db", "Drop the minus"),
    ("turn down rain by -3 dB", "gain_db", "Drop the minus"),
    ("shift rain by -1 s later", "shift_s", "Drop the minus"),
    ("add rain at -30 degrees left", "azimuth_deg", "either"),
    ("change rain to behind", "to_azimuth_deg", "to PLACE"),
    ("shift rain", "shift_s", "NUMBER seconds"),
    ("change the timbre of rain to purple", "timbre", "muffled"),
    ("change the timbre of rain to left", "timbre", "muffled"),
    ("remove rain at the back", "azimuth_deg", "in quotes"),
    ("remove rain at left at right", "azimuth_deg", "in quotes"),
    ("remove rain by 3 dB", "gain_db", "remove takes azimuth_deg"),
    ("add rain by 3 bananas", "target", "gain_db (-24 to 24 dB)"),
    ("add rain at 30", "target", "azimuth_deg (-90 to 90 degrees)"),
    ("remove " + "x" * 201, "target", "few words"),
    ("remove " + "x" * 2000, "", "one short sentence"),
    ("remove \x07bell", "target", "printable"),
]


@pytest.mark.parametrize(("text", "field", "hint"), NOT_STEPS)
def test_what_is_no_step_is_an_error_with_a_hint(text: str, field: str, hint: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        parse_step(text)
    assert caught.value.code is ErrorCode.STEP_SYNTAX
    assert caught.value.field == field
    assert hint in caught.value.hint


def test_a_label_of_200_characters_is_allowed_even_if_all_must_be_escaped() -> None:
    step = remove('"' * MAX_LABEL_CHARS)
    assert parse_step(format_step(step)) == step


@pytest.mark.parametrize(
    ("values", "code", "field"),
    [
        ({"operation": "explode", "target": "rain"}, ErrorCode.STEP_SYNTAX, "operation"),
        ({"operation": "remove", "target": 3}, ErrorCode.STEP_SYNTAX, "target"),
        ({"operation": "remove", "target": "rain", "gain_db": 3.0}, ErrorCode.STEP_SYNTAX, "gain_db"),
        ({"operation": "volume", "target": "rain"}, ErrorCode.STEP_SYNTAX, "gain_db"),
        ({"operation": "volume", "target": "rain", "gain_db": "3"}, ErrorCode.STEP_SYNTAX, "gain_db"),
        ({"operation": "volume", "target": "rain", "gain_db": True}, ErrorCode.STEP_SYNTAX, "gain_db"),
        ({"operation": "volume", "target": "rain", "gain_db": float("nan")}, ErrorCode.STEP_RANGE, "gain_db"),
        ({"operation": "volume", "target": "rain", "gain_db": float("inf")}, ErrorCode.STEP_RANGE, "gain_db"),
        ({"operation": "volume", "target": "rain", "gain_db": 10**400}, ErrorCode.STEP_RANGE, "gain_db"),
        ({"operation": "timbre", "target": "rain", "timbre": "purple"}, ErrorCode.STEP_SYNTAX, "timbre"),
        (
            {"operation": "reverb", "target": "rain", "reverb_level": 2.5},
            ErrorCode.STEP_RANGE,
            "reverb_level",
        ),
        ({"target": "rain"}, ErrorCode.STEP_SYNTAX, "operation"),
        ({"operation": "remove"}, ErrorCode.STEP_SYNTAX, "target"),
        ({"operation": "volume", "target": "rain", "gain": 3.0}, ErrorCode.STEP_SYNTAX, "gain"),
        ([], ErrorCode.STEP_SYNTAX, ""),
    ],
)
def test_step_values_are_checked_by_the_table(values: object, code: ErrorCode, field: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        step_from_dict(values)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.hint


def test_a_close_key_is_suggested() -> None:
    with pytest.raises(SmartDJError, match="Did you mean 'gain_db'"):
        step_from_dict({"operation": "volume", "target": "rain", "gain": 3.0})


def test_parsing_what_is_not_text() -> None:
    with pytest.raises(SmartDJError, match="not NoneType"):
        parse_step(None)  # type: ignore[arg-type]


# --- the rest of the table ------------------------------------------------------------


def test_the_table_holds_all_eight_operations() -> None:
    assert list(OPERATIONS) == list(Operation)
    assert len(OPERATIONS) == 8


def test_direction_names() -> None:
    assert {name: direction_name(azimuth) for name, azimuth in DIRECTIONS.items()} == {n: n for n in DIRECTIONS}
    assert direction_name(-30) == "30 degrees left"
    assert direction_name(12.5) == "12.5 degrees right"
    assert direction_name(1) == "1 degree right"


def test_rt60_runs_from_0_3_to_1_2_seconds() -> None:
    assert [rt60_s(level) for level in range(1, 11)] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    with pytest.raises(SmartDJError, match="reverb_level is 11"):
        rt60_s(11)


def test_the_schema_lists_exactly_the_parameters_of_each_operation() -> None:
    variants = {v["properties"]["operation"]["const"]: v for v in step_json_schema()["oneOf"]}
    assert set(variants) == set(Operation)
    for operation, variant in variants.items():
        expected = {"operation", "target"} | {p.name for p in OPERATIONS[Operation(operation)].parameters}
        assert set(variant["properties"]) == expected
        assert variant["additionalProperties"] is False
    assert variants["volume"]["required"] == ["operation", "target", "gain_db"]
    assert variants["volume"]["properties"]["gain_db"]["maximum"] == 24
    assert variants["reverb"]["properties"]["reverb_level"]["type"] == "integer"
    assert variants["timbre"]["properties"]["timbre"]["enum"] == list(Timbre)
    json.dumps(step_json_schema())


def test_the_prompt_shows_every_template_and_direction() -> None:
    table = prompt_table()
    for spec in OPERATIONS.values():
        for template in spec.templates:
            assert template in table
    for name in DIRECTIONS:
        assert f"the {name}" in table
    assert "turn down the volume of NAME [at PLACE] by NUMBER dB" in table


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, smartdj_agent.steps; "
        "print([m for m in ('torch', 'numpy', 'scipy', 'pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
