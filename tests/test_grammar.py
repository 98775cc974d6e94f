"""Constrained decoding: whatever the automaton accepts reads back as a plan over the given sounds."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.grammar import ACCEPT, START, Automaton, FreeText, free_text, plan_automaton, spelled_name
from smartdj_agent.plan_text import plan_text, read_plan_text
from smartdj_agent.steps import Operation, Step, Timbre

END = 0
SPECIAL = "<|end|>"


class Tokens:
    """A tokenizer with a growing vocabulary; `pattern` cuts the text."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.texts = [SPECIAL]

    def __call__(self, text: str) -> list[int]:
        pieces = re.findall(self.pattern, text, re.DOTALL)
        assert "".join(pieces) == text
        for piece in pieces:
            if piece not in self.texts:
                self.texts.append(piece)
        return [self.texts.index(piece) for piece in pieces]

    def free(self) -> FreeText:
        return free_text({token: text for token, text in enumerate(self.texts) if token != END})


def characters() -> Tokens:
    return Tokens(".")


def words() -> Tokens:
    return Tokens(r" ?[^\W\d_]+|\d| ?[^\w\s]+|_|\s")


def build(tokens: Tokens, existing: set[str], addable: set[str], *, max_steps: int = 3, ask: bool = False) -> Automaton:
    if ask:
        tokens("ask Which one?\nor two, “three”\n\n\t�")
    return plan_automaton(tokens, END, existing, addable, max_steps=max_steps, free=tokens.free() if ask else None)


def accepts(automaton: Automaton, ids: list[int]) -> bool:
    states = frozenset({START})
    for token in [*ids, END]:
        assert not states or (token in automaton.allowed(states)) == bool(automaton.next_states(states, token))
        states = automaton.next_states(states, token)
    return ACCEPT in states


def walk(automaton: Automaton, tokens: Tokens, rng: random.Random, end_weight: float = 0.5) -> str | None:
    """One random text that the automaton accepts; None where a question grew too long."""
    states = frozenset({START})
    text = ""
    for _ in range(600):
        allowed = sorted(automaton.allowed(states))
        assert allowed, f"dead end after {text!r}"
        token = END if END in allowed and rng.random() < end_weight else rng.choice(allowed)
        states = automaton.next_states(states, token)
        assert states
        if token == END:
            assert ACCEPT in states
            return text
        text += tokens.texts[token]
    return None


def folded(names: set[str]) -> set[str]:
    return {" ".join(name.lower().split()) for name in names}


PLAIN = {"dog", "dog barking", "rain"}
HARD = {
    "radio at left",
    "radio at the left",
    "man at the door, knocking",
    "knock,",
    "dr. who.",
    'the "big" bell',
    "“open",
    "it's",
    "'quoted'",
    "back\\slash",
    "the sound of music",
    "the timbre of a voice",
    "volume of traffic",
    "alarm by 3 db",
    "siren by 2 seconds",
    "bird later",
    "hall with reverb level 3",
    "noise to be more dark",
    "pan to the right",
    "bell at 30 degrees",
    "reverb to church",
    "level 5 reverb to church",
    "Upper Case",
    "two\nlines",
    "step 3",
    "- dash",
    "1. first",
    "at left",
    "left",
    "up",
    "with 0 db",
}


@pytest.mark.parametrize("make", [characters, words])
def test_random_walks_read_back(make) -> None:
    tokens = make()
    existing, addable = PLAIN | {"Upper Case"}, {"sea waves", "sea", "thunder, far away"}
    automaton = build(tokens, existing, addable, ask=True)
    kinds = set()
    for seed in range(60):
        text = walk(automaton, tokens, random.Random(seed))
        if text is None:
            continue
        steps, question, choices = read_plan_text(text)
        if question:
            kinds.add("question")
            assert question == question.strip()
            assert 2 <= len(choices) <= 4
            assert all(choice == choice.strip() != "" for choice in choices)
            assert "�" not in text
            assert SPECIAL not in text
            continue
        assert 1 <= len(steps) <= 3
        for step in steps:
            kinds.add(step.operation)
            assert step.target in folded(addable if step.operation is Operation.ADD else existing)
    assert kinds >= {"question", Operation.ADD, Operation.REMOVE}


