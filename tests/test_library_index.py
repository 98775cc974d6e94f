"""The index of a person's sounds: what it reads, what it reads again, what it survives, what it finds."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent import library_index
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.excerpt import Levels, choose_region, faded, read_excerpt, to_mono
from smartdj_agent.library_index import (
    IndexedLibrary,
    IndexProgress,
    IndexSummary,
    build_index,
    index_file,
    list_indexes,
    near_best,
    remove_index,
    stem,
)
from smartdj_agent.soundfacts import Lists, _wav_texts
from tests.test_library import bag_of_words

RATE = 16_000
EARS = {"low": 0, "middle": 1, "high": 2}


def hear(mono: np.ndarray) -> np.ndarray:
    """A stand-in for the listener: low, middle or high, by the strongest frequency."""
    spectrum = np.abs(np.fft.rfft(mono))
    hertz = np.argmax(spectrum) * 24_000 / len(mono)
    return np.eye(3)[0 if hertz < 500 else 1 if hertz < 2000 else 2]


def embed(texts: list[str]) -> np.ndarray:
    return np.stack([np.eye(3)[EARS[text]] if text in EARS else np.zeros(3) for text in texts])


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray | None = None, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(440) if samples is None else samples, rate)
    return path


def add_chunk(path: Path, name: bytes, content: bytes) -> None:
    """Append a chunk to a WAV file."""
    data = path.read_bytes() + name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


class Run:
    """What index runs ask of the networks, counted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.heard = 0

    def hear(self, mono: np.ndarray) -> np.ndarray:
        self.heard += 1
        return hear(mono)

    def start(self, *, rebuild: bool = False, listener: str = "one") -> Iterator[IndexProgress | IndexSummary]:
        return build_index(self.root, bag_of_words, self.hear, listener_id=listener, rebuild=rebuild)

    def __call__(self, *, rebuild: bool = False, listener: str = "one") -> IndexSummary:
        *_, summary = self.start(rebuild=rebuild, listener=listener)
        assert isinstance(summary, IndexSummary)
        return summary


@pytest.fixture(autouse=True)
def indexes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    monkeypatch.setenv("SMARTDJ_INDEXES", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "DOORWood_Old Gate Creak_ABC_FIELD.wav", tone(300))
    write(tmp_path / "Dogs" / "Dog Bark 01.flac", tone(900))
    write(tmp_path / "Dogs" / "Dog Bark 02.flac", tone(950))
    write(tmp_path / "ZOOM0001.wav", tone(4000))
    return tmp_path


def search(root: Path, text: str, *, count: int = 10, listener: str | None = "one") -> list[str]:
    library = IndexedLibrary(root, listener)
    return [match.clip.path.name for match in library.search(text, bag_of_words, embed, count=count)]


# --- building -----------------------------------------------------------------


def test_names_metadata_and_licences_are_read(root: Path) -> None:
    gate = root / "DOORWood_Old Gate Creak_ABC_FIELD.wav"
    bext = b"rusty hinges of a garden gate".ljust(256, b"\0") + b"Ann Field".ljust(32, b"\0") + b"\0" * 314
    add_chunk(gate, b"bext", bext)
    add_chunk(gate, b"iXML", b"<BWFXML><USER><KEYWORDS>squeak</KEYWORDS><LICENSE>CC0</LICENSE></USER></BWFXML>")
    (root / "Dogs" / "LICENSE.txt").write_text("CC BY 4.0\nmore", encoding="utf-8")
    (root / "sounds.csv").write_text(
        "Filename;Description;Author\nZOOM0001.wav;kettle whistling on a stove;Bo\n", encoding="utf-8"
    )
    Run(root)()
    found = IndexedLibrary(root, "one").search("rusty hinges of garden gate squeak", bag_of_words, None, count=1)[0]
    assert found.clip.path == gate
    assert (found.clip.licence, found.clip.author, found.clip.source) == ("CC0", "Ann Field", "FIELD")
    assert search(root, "kettle whistling on stove", count=1) == ["ZOOM0001.wav"]
    dog = IndexedLibrary(root, "one").search("dog bark", bag_of_words, None, count=1)[0].clip
    assert dog.licence == "CC BY 4.0"
    assert dog.label == "dog bark"


