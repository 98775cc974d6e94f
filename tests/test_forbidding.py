"""Constraints in words that no pattern knows are told; scenes are not taken for constraints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from smartdj_agent.constraints import Constraint, ConstraintKind, read_constraints
from smartdj_agent.forbidding import KINDS, Forbidding, plain
from smartdj_agent.models.text import SentenceEncoder


@cache
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def vectors(texts: Sequence[str]) -> np.ndarray:
    return encoder().vectors(list(texts)).numpy()


def guessed(text: str) -> tuple[Constraint, ...]:
    model = Forbidding.load()
    return read_constraints(text, lambda noun: (), lambda clause: model.guess(clause, vectors))


# None of these stands among the wordings that the weights were fitted to.
@pytest.mark.parametrize(
    ("text", "kind", "side"),
    [
        ("a harbour at dawn, but do it with extra layers only", ConstraintKind.ONLY_ADD, ""),
        ("make it a jungle - no removing of what I have recorded, it all stays", ConstraintKind.ONLY_ADD, ""),
        ("a small bar; bring no additional noises in", ConstraintKind.NO_ADD, ""),
        ("turn it into a night scene, no new stock sounds please", ConstraintKind.NO_ADD, ""),
        ("a busy street, and put no extra layers on the right side", ConstraintKind.NO_ADD_SIDE, "right"),
        ("a library, the left channel must be kept vacant", ConstraintKind.CLEAR_SIDE, "left"),
        ("my right earphone is broken, make it a garden", ConstraintKind.CLEAR_SIDE, "right"),
    ],
)
def test_unknown_words_are_told(text: str, kind: ConstraintKind, side: str) -> None:
    assert read_constraints(text, lambda noun: ()) == ()
    assert Constraint(kind, (), side) in guessed(text)


@pytest.mark.parametrize(
    "text",
    [
        "make this a sunny forest",
        "like nobody has been here for years",
        "only the wind and the sea",
        "a town without cars",
        "turn the left one down and leave the door open",
        "everything sounds as if it came from next door",
        "no man's land at midnight",
        "he left home on a cold day",
        "nothing but rain",
        "",
    ],
)
def test_scenes_forbid_nothing(text: str) -> None:
    assert guessed(text) == ()


def test_kinds_of_a_side_need_one_and_others_have_none() -> None:
    always = Forbidding(np.zeros((1 + len(KINDS), 384), np.float32), np.array([-9, 1, 0, 0, 9], np.float32), 0.5)

    def guess(clause: str) -> ConstraintKind | None:
        return always.guess(clause, vectors)

    assert guess("a forest") is None  # no word that forbids
    assert guess("nothing over there") is ConstraintKind.ONLY_ADD
    assert read_constraints("whatever at right", lambda noun: (), guess) == (
        Constraint(ConstraintKind.CLEAR_SIDE, (), "right"),
    )


def test_both_sides_are_one_to_the_classifier() -> None:
    assert plain(" -The RIGHT side stays bright") == "the left side stays bright"
