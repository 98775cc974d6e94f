"""Constraints in words that no pattern knows: a clause's sentence vector says what it forbids, if anything.

"Only overlays please", "the left is for the narrator", "I could do without the dog": `training.forbidding` fits the
weights. Only clauses with a word that forbids are asked about, so that a scene is not taken for a constraint. What a
clause names is put in the place of one sound, so that all dogs and pianos are one to the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import numpy as np

from smartdj_agent.constraints import SIDE, ConstraintKind
from smartdj_agent.sentences import DATA, SentenceClassifier

SIDED = (ConstraintKind.NO_ADD_SIDE, ConstraintKind.CLEAR_SIDE)
NAMED = (ConstraintKind.KEEP, ConstraintKind.UNTOUCHED, ConstraintKind.EXCLUDE)
BARE = (ConstraintKind.ONLY_ADD, ConstraintKind.NO_ADD)
KINDS = (*BARE, *SIDED, *NAMED)
"""What can be told; the weights' first row is for clauses that forbid nothing."""
STAND_IN = "dog"
"""Stands for any sound that a clause names."""
CUE = re.compile(
    r"\b(?:no|not|don't|dont|never|without|only|just|keep|keeps|kept|leave|left|right|stays?|nothing|none|untouched|intact"
    r"|preserved?|alone|remains?|unchanged|existing|original|purely|strictly|solely|hands|respect|survive|everything"
    r"|whatever|on top|overlays?|layers?|additive|additions?|forbidden|off|away|avoid|spare|skip|free|minus|rid|banned?"
    r"|unwelcome|protect|retain|save|sacred|must|has to|have to|hate|dislike)\b"
)
"""One of these stands in nearly every clause that forbids something."""


def name_in(clause: str, names: Collection[str]) -> str:
    """The longest of some names, in lower case, that stands in a clause as words of its own; empty where none does."""
    words = re.findall(r"[a-z0-9'-]+", clause.lower())
    for length in range(min(6, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            text = " ".join(words[start : start + length])
            if text in names or (text.endswith("s") and text[:-1] in names):
                return text
    return ""


def plain(clause: str, name: str = "") -> str:
    """A clause as it is compared: what is said of the right holds of the left, and of one sound of any."""
    text = re.sub(r"\bright\b", "left", clause.strip(" -–—\"'").lower())
    return re.sub(rf"\b{re.escape(name)}\b", STAND_IN, text) if name else text


class Forbidding(SentenceClassifier):
    """Tells what a clause forbids; see `smartdj_agent.sentences.SentenceClassifier`."""

    file = DATA / "forbidding.safetensors"

    def likeliest(self, clause: str, name: str, vector: np.ndarray) -> tuple[ConstraintKind, float]:
        """The likeliest kind of a clause with its sentence vector (width,), and how likely it is.

        Kinds that speak of a side or a sound come into question where one is named, the others where none is.
        """
        kinds = (*(SIDED if SIDE.search(clause) else ()), *(NAMED if name else ())) or BARE
        place, share = self.best(vector, [place for place, kind in enumerate(KINDS, 1) if kind in kinds])
        return KINDS[place - 1], share

    def guess(
        self, clause: str, names: Collection[str], vectors: Callable[[Sequence[str]], np.ndarray]
    ) -> tuple[ConstraintKind, str] | None:
        """What a clause forbids, and the sound that it speaks of (empty where none); None for nothing.

        Parameters
        ----------
        clause
            In lower case.
        names
            Of sounds, in lower case.
        vectors
            Sentence vectors (n, width) of texts.
        """
        if not CUE.search(clause):
            return None
        name = name_in(clause, names)
        kind, share = self.likeliest(clause, name, vectors([plain(clause, name)])[0])
        return (kind, name if kind in NAMED else "") if share >= self.thresholds[KINDS.index(kind)] else None