def test_tags_of_other_containers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x" / "00017.ogg"
    path.parent.mkdir()
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.title, file.artist, file.license = "Owl Hooting", "Cy", "CC0-1.0"
        file.write(tone(440))
    Run(tmp_path)()
    clip = IndexedLibrary(tmp_path).search("owl hooting", bag_of_words, None)[0].clip
    assert (clip.label, clip.author, clip.licence) == ("owl hooting", "Cy", "CC0-1.0")


def test_id3_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "00018.mp3", tone(440, 1.0))
    text = b"\0Kettle Boiling"
    frame = b"TIT2" + struct.pack(">I", len(text)) + b"\0\0" + text
    path.write_bytes(b"ID3\x03\0\0" + struct.pack(">I", len(frame)) + frame + path.read_bytes())
    Run(tmp_path)()
    assert IndexedLibrary(tmp_path).search("kettle boiling", bag_of_words, None)[0].clip.label == "kettle boiling"


def test_info_of_wav_files_is_read(tmp_path: Path) -> None:
    text = b"Steam Valve\0"
    add_chunk(write(tmp_path / "0001.wav"), b"LIST", b"INFOIKEY" + struct.pack("<I", len(text)) + text)
    Run(tmp_path)()
    assert search(tmp_path, "steam valve", count=1) == ["0001.wav"]


@pytest.mark.parametrize(
    "chunk",
    [b"<BWFXML><NOTE>a", b'<!DOCTYPE x [<!ENTITY a "b">]><BWFXML><NOTE>&a;</NOTE></BWFXML>', b"\xff\xfe\0\0", b""],
)
def test_broken_metadata_is_passed_over(tmp_path: Path, chunk: bytes) -> None:
    add_chunk(write(tmp_path / "cow mooing.wav"), b"iXML", chunk)
    assert Run(tmp_path)().skipped == ()
    assert search(tmp_path, "cow mooing") == ["cow mooing.wav"]


CHUNK = st.tuples(
    st.sampled_from([b"bext", b"iXML", b"LIST", b"ds64", b"data", b"junk"]), st.binary(max_size=80), st.integers(-9, 9)
)


