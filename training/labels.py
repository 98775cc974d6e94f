"""Wordings of a label: how people name the same sound, from the designer's knowledge."""

from __future__ import annotations

from functools import cache

from training.designer import default_knowledge


@cache
def wordings(label: str) -> tuple[str, ...]:
    """All ways to name `label`: itself (twice, so that it is drawn more often), "the sound of …" and paraphrases."""
    knowledge = default_knowledge()
    known = knowledge.words(label) if knowledge.bank_label(label) else ()
    return (label, label, f"the sound of {label}", *known)
