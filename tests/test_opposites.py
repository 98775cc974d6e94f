"""Qualities that exclude each other are found; what only looks like it is not."""

from __future__ import annotations

import pytest

from smartdj_agent.opposites import opposed


@pytest.mark.parametrize(
    ("instruction", "pair"),
    [
        ("silent but very loud", ("silent", "loud")),
        ("eerie yet cheerful", ("eerie", "cheerful")),
        ("Make this empty and crowded at the same time", ("empty", "crowded")),
        ("a deafening, silent forest", ("deafening", "silent")),
        ("it should be calm and at the same time totally hectic", ("calm", "hectic")),
        ("make it happy but also sad", ("happy", "sad")),
        ("both indoors and outdoors", ("indoors", "outdoors")),
        ("scorching and freezing please", ("scorching", "freezing")),
    ],
)
def test_two_ends_of_one_axis(instruction: str, pair: tuple[str, str]) -> None:
    assert opposed(instruction) == pair


@pytest.mark.parametrize(
    "instruction",
    [
        "a quiet dog and a loud piano",
        "not silent but loud",
        "from calm to hectic",
        "it used to be loud and quiet",
        "loud but distant thunder",
        "dark and mysterious",
        "quiet, like a library",
        "less chaotic, more calm",
        "rather sad than happy",
        "make it neither happy nor sad",
        "make the quiet street loud",
        "warm and cosy",
        "turn the loud dog down. it should be calm",
        "",
    ],
)
def test_what_only_looks_like_it(instruction: str) -> None:
    assert opposed(instruction) is None
