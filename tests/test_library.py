"""Sound libraries: finding by meaning, manifests, plain folders, loading."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.library import SoundLibrary, label_from_name, plain_label


def bag_of_words(texts: list[str]) -> np.ndarray:
    """A stand-in for the sentence encoder: texts that share words are near each other."""
    vectors = np.zeros((len(texts), 64))
    for i, text in enumerate(texts):
        for word in text.split():
            vectors[i, int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1.0
    return vectors


def write_tone(path: Path, rate: int = 8_000, channels: int = 1, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(rate * seconds)) / rate
    soundfile.write(path, np.stack([np.sin(2 * np.pi * 440 * t)] * channels, axis=1) * 0.5, rate)


def write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, tuple(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_tone(tmp_path / "dogs" / f"{name}.wav")
    write_tone(tmp_path / "rain.wav", rate=16_000, channels=2)
    rows = [{"path": f"dogs/{n}.wav", "label": "Dog  barking", "kind": "transient"} for n in ("a", "b", "c")]
    rows.append({"path": "rain.wav", "label": "heavy rain", "kind": "continuous"})
    write_manifest(tmp_path, rows)
    return tmp_path


def test_same_words_win_with_similarity_one(folder: Path) -> None:
    matches = SoundLibrary.open(folder).find("the sound of DOG barking", bag_of_words)
    assert matches[0].clip.label == "dog barking"
    assert matches[0].similarity == 1.0


def test_same_words_need_no_encoder(folder: Path) -> None:
    def refuse(texts: list[str]) -> np.ndarray:
        raise AssertionError(f"the encoder was asked for {texts}")

    assert SoundLibrary.open(folder).find("heavy rain", refuse, count=1)[0].clip.continuous


def test_nearest_label_is_found_with_an_honest_similarity(folder: Path) -> None:
    match = SoundLibrary.open(folder).find("rain", bag_of_words, count=1)[0]
    assert match.clip.label == "heavy rain"
    assert match.similarity == pytest.approx(1 / np.sqrt(2))


def test_opposite_meaning_scores_zero_not_less(folder: Path) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return np.stack([-np.ones(3) if text == "x" else np.ones(3) for text in texts])

    assert {m.similarity for m in SoundLibrary.open(folder).find("x", encode)} == {0.0}


def test_seed_picks_among_the_clips_of_the_best_label(folder: Path) -> None:
    library = SoundLibrary.open(folder)
    first = [library.find("dog barking", bag_of_words, seed=s)[0].clip.path.name for s in range(20)]
    again = [library.find("dog barking", bag_of_words, seed=s)[0].clip.path.name for s in range(20)]
    assert first == again
    assert set(first) == {"a.wav", "b.wav", "c.wav"}


def test_count_limits_and_order_is_by_similarity(folder: Path) -> None:
    library = SoundLibrary.open(folder)
    assert len(library.find("rain", bag_of_words, count=2)) == 2
    similarities = [m.similarity for m in library.find("heavy dog", bag_of_words, count=9)]
    assert len(similarities) == 4
    assert similarities == sorted(similarities, reverse=True)


def test_labels_are_encoded_once(folder: Path) -> None:
    asked: list[int] = []

    def encode(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        return bag_of_words(texts)

    library = SoundLibrary.open(folder)
    for _ in range(3):
        library.find("rain", encode)
    assert asked == [2, 1, 1, 1]


def test_load_mixes_to_mono_and_resamples(folder: Path) -> None:
    library = SoundLibrary.open(folder)
    rain = next(c for c in library.clips if c.continuous)
    x = library.load(rain, 24_000)
    assert x.dtype == np.float32
    assert x.shape == (12_000,)
    assert np.max(np.abs(x[2_000:-2_000])) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"not audio", ErrorCode.AUDIO_UNREADABLE), (None, ErrorCode.AUDIO_NOT_FOUND)],
)
def test_load_says_what_is_wrong_with_a_file(folder: Path, content: bytes | None, code: ErrorCode) -> None:
    library = SoundLibrary.open(folder)
    path = library.clips[0].path
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SmartDJError) as caught:
        library.load(library.clips[0], 24_000)
    assert caught.value.code == code
    assert caught.value.hint


def test_load_refuses_invalid_and_missing_samples(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav")
    library = SoundLibrary.open(tmp_path)
    soundfile.write(tmp_path / "tone.wav", np.array([0.0, np.nan]), 8_000, subtype="FLOAT")
    with pytest.raises(SmartDJError) as caught:
        library.load(library.clips[0], 8_000)
    assert caught.value.code == ErrorCode.AUDIO_NOT_FINITE
    soundfile.write(tmp_path / "tone.wav", np.zeros(0), 8_000)
    with pytest.raises(SmartDJError) as caught:
        library.load(library.clips[0], 8_000)
    assert caught.value.code == ErrorCode.AUDIO_EMPTY


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"path": "gone.wav", "label": "x"}, "manifest.csv[2].path"),
        ({"path": "../outside.wav", "label": "x"}, "manifest.csv[2].path"),
        ({"path": "", "label": "x"}, "manifest.csv[2].path"),
        ({"path": "tone.wav", "label": " "}, "manifest.csv[2].label"),
        ({"path": "tone.wav", "label": "x" * 201}, "manifest.csv[2].label"),
        ({"path": "tone.wav", "label": "x", "duration_s": "long"}, "manifest.csv[2].duration_s"),
        ({"path": "tone.wav", "label": "x", "duration_s": "-1"}, "manifest.csv[2].duration_s"),
        ({"path": "tone.wav", "label": "x", "duration_s": "nan"}, "manifest.csv[2].duration_s"),
        ({"path": "noise.wav", "label": "x"}, "manifest.csv[2].duration_s"),
        ({"path": "tone.wav"}, "manifest.csv[1].label"),
    ],
)
def test_manifest_errors_name_line_and_column(tmp_path: Path, row: dict[str, str], field: str) -> None:
    folder = tmp_path / "library"
    write_tone(folder / "tone.wav")
    write_tone(tmp_path / "outside.wav")
    (folder / "noise.wav").write_bytes(b"RIFF")
    write_manifest(folder, [row])
    with pytest.raises(SmartDJError) as caught:
        SoundLibrary.open(folder)
    assert caught.value.field == field
    assert caught.value.hint


def test_manifest_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(SmartDJError) as caught:
        SoundLibrary.open(tmp_path)
    assert caught.value.code == ErrorCode.AUDIO_UNREADABLE


def test_folder_without_manifest_goes_by_file_names(tmp_path: Path) -> None:
    write_tone(tmp_path / "Dog-Bark_03.wav")
    write_tone(tmp_path / "glass breaking" / "0001.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "notes.txt").write_text("not audio")
    library = SoundLibrary.open(tmp_path)
    assert {c.label for c in library.clips} == {"dog bark", "glass breaking"}
    assert [p.name for p in library.skipped] == ["broken.wav"]
    assert all(c.duration_s == pytest.approx(0.5) for c in library.clips)


@pytest.mark.parametrize("make", [False, True])
def test_missing_or_empty_folder(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "sounds"
    if make:
        folder.mkdir()
    with pytest.raises(SmartDJError) as caught:
        SoundLibrary.open(folder)
    assert caught.value.code == ErrorCode.AUDIO_NOT_FOUND


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("rain/light_rain-02.flac", "light rain"),
        ("x/DoorCreakLong.wav", "door creak long"),
        ("wolf howl/12 (3).wav", "wolf howl"),
        ("x/The Sea, at night.wav", "sea at night"),
        ("x/Straße_Nacht.wav", "strasse nacht"),
    ],
)
def test_label_from_name(name: str, label: str) -> None:
    assert label_from_name(Path(name)) == label


@given(st.text(max_size=60))
def test_plain_label_has_single_spaces_and_never_grows_again(text: str) -> None:
    once = plain_label(text)
    assert once == " ".join(once.split())
    assert len(plain_label(once)) <= len(once)


def test_starter_library_opens_and_loads_every_clip() -> None:
    library = SoundLibrary.starter()
    assert len(library.clips) >= 250
    for clip in library.clips:
        x = library.load(clip, 32_000)
        assert len(x) / 32_000 == pytest.approx(clip.duration_s, abs=0.01), clip.path
        assert 0.3 < np.max(np.abs(x)) <= 1.1, clip.path


def test_starter_library_has_the_everyday_sounds() -> None:
    labels = set(SoundLibrary.starter().labels)
    wanted = {
        *("rain", "sea waves", "seagull calling", "wind blowing", "crickets chirping", "birds chirping"),
        *("dog barking", "footsteps", "crowd chatter", "road traffic", "thunder", "clock ticking"),
        *("telephone ringing", "fire crackling", "car engine", "door closing", "ship horn"),
    }
    assert wanted <= labels