@pytest.mark.parametrize("name", sorted(HARD))
def test_a_hard_name_round_trips(name: str) -> None:
    tokens = words()
    automaton = build(tokens, {name}, {name}, max_steps=1)
    seen = set()
    for seed in range(60):
        text = walk(automaton, tokens, random.Random(seed))
        assert text is not None
        (step,), _, _ = read_plan_text(text)
        seen.add(step.operation)
        assert {step.target} == folded({name}), text
    assert len(seen) >= 6, f"{name!r} can hardly be used: {seen}"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*"ab ,.'\"\\“”-3°", " at ", "left", " to ", " by ", "dB", "the "])).map("".join)
        | st.builds(
            "{} {} {}".format,
            st.sampled_from(["dog", "the sound of", "level", "30 degrees", ""]),
            st.sampled_from(["at", "to", "by", "with", "from", "on", ""]),
            st.sampled_from(["left", "the right front", "3 dB", "5 s", "level 3", "bright", "30", "3."]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**31),
)
def test_any_names_read_back(names: list[str], seed: int) -> None:
    tokens = words()
    automaton = build(tokens, {*names, "dog"}, {*names, "rain"}, max_steps=2)
    rng = random.Random(seed)
    for _ in range(8):
        text = walk(automaton, tokens, rng)
        assert text is not None
        steps, _, _ = read_plan_text(text)
        assert len(steps) == len(text.splitlines())
        assert all(step.target in folded({*names, "dog", "rain"}) for step in steps), text


def test_names_that_name_nothing_are_left_out() -> None:
    tokens = words()
    automaton = build(tokens, {"", "  ", "a" * 201, "bell\x07", "dog"}, {"", "\x00"})
    for seed in range(20):
        steps, _, _ = read_plan_text(walk(automaton, tokens, random.Random(seed)) or "")
        assert {step.target for step in steps} == {"dog"}


def test_nothing_to_say_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a sound"):
        build(words(), {""}, set())


@pytest.mark.parametrize("make", [characters, words])
def test_a_prefix_of_another_name(make) -> None:
    tokens = make()
    automaton = build(tokens, {"dog", "dog barking"}, {"dog barking far", "dog"})
    for target in ("dog", "dog barking"):
        assert accepts(automaton, tokens(f"remove {target}\n"))
        assert accepts(automaton, tokens(f"change {target} at the left to the left front\n"))
    assert accepts(automaton, tokens("add dog barking far at the left front with -3 dB\n"))
    assert not accepts(automaton, tokens("add dog barking at the front with 0 dB\n"))
    assert not accepts(automaton, tokens("remove dog barking far\n"))


def test_a_prefix_that_reads_as_a_place() -> None:
    tokens = words()
    automaton = build(tokens, {"dog", "dog at the left"}, set(), max_steps=1)
    assert spelled_name("remove", "dog at the left") == '"dog at the left"'
    for text, target, azimuth in (
        ("remove dog at the left\n", "dog", -90.0),
        ('remove "dog at the left"\n', "dog at the left", None),
        ('remove "dog at the left" at the left\n', "dog at the left", -90.0),
    ):
        assert accepts(automaton, tokens(text))
        assert read_plan_text(text)[0] == (Step(Operation.REMOVE, target, azimuth_deg=azimuth),)


REJECTED = [
    "",
    "\n",
    "remove dog",
    "remove cat\n",
    "remove rain\n",
    "add dog at the front with 0 dB\n",
    "add rain\n",
    "add rain at the front with 25 dB\n",
    "turn up dog by 0 dB\n",
    "turn up dog by -3 dB\n",
    "turn up dog by 25 dB\n",
    "shift dog by 0 seconds\n",
    "shift dog by 11 seconds\n",
    "reverb dog with reverb level 11\n",
    "change dog to the back\n",
    "change the timbre of dog to be more loud\n",
    "remove dog at the left at the right\n",
    "remove dog\n\n",
    "remove dog\nask Which?\nor a\nor b\n",
    "ask\nor a\nor b\n",
    "ask \nor a\nor b\n",
    "asks Which?\nor a\nor b\n",
    "ask Which?\n",
    "ask Which?\nor a\n",
    "ask Which?\nor\nor b\n",
    "ask Which?\n\nor a\nor b\n",
    f"ask Which{SPECIAL}?\nor a\nor b\n",
    "ask Which?\nor a\nor b\nremove dog\n",
    "ask Which?\nor a\nor b\nor c\nor d\nor e\n",
]


