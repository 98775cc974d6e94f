"""After a step: is what was asked for heard in the result? The same ear that plans checks what was done.

Only what can be heard is asked: whether a removed sound is gone, an added one there, an extracted one still there.
Levels, directions and times are exact arithmetic, and need no ear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smartdj_agent.audio import Audio
from smartdj_agent.listening import MIN_CONFIDENCE, confidence, outcome, rank
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.separation import WINDOW_S, as_heard
from smartdj_agent.steps import Operation, Step

if TYPE_CHECKING:
    from smartdj_agent.models.listener import Listener

CHECKED = frozenset({Operation.ADD, Operation.REMOVE, Operation.EXTRACT})
"""Operations whose result is listened to."""
GONE = 0.5
"""A removed sound must be heard with less than this share of the confidence from before."""


@dataclass(frozen=True)
class Verdict:
    """What the listener says of a step.

    Attributes
    ----------
    before, after
        How surely the target is heard in the recording and in the result, 0 to 1.
    done
        Whether the change can be heard.
    """

    before: float
    after: float
    done: bool


def judge(operation: Operation, before: float, after: float) -> Verdict:
    """Decide from how surely the target is heard, 0 to 1, before and after."""
    if operation is Operation.REMOVE:
        # What was hardly heard before can't be heard to go.
        return Verdict(before, after, after < max(MIN_CONFIDENCE, GONE * before))
    if operation is Operation.ADD:
        return Verdict(before, after, after > max(MIN_CONFIDENCE, before))
    return Verdict(before, after, after > max(MIN_CONFIDENCE, GONE * before))


def better(operation: Operation, first: Verdict, second: Verdict) -> bool:
    """Whether the second try came out better."""
    if first.done != second.done:
        return second.done
    return second.after < first.after if operation is Operation.REMOVE else second.after > first.after


def where_it_changed(before: Audio, after: Audio, operation: Operation) -> slice:
    """The ten seconds (samples) in which most of the sound was put in or taken out; all of a shorter recording.

    One window says enough, and costs as much for an hour as for ten seconds.
    """
    length = round(WINDOW_S * before.sample_rate)
    if before.n_samples <= length:
        return slice(0, before.n_samples)
    block = before.sample_rate  # a second
    count = -(-before.n_samples // block)
    energy = np.zeros(count)
    for index in range(count):
        piece = slice(index * block, (index + 1) * block)
        sound = after.samples[:, piece].astype(np.float64)
        if operation is not Operation.EXTRACT:
            sound = sound - before.samples[:, piece]
        energy[index] = float(np.sum(np.square(sound)))
    sums = np.convolve(energy, np.ones(min(count, round(WINDOW_S))), "valid")
    start = min(int(np.argmax(sums)) * block, before.n_samples - length)
    return slice(start, start + length)


def how_surely(listener: Listener, encoder: SentenceEncoder, samples: np.ndarray, rate: int, target: str) -> float:
    """How surely a sound is heard in samples (channels, n) of at most ten seconds, 0 to 1."""
    if not np.any(samples):
        return 0.0
    findings = outcome(rank(listener, encoder, as_heard(listener, samples, rate), (target,), mono=True))
    return confidence(findings[0].score) if findings else 0.0


def warning(step: Step, verdict: Verdict, tries: int) -> tuple[str, str, str]:
    """Code, message and hint for a step whose change can't be heard."""
    again = " in two tries" if tries > 1 else ""
    if step.operation is Operation.REMOVE:
        return (
            "still_heard",
            f"“{step.target}” is still heard after it was removed{again}"
            f" (confidence {verdict.after:.2f}, before {verdict.before:.2f}).",
            "Listen to this step's audio; name the sound in other words, or remove it once more.",
        )
    return (
        "not_heard",
        f"“{step.target}” is hardly heard in the result{again} (confidence {verdict.after:.2f},"
        f" before {verdict.before:.2f}).",
        "Listen to this step's audio; name the sound in other words, or try another seed.",
    )
