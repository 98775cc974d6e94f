"""Instructions that ask for no edit of sounds: chatter, a longer file, a picture, other words, another pitch.

They come in more wordings than patterns could hold, so the instruction's sentence vector tells them;
`training.beyond` fits the weights. What is read word by word is never asked about here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

from smartdj_agent.doubts import Doubt
from smartdj_agent.sentences import DATA, SentenceClassifier


class Beyond(StrEnum):
    """What an instruction asks for instead of an edit."""

    TALK = "talk"
    LENGTH = "length"
    PICTURE = "picture"
    WORDS = "words"
    PITCH = "pitch"


QUESTIONS = {
    Beyond.TALK: "That is no edit that I can plan. What should change in the recording?",
    Beyond.LENGTH: "I can't change how long the recording is. What should change in its sounds?",
    Beyond.PICTURE: "I only work on sound. What should the recording sound like?",
    Beyond.WORDS: "I can't change or write down what is said, only how it sounds. What should change?",
    Beyond.PITCH: "I can't change speed or pitch. Should level, direction or colour change instead?",
}
KINDS = tuple(QUESTIONS)
"""The weights' first row is for edits."""
USUAL_CHOICES = ("make this sound like a rainy street", "make this sound like a quiet forest")
"""Where nothing was heard."""


def plain(instruction: str) -> str:
    """An instruction as it is compared."""
    return " ".join(instruction.lower().split())


def ways_out(heard: Sequence[str]) -> tuple[str, ...]:
    """Two instructions that can be carried out: with sounds that are there, if any."""
    if not heard:
        return USUAL_CHOICES
    return (f"turn the {heard[0]} down 6 dB", USUAL_CHOICES[0])


class BeyondClassifier(SentenceClassifier):
    """Tells what is no edit; see `smartdj_agent.sentences.SentenceClassifier`."""

    file = DATA / "beyond.safetensors"

    def likeliest(self, vector: np.ndarray) -> tuple[Beyond, float]:
        """The likeliest kind of an instruction with its sentence vector (width,), and how likely it is."""
        place, share = self.best(vector, range(1, 1 + len(KINDS)))
        return KINDS[place - 1], share

    def doubt(
        self, instruction: str, heard: Sequence[str], vectors: Callable[[Sequence[str]], np.ndarray]
    ) -> Doubt | None:
        """What to ask back where an instruction is no edit; None where it may be one.

        Parameters
        ----------
        instruction
            As the person wrote it.
        heard
            Names of what is there, surest first.
        vectors
            Sentence vectors (n, width) of texts.
        """
        kind, share = self.likeliest(vectors([plain(instruction)])[0])
        if share < self.thresholds[KINDS.index(kind)]:
            return None
        return Doubt(QUESTIONS[kind], ways_out(heard))
