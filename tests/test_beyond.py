"""What asks for no edit is told, in words that no fit has seen; edits are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import yaml

from smartdj_agent.beyond import KINDS, QUESTIONS, Beyond, BeyondClassifier, plain, ways_out
from smartdj_agent.events import Heard
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.planner import Asked, Planner
from smartdj_agent.sentences import SentenceClassifier
from training.beyond import WORDINGS, framed_examples, kind_of, own_examples
from training.designer import Design

DOG = Heard("dog barking", 0.9, -20.0, 0.0, 0.0, 5.0)


@cache
def planner() -> Planner:
    return Planner("small", "cpu", SentenceEncoder())


def vectors(texts: Sequence[str]) -> np.ndarray:
    return planner().vectors(texts)


def kind_told(text: str) -> Beyond | None:
    doubt = BeyondClassifier.load().doubt(text, ["dog barking"], vectors)
    return next((kind for kind, question in QUESTIONS.items() if doubt and doubt.text == question), None)


UNSEEN = {
    "could you tell me the exchange rate of the dollar": Beyond.TALK,
    "thank you so much, you are great": Beyond.TALK,
    "who is the president of France?": Beyond.TALK,
    "please buy me a ticket to the concert": Beyond.TALK,
    "I need the clip to run for two minutes": Beyond.LENGTH,
    "make a drawing of the harbour": Beyond.PICTURE,
    "type out everything the woman says": Beyond.WORDS,
    "slow the whole thing down to 80 percent speed": Beyond.PITCH,
}


def test_most_of_what_is_no_edit_is_told() -> None:
    known = {plain(wording) for wording, _ in own_examples()}
    assert not known & set(map(plain, UNSEEN))
    told = {text: kind_told(text) for text in UNSEEN}
    assert sum(told[text] is kind for text, kind in UNSEEN.items()) >= len(UNSEEN) - 2, told


@pytest.mark.parametrize(
    "text",
    [
        "make this a sunny forest",
        "a harbour at dawn",
        "something eerie and cold",
        "add rain",
        "make it sound like we are under water",
        "turn this into a football stadium",
        "a slow evening on the veranda",
        "people talking in a train",
        "take me to a saloon in Nevada",
        "my graduation",
        "I wish I were at my aunt's farm",
        "bring me to a temple in Kyoto",
    ],
)
def test_edits_are_left_alone(text: str) -> None:
    assert kind_told(text) is None


def test_the_planner_asks_back_with_ways_that_can_be() -> None:
    (asked,) = planner().write([DOG], "who is the president of France?", seed=0)
    assert isinstance(asked, Asked)
    assert asked.text == QUESTIONS[Beyond.TALK]
    for way in asked.choices:
        answers = list(planner().write([DOG], way, seed=0))
        assert answers
        assert not any(isinstance(answer, Asked) for answer in answers)
    assert 2 <= len(asked.choices) <= 3
    assert len(set(ways_out(()))) == 2


def test_what_is_read_word_by_word_is_not_asked_about() -> None:
    class Anything(BeyondClassifier):
        def likeliest(self, vector: np.ndarray) -> tuple[Beyond, float]:
            return Beyond.TALK, 1.0

    always = Planner("small", "cpu", planner().encoder)
    always.beyond = Anything(*(np.zeros(1 + len(KINDS)),) * 3)  # type: ignore[misc]
    (asked,) = always.draft([DOG], "a harbour at dawn", seed=0).opening()
    assert isinstance(asked, Asked)
    for text in ("turn the dog down 6 dB", "a harbour at dawn, but keep the dog"):
        assert not any(isinstance(item, Asked) for item in always.draft([DOG], text, seed=0).opening())


def test_the_likeliest_of_the_places_that_come_into_question() -> None:
    model = SentenceClassifier(np.array([[0.0], [1.0], [3.0]]), np.zeros(3), np.zeros(2))
    place, share = model.best(np.array([1.0]), [1, 2])
    assert (place, round(share, 4)) == (2, round(float(np.exp(3) / (1 + np.e + np.exp(3))), 4))
    place, share = model.best(np.array([1.0]), [1])
    assert (place, round(share, 4)) == (1, round(float(np.e / (1 + np.e)), 4))


def test_the_wordings_are_each_of_one_kind() -> None:
    loaded = yaml.safe_load(WORDINGS.read_text(encoding="utf-8"))
    assert set(loaded) == {*Beyond, "none", "frames", "places"}
    texts = [text for text, _ in (*own_examples(), *framed_examples())]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("style", "question", "kind"),
    [
        ("off topic", "?", Beyond.TALK),
        ("empty", "?", Beyond.TALK),
        ("impossible", "I only work on sound. What should it sound like?", Beyond.PICTURE),
        ("impossible", "I can place sounds between left, front and right only. Where?", None),
        ("opposites", "Which of the two?", None),
        ("plain", "", None),
    ],
)
def test_designs_are_of_the_kind_that_they_ask_for(style: str, question: str, kind: Beyond | None) -> None:
    assert kind_of(Design("text", "", (), "question", question, (), style=style)) is kind
