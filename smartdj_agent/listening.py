"""What is in a recording: sounds with confidence, level, direction and time span, for recordings of any length."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from smartdj_agent.audio import resample, to_stereo
from smartdj_agent.events import Heard
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.separation import HeardWindow, Mask, apply_mask, estimate_masks, hear_window, window_starts
from smartdj_agent.spatial import measure_azimuth

if TYPE_CHECKING:
    from smartdj_agent.models.listener import Listener

Result = TypeVar("Result")

MAX_SOUNDS = 5
CANDIDATES = 16
"""How many of the likeliest names are tried as masks."""
KEPT_WINDOWS = 12
"""Windows (12 MB each) of a recording that are kept, so that none is heard twice."""
SLOPE, OFFSET = 0.358, -1.266
"""Confidence = sigmoid(SLOPE·ln(score) + OFFSET), fitted on validation scenes by `python -m training.calibration`.

Among findings of confidence 0.2, one in five was right.
"""
MIN_CONFIDENCE = 0.03
SAME_MEANING = 0.8
"""Sentence similarity above which two names mean the same, so that only the surer is reported."""
SAME_POWER = 0.9
"""Likeness (cosine of amplitudes) of what two masks take, above which both names stand for one sound."""


@dataclass(frozen=True)
class Finding:
    """A name that may be heard.

    Attributes
    ----------
    index
        Row of the labels.
    score
        Presence times the share of power that the name's mask takes where it is surest; of no unit.
    azimuth_deg
        Direction of what the mask takes; None for mono recordings.
    first, last
        Frames between which it is heard.
    window
        First sample of the window that it was asked in.
    taken
        Amplitudes that its mask takes of that window, flat.
    """

    index: int
    score: float
    azimuth_deg: float | None
    first: int
    last: int
    window: int
    taken: np.ndarray


def confidence(score: float) -> float:
    """How often a finding of this score is right."""
    return float(1 / (1 + np.exp(-(SLOPE * np.log(score + 1e-6) + OFFSET))))


def outcome(steps: Generator[float, None, Result]) -> Result:
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


@torch.inference_mode()
def rank(
    listener: Listener, encoder: SentenceEncoder, stereo: np.ndarray, labels: Sequence[str], *, mono: bool
) -> Generator[float, None, list[Finding]]:
    """Rank the names that may be heard in stereo (2, n) at the listener's rate.

    Yields the share that is done, 0 to 1, after every window; returns the findings, best first (see `outcome`).
    """
    rate, hop = listener.config.sample_rate, listener.config.hop
    device = listener.logit_scale.device
    vectors = encoder.vectors(labels).to(device)
    texts = listener.text_embeddings(vectors)
    frames = stereo.shape[1] // hop + 1
    scores = np.zeros((len(labels), frames), np.float32)
    windows = window_starts(stereo.shape[1], rate)
    kept: dict[int, HeardWindow] = {}
    for done, (start, stop) in enumerate(windows):
        yield done / (2 * len(windows))
        window = hear_window(listener, stereo[:, start:stop])
        if len(windows) <= KEPT_WINDOWS:
            kept[start] = window
        frames_heard = listener.frame_embeddings(window.hearing)
        heard = torch.sigmoid(listener.presence_logits(frames_heard, texts)[0]).cpu().numpy()
        first = start // hop
        span = slice(first, min(first + heard.shape[1], frames))
        scores[:, span] = np.maximum(scores[:, span], heard[:, : span.stop - span.start])
    # A frame's peak may be a chance hit: half a second of evidence counts.
    width = min(frames, 25)
    smooth = np.stack([np.convolve(row, np.ones(width, np.float32) / width, "same") for row in scores])
    best = smooth.max(axis=1)
    candidates = list(map(int, np.argsort(-best)[:CANDIDATES]))
    peaks = {index: int(np.argmax(smooth[index])) * hop for index in candidates}
    found: list[Finding] = []
    for done, (start, stop) in enumerate(windows):
        yield 0.5 + done / (2 * len(windows))
        # In the overlap of two windows a peak belongs to the later one, where it lies further from the edge.
        end = stop if stop == windows[-1][1] else stop - rate
        here = [index for index in candidates if start <= peaks[index] < end]
        candidates = [index for index in candidates if index not in here]
        if not here:
            continue
        piece = stereo[:, start:stop]
        window = kept[start] if start in kept else hear_window(listener, piece)
        masks = estimate_masks(listener, window, vectors[here])
        power = window.power.cpu().numpy()
        for index, mask in zip(here, masks, strict=True):
            taken = np.sqrt(mask.share * power).ravel()
            azimuth = None
            if not mono and mask.active.any() and piece.shape[1] > rate // 4:  # shorter says no direction
                centre = (peaks[index] - start) // hop
                near = slice(max(0, centre - 100), centre + 100)
                part = piece[:, near.start * hop : near.stop * hop]
                local = Mask(mask.share[:, :, near], mask.active[near], mask.confidence)
                azimuth = round(float(measure_azimuth(apply_mask(part, rate, local, listener), rate)), 1)
            active = np.flatnonzero(smooth[index] >= 0.5 * best[index])
            score = float(best[index]) * mask.confidence
            found.append(Finding(index, score, azimuth, int(active[0]), int(active[-1]), start, taken))
    return sorted(found, key=lambda finding: -finding.score)


def same_sound(first: Finding, second: Finding, vectors: torch.Tensor) -> bool:
    """Whether two findings are the same sound under two names: near in meaning, or taking the same power."""
    if float(vectors[first.index] @ vectors[second.index]) >= SAME_MEANING:
        return True
    if first.window != second.window:
        return False
    norms = float(np.linalg.norm(first.taken) * np.linalg.norm(second.taken))
    return norms > 0 and float(first.taken @ second.taken) / norms >= SAME_POWER


def listen(
    listener: Listener,
    encoder: SentenceEncoder,
    samples: np.ndarray,
    sample_rate: int,
    labels: Sequence[str],
) -> Generator[float, None, tuple[Heard, ...]]:
    """Report the sounds of a recording.

    Yields the share that is done, 0 to 1; returns the sounds, surest first, at most five (see `outcome`).

    Parameters
    ----------
    samples
        Shape (channels, n).
    labels
        Names to listen for.
    """
    rate, hop = listener.config.sample_rate, listener.config.hop
    stereo = resample(to_stereo(samples.astype(np.float32, copy=False)), sample_rate, rate)
    chosen: list[Finding] = []
    vectors = encoder.vectors(labels)
    for finding in (yield from rank(listener, encoder, stereo, labels, mono=samples.shape[0] == 1)):
        if len(chosen) == MAX_SOUNDS or confidence(finding.score) < MIN_CONFIDENCE:
            break
        if not any(same_sound(finding, other, vectors) for other in chosen):
            chosen.append(finding)
    last_s = np.floor(samples.shape[1] / sample_rate * 100 + 1e-6) / 100  # spans are rounded, but stay inside
    heard = []
    for finding in chosen:
        segment = stereo[:, finding.first * hop : (finding.last + 1) * hop]
        level = 10 * math.log10(float(np.mean(np.square(segment))) + 1e-12) if segment.size else -120.0
        heard.append(
            Heard(
                label=labels[finding.index],
                confidence=round(confidence(finding.score), 3),
                level_db=round(level, 1),
                azimuth_deg=finding.azimuth_deg,
                start_s=round(finding.first * hop / rate, 2),
                end_s=min(round((finding.last + 1) * hop / rate, 2), float(last_s)),
            )
        )
    return tuple(heard)
