"""What is in a recording: sounds with confidence, level, direction and time span, for recordings of any length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from smartdj_agent.audio import resample, to_stereo
from smartdj_agent.events import Heard
from smartdj_agent.models.listener import Listener
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.separation import apply_mask, estimate_mask, window_starts
from smartdj_agent.spatial import measure_azimuth

MAX_SOUNDS = 6
MIN_CONFIDENCE = 0.12
SAME_SOUND = 0.8
"""Sentence similarity above which two labels name the same thing, so that only the surer is reported."""


@torch.inference_mode()
def listen(
    listener: Listener,
    encoder: SentenceEncoder,
    samples: np.ndarray,
    sample_rate: int,
    labels: Sequence[str],
) -> tuple[Heard, ...]:
    """Report the sounds of a recording, surest first, at most six.

    Parameters
    ----------
    samples
        Shape (channels, n).
    labels
        Names to listen for.
    """
    rate = listener.config.sample_rate
    device = listener.logit_scale.device
    stereo = resample(to_stereo(samples.astype(np.float32, copy=False)), sample_rate, rate)
    vectors = encoder.vectors(labels).to(device)
    texts = listener.text_embeddings(vectors)
    seconds_per_frame = listener.config.hop / rate
    frames = stereo.shape[1] // listener.config.hop + 1
    scores = np.zeros((len(labels), frames), np.float32)
    windows = window_starts(stereo.shape[1], rate)
    for start, stop in windows:
        wave = torch.from_numpy(np.ascontiguousarray(stereo[:, start:stop]))[None].to(device)
        hearing = listener.hear(listener.spectrum(wave))
        heard = torch.sigmoid(listener.presence_logits(listener.frame_embeddings(hearing), texts)[0]).cpu().numpy()
        first = start // listener.config.hop
        span = slice(first, min(first + heard.shape[1], frames))
        scores[:, span] = np.maximum(scores[:, span], heard[:, : span.stop - span.start])
    # A frame's peak may be a chance hit: half a second of evidence counts.
    width = min(frames, 25)
    smooth = np.stack([np.convolve(row, np.ones(width, np.float32) / width, "same") for row in scores])
    best = smooth.max(axis=1)
    chosen: list[int] = []
    for index in np.argsort(-best):
        if len(chosen) == MAX_SOUNDS or best[index] < MIN_CONFIDENCE:
            break
        if all(float(vectors[index] @ vectors[other]) < SAME_SOUND for other in chosen):
            chosen.append(int(index))
    mono = samples.shape[0] == 1
    last_s = np.floor(samples.shape[1] / sample_rate * 100 + 1e-6) / 100  # spans are rounded, but stay inside
    found = []
    for index in chosen:
        active = np.flatnonzero(smooth[index] > 0.5 * best[index])
        begin, end = active[0] * seconds_per_frame, (active[-1] + 1) * seconds_per_frame
        centre = int(np.argmax(smooth[index])) * listener.config.hop
        start, stop = max(0, centre - 2 * rate), min(stereo.shape[1], centre + 2 * rate)
        piece = stereo[:, start:stop]
        azimuth = None
        if not mono and piece.shape[1] > rate // 4:
            mask = estimate_mask(listener, piece, vectors[index])
            stem = apply_mask(piece, rate, mask, listener) if mask.active.any() else piece
            azimuth = round(float(measure_azimuth(stem, rate)), 1)
        segment = stereo[:, active[0] * listener.config.hop : (active[-1] + 1) * listener.config.hop]
        level = 10 * np.log10(float(np.mean(np.square(segment))) + 1e-12) if segment.size else -120.0
        found.append(
            Heard(
                label=labels[index],
                confidence=round(float(best[index]), 3),
                level_db=round(level, 1),
                azimuth_deg=azimuth,
                start_s=round(float(begin), 2),
                end_s=min(round(float(end), 2), float(last_s)),
            )
        )
    return tuple(found)
