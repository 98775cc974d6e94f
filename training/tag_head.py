"""Fit the tagger's own projection to single clips: a linear classifier whose classes are texts.

A few thousand pooled vectors are gathered once and gone through hundreds of times, which takes a minute where training
the whole listener for as many rounds would take days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from smartdj_agent.models.listener import Listener

STEPS = 500
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
SMOOTHING = 0.1
SCALE = 20.0
"""Of the cosines while it is fitted."""


@torch.no_grad()
def gather(model: Listener, clips: Iterable[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pool what the tagger hears of clips.

    Parameters
    ----------
    model
        With a tagger.
    clips
        Waves (B, 2, n), activity (B, T), classes (B,).

    Returns
    -------
    tuple
        Vectors (N, 1024), classes (N,).
    """
    assert model.tagged is not None
    vectors, classes = [], []
    for wave, active, label in clips:
        _, last = model.tagged.tagger.maps(model.tagged.log_mel(wave).flatten(0, 1))
        frames = model.tagged.at_frames(model.tagged.both_ears(last), 32, active.shape[1])
        weight = active / active.sum(1, keepdim=True).clamp(min=1)
        vectors.append(torch.einsum("bt,btc->bc", weight, frames))
        classes.append(label)
    return torch.cat(vectors), torch.cat(classes)


def fit(model: Listener, vectors: Tensor, classes: Tensor, texts: Callable[[int], Tensor]) -> float:
    """Fit `embed` and `text` of the tagger's projection; returns the last training accuracy.

    Parameters
    ----------
    model
        With a tagger; changed in place.
    vectors, classes
        From `gather`.
    texts
        Sentence vectors (V, text_width) of all labels, worded anew for each step number.
    """
    assert model.tagged is not None
    tagged = model.tagged
    mean, deviation = vectors.mean(0), vectors.std(0) + 0.1
    standard = (vectors - mean) / deviation
    optimiser = torch.optim.AdamW(
        [*tagged.embed.parameters(), *tagged.text.parameters()], LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    accuracy = 0.0
    with torch.enable_grad():
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / STEPS)
            heard = functional.normalize(tagged.embed(functional.dropout(standard, 0.5)), dim=-1)
            names = functional.normalize(tagged.text(texts(step) * model.config.text_width**0.5), dim=-1)
            logits = SCALE * heard @ names.T
            loss = functional.cross_entropy(logits, classes, label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            accuracy = float((logits.argmax(1) == classes).float().mean())
    with torch.no_grad():  # what was standardised is so no more: into the projection with it
        tagged.embed.weight.div_(deviation)
        tagged.embed.bias.sub_(tagged.embed.weight @ mean)
        own = model.logit_scale.exp()
        model.tag_share.copy_(torch.log(torch.as_tensor(SCALE) / own))
        model.logit_scale.copy_(torch.log(own + SCALE))
    return accuracy
