"""Sentence vectors of all texts that training asks for, as one matrix on the training device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.steps import DIRECTIONS
from training.labels import wordings

AT_ONCE = 256


class TextTable:
    """Vectors by text, computed once; texts that were not foreseen are added when they come.

    Parameters
    ----------
    encoder
        Where vectors come from.
    texts
        What will be asked for.
    device
        Where the vectors are wanted.
    """

    def __init__(self, encoder: SentenceEncoder, texts: Iterable[str], device: str) -> None:
        self.encoder, self.device = encoder, device
        self.rows: dict[str, int] = {}
        self.matrix = torch.zeros(0, encoder.width, device=device)
        self.add(texts)

    @torch.no_grad()
    def add(self, texts: Iterable[str]) -> None:
        """Compute vectors of the texts that are new."""
        new = [text for text in dict.fromkeys(texts) if text not in self.rows]
        new.sort(key=len)
        parts = []
        for start in range(0, len(new), AT_ONCE):
            states, mask = self.encoder.states(new[start : start + AT_ONCE])
            pooled = states.sum(1) / mask.sum(1, keepdim=True)
            parts.append(torch.nn.functional.normalize(pooled.float(), dim=-1).to(self.device))
        self.rows.update({text: len(self.rows) + index for index, text in enumerate(new)})
        self.matrix = torch.cat([self.matrix, *parts])

    def index(self, texts: Sequence[str]) -> Tensor:
        """Rows of texts, on the device."""
        if any(text not in self.rows for text in texts):
            self.add(texts)
        rows = torch.tensor([self.rows[text] for text in texts])
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device != "cpu" else rows

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """One unit vector per text, shape (B, width), as `SentenceEncoder.vectors` gives."""
        return self.matrix[self.index(texts)]


def listener_texts(labels: Sequence[str]) -> list[str]:
    """All that the listener's training says: every wording, alone and with a direction."""
    words = [text for label in labels for text in dict.fromkeys(wordings(label))]
    return words + [f"{word} at {direction}" for word in words for direction in DIRECTIONS]