@pytest.mark.parametrize("text", REJECTED)
@pytest.mark.parametrize("make", [characters, words])
def test_anything_else_is_refused(make, text: str) -> None:
    tokens = make()
    tokens.pattern = f"{re.escape(SPECIAL)}|{tokens.pattern}"
    tokens(text)
    automaton = build(tokens, {"dog"}, {"rain"}, ask=True)
    assert not accepts(automaton, tokens(text))


@pytest.mark.parametrize("make", [characters, words])
def test_what_is_asked_back(make) -> None:
    tokens = make()
    text = plan_text((), "Silent, or “loud”?", ("silent", "or loud"))
    tokens(text)
    automaton = build(tokens, {"dog"}, {"rain"}, ask=True)
    assert accepts(automaton, tokens(text))
    assert read_plan_text(text) == ((), "Silent, or “loud”?", ("silent", "or loud"))
    quiet = build(tokens, {"dog"}, {"rain"})
    assert not accepts(quiet, tokens(text))


@given(
    st.lists(
        st.builds(Step, st.just(Operation.REMOVE) | st.just(Operation.EXTRACT), st.sampled_from(sorted(PLAIN)))
        | st.builds(
            Step,
            st.just(Operation.VOLUME),
            st.sampled_from(sorted(PLAIN)),
            azimuth_deg=st.sampled_from([None, -90.0, 45.0]),
            gain_db=st.integers(1, 24) | st.integers(-24, -1),
        )
        | st.builds(
            Step,
            st.just(Operation.SHIFT),
            st.sampled_from(sorted(PLAIN)),
            shift_s=st.sampled_from([0.1, 0.25, 1.0, -1.0, 1.5, 4.0, -9.75, 10.0]),
        )
        | st.builds(Step, st.just(Operation.REVERB), st.just("rain"), reverb_level=st.integers(1, 10))
        | st.builds(Step, st.just(Operation.TIMBRE), st.just("dog"), timbre=st.sampled_from(Timbre))
        | st.builds(
            Step,
            st.just(Operation.DIRECTION),
            st.just("dog"),
            azimuth_deg=st.sampled_from([None, 0.0]),
            to_azimuth_deg=st.sampled_from([-90.0, -45.0, 0.0]),
        )
        | st.builds(
            Step,
            st.just(Operation.ADD),
            st.just("sea"),
            azimuth_deg=st.sampled_from([0.0, 90.0]),
            gain_db=st.integers(-24, 24),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=80, deadline=None)
def test_every_step_of_the_grammar_can_be_written(steps: list[Step]) -> None:
    automaton = _shared()
    assert accepts(automaton, SHARED_TOKENS(plan_text(steps)))


SHARED_TOKENS = words()
_MADE: list[Automaton] = []


def _shared() -> Automaton:
    if not _MADE:
        _MADE.append(build(SHARED_TOKENS, PLAIN, {"sea"}))
    return _MADE[0]


@pytest.mark.parametrize("max_steps", [1, 2, 4])
def test_max_steps_holds(max_steps: int) -> None:
    tokens = words()
    automaton = build(tokens, {"dog"}, {"rain"}, max_steps=max_steps)
    line = "remove dog\n"
    assert accepts(automaton, tokens(line * max_steps))
    assert not accepts(automaton, tokens(line * (max_steps + 1)))


def test_adding_is_only_offered_where_something_can_be_added() -> None:
    tokens = characters()
    automaton = build(tokens, {"dog"}, set())
    assert tokens("a")[0] not in automaton.allowed(frozenset({START}))
    only_add = build(tokens, set(), {"rain"})
    assert {tokens.texts[token] for token in only_add.allowed(frozenset({START}))} == {"a"}


def test_the_designer_writes_inside_the_grammar() -> None:
    from training.designer import default_knowledge
    from training.planner import answer_text, make_plan_example

    tokens = words()
    knowledge = default_knowledge()
    labels = sorted(knowledge.labels)
    for index in range(12):
        example = make_plan_example(np.random.default_rng([5, index]), knowledge, labels, "train")
        text = answer_text(example.design)
        tokens(text)
        steps = example.design.steps
        automaton = build(
            tokens,
            {step.target for step in steps if step.operation is not Operation.ADD} | {"dog"},
            {step.target for step in steps if step.operation is Operation.ADD},
            max_steps=6,
            ask=True,
        )
        assert accepts(automaton, tokens(text)), text