@settings(deadline=None)
@given(st.lists(CHUNK, max_size=6), st.sampled_from([b"RIFF", b"RF64", b"what"]), st.integers(0, 9))
def test_no_chunk_breaks_the_reader(chunks: list[tuple[bytes, bytes, int]], head: bytes, cut: int) -> None:
    data = head + b"\xff\xff\xff\xffWAVE"
    for name, content, wrong in chunks:
        data += name + struct.pack("<I", max(0, len(content) + wrong)) + (b"INFO" if name == b"LIST" else b"") + content
    with contextlib.suppress(struct.error, ValueError):  # what `embedded_texts` passes over
        for name, text in _wav_texts(io.BytesIO(data[: len(data) - cut])):
            assert name.islower()
            assert text == " ".join(text.split())
            assert text.isprintable()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_list_breaks_the_reader(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, head in (("a.csv", b""), ("b.csv", b"path,label,licence\n"), ("LICENSE.txt", b"")):
            (Path(folder) / name).write_bytes(head + content)
        lists = Lists(Path(folder))
        found = lists.row(Path(folder) / "x.wav")
        assert all(value.isprintable() for value in found.values())
        assert lists.licence(Path(folder) / "x.wav").isprintable()
        assert lists.stamp(Path(folder) / "x.wav") == Lists(Path(folder)).stamp(Path(folder) / "x.wav")


def test_a_bare_name_in_a_list_means_the_lists_own_folder_first(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("Filename,Title\n01.wav,owl\n02.wav,wolf\n", encoding="utf-8")
    for name in ("01.wav", "Cars/01.wav", "Cars/02.wav"):
        write(tmp_path / name)
    lists = Lists(tmp_path)
    assert lists.row(tmp_path / "01.wav")["label"] == "owl"
    assert lists.row(tmp_path / "Cars" / "01.wav") == {}
    assert lists.row(tmp_path / "Cars" / "02.wav")["label"] == "wolf"


def test_nothing_is_written_to_the_library(root: Path) -> None:
    def state() -> dict[str, tuple[int, int, bytes]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in root.rglob("*")
        }

    before = state()
    Run(root)()
    search(root, "dog bark")
    assert state() == before


def test_only_what_changed_is_read_again(root: Path) -> None:
    run = Run(root)
    assert (run().added, run.heard) == (4, 4)
    summary = run()
    assert (summary.added, summary.kept, run.heard) == (0, 4, 4)
    # Touched, moved: the content is known, only the name is read anew.
    os.utime(root / "ZOOM0001.wav", (1, 1))
    (root / "Dogs" / "Dog Bark 02.flac").rename(root / "Wolf Howl.flac")
    write(root / "new bell.wav", tone(700))
    (root / "Dogs" / "Dog Bark 01.flac").unlink()
    summary = run()
    assert (summary.sounds, summary.added, summary.kept, summary.removed) == (4, 3, 1, 2)
    assert run.heard == 5
    assert search(root, "wolf howl", count=1) == ["Wolf Howl.flac"]
    assert run(rebuild=True).added == 4
    assert run.heard == 9


def test_a_changed_list_is_read_again_without_listening(root: Path) -> None:
    run = Run(root)
    run()
    (root / "list.csv").write_text("path,label,licence\nZOOM0001.wav,steam whistle,CC0\n", encoding="utf-8")
    assert (run().added, run.heard) == (1, 4)
    assert IndexedLibrary(root).search("steam whistle", bag_of_words, None)[0].clip.licence == "CC0"


def test_another_listener_hears_everything_again(root: Path) -> None:
    run = Run(root)
    run()
    assert not IndexedLibrary(root, "one").stale
    stale = IndexedLibrary(root, "two")
    assert stale.stale
    assert all(match.heard is None for match in stale.search("dog bark", bag_of_words, embed))
    assert (run(listener="two").added, run.heard) == (4, 8)
    assert not IndexedLibrary(root, "two").stale


def test_what_cannot_be_read_is_listed_and_not_tried_twice(root: Path) -> None:
    (root / "broken.wav").write_bytes(b"RIFF....WAVEnothing")
    (root / "empty.wav").touch()
    write(root / "silent.wav", np.zeros(RATE, np.float32))
    soundfile.write(root / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (root / "loop.wav").symlink_to(root / "nowhere.wav")
    run = Run(root)
    summary = run()
    names = sorted(name for name, _ in summary.skipped)
    assert names == ["broken.wav", "empty.wav", "loop.wav", "nan.wav", "silent.wav"]
    assert all(reason for _, reason in summary.skipped)
    assert summary.sounds == 4
    again = run()
    assert (again.added, len(again.skipped)) == (0, 5)
    write(root / "broken.wav", tone(200))
    assert "broken.wav" not in dict(run().skipped)
    assert search(root, "broken", count=1) == ["broken.wav"]


def test_stopping_keeps_what_is_done_and_the_next_run_goes_on(root: Path) -> None:
    run = Run(root)
    steps = run.start()
    next(steps), next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(IndexedLibrary(root)) == 2
    summary = run()
    assert (summary.added, summary.kept, run.heard) == (2, 2, 4)


def test_a_crash_in_the_networks_keeps_what_is_done(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_index, "BATCH", 1)
    run = Run(root)

    def fail(mono: np.ndarray) -> np.ndarray:
        if run.heard == 2:
            raise KeyboardInterrupt
        return Run.hear(run, mono)

    with pytest.raises(KeyboardInterrupt):
        list(build_index(root, bag_of_words, fail, listener_id="one"))
    assert len(IndexedLibrary(root)) == 2
    assert run().added == 2


def test_a_run_that_was_killed_while_writing_harms_nothing(root: Path) -> None:
    run = Run(root)
    run()
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 2'); db.execute('BEGIN'); db.execute('DELETE FROM sounds')\n"
        "db.execute('CREATE TABLE big AS WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) '"
        "          'SELECT i, randomblob(3000) AS b FROM n'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, index_file(root)], timeout=60)
    assert done.returncode == 9
    assert Path(f"{index_file(root)}-journal").exists()
    assert len(IndexedLibrary(root)) == 4
    assert run().kept == 4


def test_a_disk_that_is_away_costs_no_index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = Run(root)
    run()
    away = tmp_path_factory.mktemp("away")
    for path in list(root.iterdir()):
        path.rename(away / path.name)
    with pytest.raises(SmartDJError) as caught:
        run()
    assert caught.value.code is ErrorCode.AUDIO_NOT_FOUND
    assert len(IndexedLibrary(root)) == 4
    for path in list(away.iterdir()):
        path.rename(root / path.name)
    assert run().kept == 4


def test_a_folder_that_cannot_be_opened_keeps_its_sounds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(root)
    run()
    real = os.scandir

    def scandir(path: str) -> object:
        if os.fspath(path).endswith("Dogs"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    summary = run()
    assert summary.skipped == (("Dogs", "Permission denied"),)
    assert (summary.sounds, summary.removed) == (4, 0)


def test_progress_counts_files_and_tells_the_time_left(root: Path) -> None:
    items = list(Run(root).start())
    progress = [item for item in items if isinstance(item, IndexProgress)]
    assert [item.done for item in progress] == [1, 2, 3, 4]
    assert {item.count for item in progress} == {4}
    assert all(item.seconds_left is None or item.seconds_left >= 0 for item in progress)
    assert isinstance(items[-1], IndexSummary)


def test_two_runs_at_once_are_refused(root: Path) -> None:
    steps = Run(root).start()
    next(steps)
    with pytest.raises(SmartDJError) as caught:
        Run(root)()
    assert caught.value.code is ErrorCode.USAGE
    steps.close()  # type: ignore[attr-defined]
    assert Run(root)().sounds == 4


def test_an_index_inside_the_library_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTDJ_INDEXES", str(root / "mine"))
    with pytest.raises(SmartDJError) as caught:
        Run(root)()
    assert caught.value.code is ErrorCode.USAGE
    assert not (root / "mine").exists()


def test_a_damaged_index_is_told_and_can_be_built_again(root: Path) -> None:
    run = Run(root)
    run()
    index_file(root).write_bytes(b"not a database, but long enough to look at" * 30)
    for attempt in (lambda: IndexedLibrary(root), run):
        with pytest.raises(SmartDJError) as caught:
            attempt()
        assert caught.value.code is ErrorCode.AUDIO_UNREADABLE
        assert "--rebuild" in caught.value.hint
    assert run(rebuild=True).sounds == 4


def test_several_libraries_are_listed_and_forgotten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "rain.wav")
        Run(tmp_path / name)()
    assert [(info.folder.name, info.sounds, info.there) for info in list_indexes()] == [("a", 1, True), ("b", 1, True)]
    assert remove_index(tmp_path / "a")
    assert not remove_index(tmp_path / "a")
    assert [info.folder.name for info in list_indexes()] == ["b"]
    assert (tmp_path / "a" / "rain.wav").is_file()
    with pytest.raises(SmartDJError, match="no index"):
        IndexedLibrary(tmp_path / "a")


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xe9gen rain.wav")
    try:
        write(tmp_path / "rain.wav").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert Run(tmp_path)().sounds == 1
    clip = IndexedLibrary(tmp_path).search("rain", bag_of_words, None)[0].clip
    assert clip.path.is_file()


# --- searching ----------------------------------------------------------------


def test_words_and_ears_are_mixed(root: Path) -> None:
    Run(root)()
    matches = IndexedLibrary(root, "one").search("high", bag_of_words, embed)
    assert matches[0].clip.path.name == "ZOOM0001.wav"  # no name, but heard as it
    assert matches[0].heard == 1.0
    library = IndexedLibrary(root, "one")
    named = library.search("dog barking", bag_of_words, embed, count=2)
    assert {match.clip.label for match in named} == {"dog bark"}
    assert all(0.5 < match.similarity <= 1 for match in named)


def test_equal_words_with_other_endings_are_found(tmp_path: Path) -> None:
    write(tmp_path / "barking dogs.wav")
    write(tmp_path / "parking lot.wav")
    Run(tmp_path)()
    match = IndexedLibrary(tmp_path).search("the sound of a dog barking", bag_of_words, None)[0]
    assert match.clip.label == "barking dogs"
    assert match.similarity == pytest.approx(1.0)
    assert stem("barking") == stem("barks") == stem("bark")


def test_the_seed_picks_among_the_near_best_only(root: Path) -> None:
    Run(root)()
    matches = IndexedLibrary(root).search("dog bark", bag_of_words, None)
    first = {near_best(matches, seed)[0].clip.path.name for seed in range(20)}
    assert first == {"Dog Bark 01.flac", "Dog Bark 02.flac"}
    assert near_best(matches, 3) == near_best(matches, 3)
    assert sorted(m.clip.path for m in near_best(matches, 1)) == sorted(m.clip.path for m in matches)
    assert near_best([], 0) == []


def test_an_empty_library_has_no_matches(tmp_path: Path) -> None:
    assert Run(tmp_path)().sounds == 0
    assert IndexedLibrary(tmp_path).search("rain", bag_of_words, embed) == []


def test_vectors_of_two_widths_are_damage(root: Path) -> None:
    Run(root)()
    with sqlite3.connect(index_file(root)) as db:
        db.execute("UPDATE sounds SET text = x'0000' WHERE label = 'dog bark'")
    db.close()
    with pytest.raises(SmartDJError) as caught:
        IndexedLibrary(root)
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE


# --- excerpts -----------------------------------------------------------------


def levels(*decibels: float) -> Levels:
    return Levels(np.array(decibels, np.float32), 0.1 * len(decibels))


def test_what_goes_on_is_told_from_what_happens() -> None:
    assert levels(*[-20.0, -22.0] * 20).steady
    assert not levels(*[-20.0, -50.0] * 20).steady
    assert not levels(*[-20.0] * 10).steady  # too short to say
    assert not levels(*[-120.0] * 40).steady


def test_the_loudest_event_is_taken_whole() -> None:
    quiet = [-70.0] * 100
    begin, end = choose_region(levels(*quiet, -30, -25, *quiet, -12, -6, -20, *quiet), 3.0, continuous=False)
    assert 20.0 <= begin <= 20.25
    assert 20.4 <= end <= 21.5


def test_of_what_goes_on_the_steadiest_loud_stretch_is_taken() -> None:
    wild = [-20.0, -28.0] * 30
    begin, end = choose_region(levels(*wild, *[-22.0] * 60, *wild), 4.0, continuous=True)
    assert begin >= 5.8
    assert end <= 12.2


def test_an_excerpt_of_a_long_file_is_short_and_faded(tmp_path: Path) -> None:
    samples = np.zeros((RATE * 40, 2), np.float32)
    samples[RATE * 20 : RATE * 21] = tone(500, 1.0)[:, None]
    path = write(tmp_path / "long.wav", samples)
    mono, continuous, span = read_excerpt(path, 48_000, 30.0)
    assert not continuous
    assert 19.7 <= span[0] <= 20.0
    assert 21.0 <= span[1] <= 21.4
    assert len(mono) == pytest.approx((span[1] - span[0]) * 48_000, abs=2)
    assert mono[0] == 0.0
    assert abs(mono[-1]) < 1e-6
    assert float(np.abs(mono).max()) == pytest.approx(0.5, abs=0.02)


def test_ears_out_of_phase_do_not_cancel() -> None:
    one = tone(300)
    assert np.array_equal(to_mono(np.stack([one, -one])), one)
    np.testing.assert_allclose(to_mono(np.stack([one, one])), one, atol=1e-7)
    assert faded(one, RATE)[0] == 0.0


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SmartDJError) as caught:
        read_excerpt(tmp_path / "gone.wav", RATE, 5.0)
    assert caught.value.code is ErrorCode.AUDIO_NOT_FOUND
    (tmp_path / "bad.wav").write_bytes(b"RIFFxxxxWAVE")
    with pytest.raises(SmartDJError) as caught:
        read_excerpt(tmp_path / "bad.wav", RATE, 5.0)
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE
