"""Wordings of a label: how people name the same sound.

The hand-written paraphrases live in ``training/scenes/labels.yaml``; a label without an entry is only known by itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

LABELS_FILE = Path(__file__).parent / "scenes" / "labels.yaml"


@cache
def _paraphrases() -> dict[str, tuple[str, ...]]:
    if not LABELS_FILE.exists():
        return {}
    entries = yaml.safe_load(LABELS_FILE.read_text(encoding="utf-8"))
    return {label: tuple(words) for label, words in entries.items()}


@cache
def wordings(label: str) -> tuple[str, ...]:
    """All ways to name `label`: itself (twice, so that it is drawn more often), "the sound of …" and paraphrases."""
    return (label, label, f"the sound of {label}", *_paraphrases().get(label, ()))
