"""Direct requests: what is asked word by word is read word by word, and nothing else is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartdj_agent.constraints import ConstraintKind
from smartdj_agent.direct import mend_spelling
from smartdj_agent.events import Heard, Listening
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.planner import Asked, Planner, Search
from smartdj_agent.steps import Step, format_step, parse_step

HEARD = tuple(
    Heard(label, 0.9, -20.0, azimuth, 0.0, 10.0)
    for label, azimuth in (
        ("dog barking", -90.0),
        ("piano", 90.0),
        ("man speaking", 0.0),
        ("rain falling", None),
        ("car engine", 45.0),
    )
)


@cache
def planner() -> Planner:
    return Planner("small", "cpu", SentenceEncoder())


def read(instruction: str, heard: tuple[Heard, ...] = HEARD) -> tuple[list[str], tuple[str, ...]]:
    found = planner().read(heard, instruction)
    return [format_step(step) for step in found.steps], found.rest


def canonical(lines: str) -> list[str]:
    return [format_step(parse_step(line)) for line in lines.split("; ")]


DIRECT = [
    # volume
    ("turn the dog down 6 dB and move the piano left", "turn down dog barking by 6 dB; move piano at right to left"),
    ("Turn the dog down by 6dB.", "turn down dog barking by 6 dB"),
    ("could you please lower the barking a bit?", "turn down dog barking by 2 dB"),
    ("make the piano much louder", "turn up piano by 6 dB"),
    ("piano +4 dB, dog -3 dB", "turn up piano by 4 dB; turn down dog barking by 3 dB"),
    ("dog down 4, piano up 2", "turn down dog barking by 4 dB; turn up piano by 2 dB"),
    ("the dog is too loud", "turn down dog barking by 4 dB"),
    ("I can barely hear the piano", "turn up piano by 6 dB"),
    ("more piano, less dog", "turn up piano by 3 dB; turn down dog barking by 3 dB"),
    ("take 3 dB off the dog", "turn down dog barking by 3 dB"),
    ("add 3 dB to the piano", "turn up piano by 3 dB"),
    ("turn the volume of the man up by three decibels", "turn up man speaking by 3 dB"),
    ("half the piano's volume please", None),
    ("halve the volume of the piano", "turn down piano by 6 dB"),
    ("reduce the dog by 50%", "turn down dog barking by 6 dB"),
    ("push the car into the background", "turn down car engine by 8 dB"),
    ("the dog should barely be heard", "turn down dog barking by 12 dB"),
    ("make the dog and the car quieter", "turn down dog barking by 3 dB; turn down car engine by 3 dB"),
    ("turn down the dog and the car by 5 dB", "turn down dog barking by 5 dB; turn down car engine by 5 dB"),
    ("would you mind turning the rain up a little", "turn up rain falling by 2 dB"),
    ("turn everything but the piano down 3 dB",
     "turn down dog barking by 3 dB; turn down man speaking by 3 dB; turn down rain falling by 3 dB;"
     " turn down car engine by 3 dB"),
    # removal and extraction
    ("remove the dog", "remove dog barking"),
    ("get rid of the barking and the rain", "remove dog barking; remove rain falling"),
    ("Please take the car out, it's really annoying.", "remove car engine"),
    ("mute the man so that the piano is clearly audible", "remove man speaking"),
    ("I'd like you to remove that dog", "remove dog barking"),
    ("the rain has to go", "remove rain falling"),
    ("keep only the piano", "extract piano"),
    ("isolate the voice", "extract man speaking"),
    ("remove everything except the piano", "extract piano"),
    ("i only want to hear the piano", "extract piano"),
    ("keep just the piano and the rain", "remove dog barking; remove man speaking; remove car engine"),
    # places
    ("move the dog to the right", "move dog barking at left to right"),
    ("pan the piano hard left and the dog to the centre",
     "move piano at right to left; move dog barking at left to front"),
    ("put the man on my left", "move man speaking at front to left"),
    ("piano left, dog right", "move piano at right to left; move dog barking at left to right"),
    ("swap the dog and the piano", "move dog barking at left to right; move piano at right to left"),
    ("move the dog to the other side", "move dog barking at left to right"),
    ("pan the rain 30 degrees left", "move rain falling to 30 degrees left"),
    ("move the man a bit to the left", "move man speaking at front to left front"),
    ("I want the rain coming from the right", "move rain falling to right"),
    # time
    ("delay the dog by half a second", "shift dog barking by 0.5 seconds"),
    ("start the piano two seconds later", "shift piano by 2 seconds"),
    ("play the dog 500 ms earlier", "shift dog barking by -0.5 seconds"),
    ("push the piano back by 1.5 s", "shift piano by 1.5 seconds"),
    ("the dog a second earlier, the piano a second later", "shift dog barking by -1 second; shift piano by 1 second"),
    # rooms and colours
    ("add some reverb to the dog", "reverb dog barking at level 5"),
    ("put the piano in a big hall", "reverb piano at level 8"),
    ("reverb the dog at level 7", "reverb dog barking at level 7"),
    ("give the man a touch of echo", "reverb man speaking at level 3"),
    ("make the piano brighter", "make piano more bright"),
    ("make the man sound muffled, as if behind a wall", None),
    ("make the man sound as if behind a wall", "make man speaking more muffled"),
    ("darken the rain", "make rain falling more dark"),
    ("warm up the piano", "make piano more warm"),
    # additions
    ("add birds chirping on the left", "add birds chirping at left with 0 dB"),
    ("add thunder on the right by 3 dB", "add thunder at right with 3 dB"),
    ("add a church bell in the background", "add church bell at front with -6 dB"),
    ("put thunder on the left", "add thunder at left with 0 dB"),
    ("put the thunder on the left", None),
    # together
    ("remove the dog, then turn the piano up 3 dB and add some reverb to it",
     "remove dog barking; turn up piano by 3 dB; reverb piano at level 5"),
    ("don't remove the dog, just turn it down 6 dB", "turn down dog barking by 6 dB"),
    ("move the piano left and turn it down", "move piano at right to left; turn down piano by 3 dB"),
    ("trun teh dog donw 6 dB", "turn down dog barking by 6 dB"),
    ("remvoe the paino", "remove piano"),
    ("the dog on the left should be quieter", "turn down dog barking at left by 3 dB"),
    ("turn the violin up by 3 dB", "turn up violin by 3 dB"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("instruction", "wanted"), [case for case in DIRECT if case[1]], ids=lambda case: str(case)[:50]
)
def test_what_is_asked_word_by_word(instruction: str, wanted: str) -> None:
    assert read(instruction) == (canonical(wanted), ())


SCENES = [
    "make this a sunny forest",
    "make it darker and more mysterious",
    "turn this into a busy street with cars on the left",
    "eerie yet cheerful",
    "make it sound like the dog is in heaven",
    "i want to feel calm",
    "take me to the beach",
    "add some tension",
    "put the listener on a ship at sea",
    "a rainy night",
    "remove the stress from my life",
    "silent but very loud",
    "make it louder",
    "lower the mood",
    "bring in the holidays",
    "turn back time",
    "is there a dog?",
    "hello darkness my old friend",
    "make the whole thing feel like a haunted house",
    "more like a library",
    "give me a jungle",
    "drop me in the middle of the ocean",
    "remove everything",
]


@pytest.mark.parametrize("instruction", SCENES)
def test_a_scene_is_not_read_word_by_word(instruction: str) -> None:
    steps, rest = read(instruction)
    assert steps == []
    assert rest


def test_what_is_mixed_is_parted() -> None:
    steps, rest = read("turn the dog down 6 dB and make it sound like a rainy forest")
    assert steps == canonical("turn down dog barking by 6 dB")
    assert rest == ("make it sound like a rainy forest",)
    steps, rest = read("turn this into a quiet library, but keep the piano and remove the car")
    assert steps == canonical("remove car engine")
    assert rest == ("turn this into a quiet library",)


@pytest.mark.parametrize(
    "instruction",
    [
        "make the dog louder and quieter",
        "turn the piano up 3 dB and turn the piano down 3 dB",
        "remove the dog and make it louder",
        "move the piano to the left and move the piano to the right",
        "make the piano brighter and darker",
        "remove the dog but keep the dog",
    ],
)
def test_two_wishes_that_exclude_each_other_are_asked_about(instruction: str) -> None:
    answer = list(planner().write(HEARD, instruction, seed=0))
    assert len(answer) == 1
    assert isinstance(answer[0], Asked)
    assert len(answer[0].choices) == 2
    for choice in answer[0].choices:
        assert isinstance(parse_step(choice), Step)


@pytest.mark.parametrize(
    "instruction",
    ["remove the dog on the left and turn up the dog on the right", "make the loud, annoying dog quiet"],
)
def test_no_clash_where_two_things_are_meant(instruction: str) -> None:
    two = (*HEARD, Heard("dog barking", 0.8, -20.0, 90.0, 0.0, 10.0))
    assert not any(isinstance(item, Asked) for item in planner().draft(two, instruction, seed=0).opening())


def test_a_request_lifts_the_constraint_it_corrects() -> None:
    found = planner().read(HEARD, "don't remove the dog, just turn it down 6 dB")
    assert [item.kind for item in found.lifted] == [ConstraintKind.KEEP]
    assert list(planner().write(HEARD, "don't remove the dog, just turn it down 6 dB", seed=0)) == list(found.steps)


@pytest.mark.parametrize(
    ("instruction", "first"),
    [
        ("turn the dog down 60 dB", "turn down dog barking by 24 dB"),
        ("Boost the dog by 80dB, please", "turn up dog barking by 24 dB"),
        ("delay the dog by 2 minutes", "shift dog barking by 10 seconds"),
        ("start the dog 1000 seconds earlier", "shift dog barking by -10 seconds"),
        ("move the dog above my head", "change direction of dog barking at left to left"),
        ("put the piano right behind me", "change the direction of piano at right to left"),
    ],
)
def test_what_no_step_can_do_is_asked_back_and_the_choices_can_be_done(instruction: str, first: str) -> None:
    (asked,) = planner().write(HEARD, instruction, seed=0)
    assert isinstance(asked, Asked)
    assert len(asked.choices) >= 2
    for choice in asked.choices:
        assert planner().read(HEARD, choice).doubt is None
        assert len(planner().read(HEARD, choice).steps) == 1
    if "direction" not in first:
        assert read(asked.choices[0])[0] == canonical(first)


@pytest.mark.parametrize(
    "instruction",
    [
        "don't touch the piano and turn the piano down 6 dB",
        "turn the piano up 1 dB without changing the piano",
        "add a siren, but don't add anything",
        "I only want the man speaking, and the piano has to be heard too",
        "solo the man, with the piano as loud as before",
        "remove the dog and everything else too",
        "Remove everything.",
        "make the dog louder, and softer than it is now",
        "make the piano more muffled and crystal clear",
    ],
)
def test_what_forbids_itself_is_asked_back(instruction: str) -> None:
    (asked,) = planner().write(HEARD, instruction, seed=0)
    assert isinstance(asked, Asked)
    assert len(asked.choices) >= 2
    for choice in asked.choices:
        assert planner().read(HEARD, choice).doubt is None


@pytest.mark.parametrize(
    "instruction",
    [
        "leave the dog alone, just turn it down 3 dB",
        "add a siren and nothing else",
        "add a siren, but don't add anything else",
        "add rain, no other sounds",
        "add 12 seconds of rain",
        "a house behind me, the dog a little quieter",
        "turn the dog down 24 dB",
        "shift the dog 10 seconds later",
        "remove everything but the dog",
        "keep only the dog",
        "turn the dog down 3 dB without changing the piano",
        "make the dog louder than it is now",
    ],
)
def test_what_can_be_done_is_not_asked_back(instruction: str) -> None:
    assert planner().read(HEARD, instruction).doubt is None


def test_spelling_is_mended_towards_commands_and_sounds() -> None:
    assert mend_spelling("Trun teh dgo dwon", ["dog"], planner().is_word) == "turn the dog down"
    assert mend_spelling("a movie about dogs", ["dog"], planner().is_word) == "a movie about dogs"


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    found = planner().read(HEARD, text)
    assert all(isinstance(step, Step) for step in found.steps)


SAID = """
turn up down the dog piano and , left right remove it by 3 dB seconds more keep only everything but add rain to in a
hall on not don't make louder brighter
"""
WORDS = st.sampled_from(SAID.split())


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_any_order_of_its_own_words_can_be_read(text: str) -> None:
    found = planner().read(HEARD, text)
    assert all(isinstance(step, Step) for step in found.steps)


def searching(absent: tuple[str, ...], asked: list[str]) -> Search:
    def search(names: Sequence[str]) -> Generator[Listening, None, tuple[str, ...]]:
        asked.extend(names)
        yield Listening(0.5, 1.0, 1.0)
        return tuple(name for name in names if name in absent)

    return search


@pytest.mark.parametrize(
    ("instruction", "searched"),
    [
        ("remove the tuba", ["tuba"]),
        ("turn down the tuba by 4 dB and move the tuba left", ["tuba"]),
        ("remove the tuba and turn the dog down", []),
        ("remove the tuba and add a helicopter", []),
        ("remove the dog", []),
    ],
)
def test_what_was_not_heard_is_searched_where_nothing_else_is_to_do(instruction: str, searched: list[str]) -> None:
    asked: list[str] = []
    answer = list(planner().write(HEARD, instruction, seed=0, search=searching(("tuba",), asked)))
    assert asked == searched
    questions = [item for item in answer if isinstance(item, Asked)]
    assert bool(questions) == bool(searched)
    if questions:
        assert "no tuba" in questions[0].text
        assert len(questions[0].choices) == 3
        verb = "remove" if instruction.startswith("remove") else "turn down"
        assert all(choice.startswith(verb) for choice in questions[0].choices[:2])
        assert questions[0].choices[2] == "add tuba"
    # Where there is a trace of it, the step is planned.
    asked.clear()
    traced = list(planner().write(HEARD, instruction, seed=0, search=searching((), asked)))
    assert not any(isinstance(item, Asked) for item in traced)
    assert any(isinstance(item, Step) for item in traced)
