"""UCS names: what is one, what it says; and that no name on earth breaks the reader."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartdj_agent.ucs import CATEGORIES, NOISE_WORDS, SHORTENED, parse_ucs, plain_words, words_of_path


@pytest.mark.parametrize(
    ("name", "cat_id", "fx_name", "creator", "source", "rest", "words"),
    [
        ("DOORWood_Old Gate Creak Slow_ABC_FIELD.wav", "DOORWood", "Old Gate Creak Slow", "ABC", "FIELD", "",
         "old gate creak slow wood door"),
        ("RAINConc-Roof_HEAVY-Rain on Tin_A_B_C_D.flac", "RAINConc", "Rain on Tin", "A", "B", "C_D",
         "rain on tin concrete"),
        ("FEETMisc_FootstepsGravel02_JD.wav", "FEETMisc", "FootstepsGravel02", "JD", "", "", "footsteps gravel"),
        ("UIClick_Half-Open Menu.ogg", "UIClick", "Half-Open Menu", "", "", "", "half open menu click user interface"),
        ("AMBForst_v1.2 wind", "AMBForst", "v1.2 wind", "", "", "", "wind forest ambience"),
    ],
)  # fmt: skip
def test_what_a_name_says(
    name: str, cat_id: str, fx_name: str, creator: str, source: str, rest: str, words: str
) -> None:
    found = parse_ucs(name)
    assert found is not None
    assert (found.cat_id, found.fx_name, found.creator_id, found.source_id, found.user_data) == (
        cat_id,
        fx_name,
        creator,
        source,
        rest,
    )
    assert found.words == words


@pytest.mark.parametrize(
    "name",
    ["DOG_bark_01.wav", "DogBark_01.wav", "DOORWood.wav", "XYZQWood_Something.wav", "ZOOM0001.wav", "_.wav", "",
     "DOORwood_Gate.wav", "DOORWood_.wav", "DOORWood_- _A.wav"],
)  # fmt: skip
def test_plain_names_are_no_ucs_names(name: str) -> None:
    assert parse_ucs(name) is None


CATEGORY = st.sampled_from(sorted(CATEGORIES))
SUBCATEGORY = st.sampled_from(sorted(SHORTENED)) | st.from_regex(r"[A-Z][a-z]{2,8}", fullmatch=True)
PART = st.text(st.characters(categories=("L", "N"), include_characters=" "), min_size=1, max_size=20).filter(
    lambda text: any(c.isalnum() for c in text) and text == text.strip()
)


@given(CATEGORY, SUBCATEGORY, PART, st.lists(PART, max_size=5), st.sampled_from(["", ".wav", ".FLAC"]))
def test_fields_come_back_as_they_were_put_together(
    category: str, subcategory: str, fx_name: str, behind: list[str], ending: str
) -> None:
    found = parse_ucs("_".join([category + subcategory, fx_name, *behind]) + ending)
    assert found is not None
    assert found.cat_id == category + subcategory
    assert found.category == CATEGORIES[category]
    assert found.fx_name == fx_name
    creator, source, *rest = [*behind, "", ""]
    assert (found.creator_id, found.source_id) == (creator, source)
    assert found.user_data == "_".join(rest[: max(0, len(behind) - 2)])


@given(st.text(max_size=80))
def test_any_name_can_be_read(name: str) -> None:
    found = parse_ucs(name)
    if found is not None:
        assert found.cat_id
        assert any(c.isalnum() for c in found.fx_name)
    words = words_of_path(PurePath("Weather") / (name.replace("/", "").replace("\0", "") or "x"))
    assert words == words.casefold()
    assert not set(words.split()) & NOISE_WORDS
    assert not any(c.isdigit() and c.isascii() for c in words)


@given(st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=1, max_size=5))
def test_words_are_told_apart_however_they_are_joined(words: list[str]) -> None:
    plain = " ".join(words)
    assert plain_words("_".join(words)) == plain
    assert plain_words("-".join(words) + "03") == plain
    assert plain_words("".join(word.capitalize() for word in words)) == plain


def test_folders_say_what_names_do_not() -> None:
    assert words_of_path(PurePath("Nature/Thunder 48kHz/ZOOM0001.wav")) == "thunder nature"
