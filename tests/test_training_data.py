"""Clips and data sets: readers, archives, the bank's recipe, examples, shards."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.render import amplitude
from smartdj_agent.spatial import place
from smartdj_agent.steps import OPERATIONS, Operation, Step, Timbre, parse_step
from training import bank, dataset, gallery, readers, synthesis
from training.archives import ArchiveError, read_member
from training.clips import SAMPLE_RATE, SPLITS, Clip, ClipStore, read_manifest
from training.designer import SceneKnowledge, default_knowledge
from training.spelling import spelled
from training.synthesis import Example, ExampleKind, Placement, example_seed, make_example

LABELS = (
    "dog barking",
    "rain",
    "car horn",
    "wind blowing",
    "church bell ringing",
    "sea waves",
    "man speaking",
    "seagull calling",
    "door knocking",
    "thunder",
    "crowd chatter",
    "piano",
)
CONTINUOUS = {"rain", "wind blowing", "sea waves", "crowd chatter"}


def tone(path: Path, *, seconds: float = 0.4, rate: int = 24_000, seed: int = 0, pad: float = 0.0) -> Path:
    """Write a decaying noise burst, silence after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    samples = rng.standard_normal(n) * np.exp(-np.arange(n) / n) * 0.1
    soundfile.write(path, np.concatenate([samples, np.zeros(round(pad * rate))]), rate)
    return path


def write_rows(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "tiny"
    rows: list[tuple[str, ...]] = [("path", "label", "category", "kind", "licence", "split")]
    for number, (label, split, take) in enumerate(itertools.product(LABELS, SPLITS, (0, 1))):
        path = tone(folder / label.replace(" ", "_") / f"{split}-{take}.flac", seed=number)
        kind = "continuous" if label in CONTINUOUS else "transient"
        rows.append((str(path.relative_to(folder)), label, "", kind, "CC0", split))
    write_rows(folder / "manifest.csv", rows)
    return folder


@pytest.fixture(scope="module")
def store(clip_folder: Path) -> ClipStore:
    return ClipStore.open([clip_folder], "train")


@pytest.fixture(scope="module")
def knowledge() -> SceneKnowledge:
    return default_knowledge()


# --- readers ------------------------------------------------------------------------------------------------


def test_esc50_folds_become_splits(tmp_path: Path) -> None:
    rows: list[tuple[str, ...]] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold in range(1, 6):
        name = f"{fold}-100-A-0.wav"
        tone(tmp_path / "audio" / name, pad=1.0)
        rows.append((name, str(fold), "0", "chirping_birds" if fold < 3 else "dog", "True", "100", "A"))
    write_rows(tmp_path / "meta" / "esc50.csv", rows)
    clips = readers.read_clips(tmp_path)
    assert [clip.split for clip in clips] == ["train", "train", "train", "valid", "test"]
    assert [clip.label for clip in clips] == ["birds chirping"] * 2 + ["dog barking"] * 3
    # The padding is trimmed on loading.
    assert len(ClipStore(clips, "test").samples(0)) <= 0.41 * SAMPLE_RATE

    (tmp_path / "audio" / "5-100-A-0.wav").unlink()
    with pytest.raises(SmartDJError, match="1 of 5 listed clips are missing"):
        readers.read_clips(tmp_path)


def test_fsd50k_keeps_single_class_clips_and_its_splits(tmp_path: Path) -> None:
    dev = [
        ("1", "Bark,Dog,Animal", "", "train"),
        ("2", "Bark,Dog,Animal", "", "val"),
        ("3", "Meow,Cat,Animal", "", "train"),
        ("4", "Bark,Meow,Dog,Cat,Animal", "", "train"),  # two classes: left out
        ("5", "Walk_and_footsteps", "", "train"),
        ("6", "Dog,Animal", "", "train"),  # an inner class by itself
    ]
    truth = tmp_path / "FSD50K.ground_truth"
    write_rows(truth / "dev.csv", [("fname", "labels", "mids", "split"), *dev])
    write_rows(truth / "eval.csv", [("fname", "labels", "mids"), ("7", "Meow,Cat,Animal", "")])
    for name in "123456":
        tone(tmp_path / "FSD50K.dev_audio" / f"{name}.wav")
    tone(tmp_path / "FSD50K.eval_audio" / "7.wav")
    info = tmp_path / "FSD50K.metadata" / "dev_clips_info_FSD50K.json"
    info.parent.mkdir()
    info.write_text(json.dumps({"1": {"license": "CC0"}}))
    found = {clip.path.stem: (clip.label, clip.split, clip.licence) for clip in readers.read_clips(tmp_path)}
    assert found == {
        "1": ("dog barking", "train", "CC0"),
        "2": ("dog barking", "valid", ""),
        "3": ("cat meowing", "train", ""),
        "5": ("footsteps", "train", ""),
        "6": ("dog barking", "train", ""),
        "7": ("cat meowing", "test", ""),
    }


def test_folder_of_subfolders_keeps_recordings_together(tmp_path: Path) -> None:
    for number, piece in itertools.product(range(12), ("@0.0s", "@6.5s", " (2)", "_part3")):
        tone(tmp_path / "Dog_barking" / f"rec{number:02d}{piece}.wav", seconds=0.05)
    (tmp_path / "Dog_barking" / "notes.txt").write_text("not audio")
    clips = readers.read_clips(tmp_path)
    assert len(clips) == 48
    assert {clip.label for clip in clips} == {"dog barking"}
    for number in range(12):
        assert len({clip.split for clip in clips if clip.path.name.startswith(f"rec{number:02d}")}) == 1
    assert len({clip.split for clip in clips}) > 1
    again = read_manifest(readers.write_manifest(clips, tmp_path / "elsewhere").parent)
    assert [(clip.path.resolve(), clip.label, clip.split) for clip in again] == [
        (clip.path.resolve(), clip.label, clip.split) for clip in clips
    ]


def test_folder_with_manifest_without_split(tmp_path: Path) -> None:
    rows: list[tuple[str, ...]] = [("path", "label", "source")]
    for number in range(20):
        tone(tmp_path / f"{number}.wav", seconds=0.05)
        rows.append((f"{number}.wav", "Rain", f"field-{number // 4}"))
    write_rows(tmp_path / "manifest.csv", rows)
    clips = readers.read_clips(tmp_path)
    for first in range(0, 20, 4):
        assert {clip.split for clip in clips[first : first + 4]} == {readers.split_of(f"field-{first // 4}")}


def test_the_layout_of_bank_and_esc10_is_a_manifest(clip_folder: Path) -> None:
    assert readers.read_clips(clip_folder) == read_manifest(clip_folder)


def test_bad_folders_are_one_line_errors(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(SmartDJError) as caught:
            readers.read_clips(folder)
        assert caught.value.code is ErrorCode.USAGE
        assert caught.value.hint


def test_a_clip_in_two_splits_is_refused(tmp_path: Path) -> None:
    clips = [Clip(tmp_path / "a.wav", "rain", "train"), Clip(tmp_path / "x" / ".." / "a.wav", "rain", "test")]
    with pytest.raises(SmartDJError, match="is in the splits train and test"):
        readers.check_disjoint(clips)


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20), st.integers(0, 99))
def test_pieces_of_a_recording_have_its_name(name: str, number: int) -> None:
    recording = readers.recording_id(name)
    assert recording
    for ending in (f"@{number}.5s", f" ({number})", f"_take{number}", f"-part-{number}", "-B"):
        assert readers.recording_id(name + ending) == recording


def test_splits_have_their_shares() -> None:
    counts = [sum(readers.split_of(f"recording {i}") == split for i in range(4000)) / 4000 for split in SPLITS]
    assert counts == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


# --- archives -----------------------------------------------------------------------------------------------


def clonk_group(members: dict[str, bytes]) -> bytes:
    header = bytearray(204)
    header[:24] = b"RedWolf Design GrpFolder"
    struct.pack_into("<i", header, 36, len(members))
    header = bytearray(byte ^ 237 for byte in header)
    for position in range(0, 202, 3):
        header[position], header[position + 2] = header[position + 2], header[position]
    entries, blob = b"", b""
    for name, content in members.items():
        numbers = struct.pack("<5i", 1, 0, len(content), 0, len(blob))
        entries += (name.encode().ljust(260, b"\0") + numbers).ljust(316, b"\0")
        blob += content
    return bytes(header) + entries + blob


def qt_resource(content: bytes) -> bytes:
    """A file of version 1: / → sounds → dog.ogg, compressed."""
    names, offsets = b"", []
    for name in ("sounds", "dog.ogg"):
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    packed = struct.pack(">I", len(content)) + zlib.compress(content)
    blob = struct.pack(">I", len(packed)) + packed
    tree = struct.pack(">IHII", 0, 2, 1, 1)
    tree += struct.pack(">IHII", offsets[0], 2, 1, 2)
    tree += struct.pack(">IHHHI", offsets[1], 1, 0, 1, 0)
    starts = struct.pack(">4I", 1, 20, 20 + len(tree), 20 + len(tree) + len(blob))
    return b"qres" + starts + tree + blob + names


def test_members_of_every_archive(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5
    with zipfile.ZipFile(tmp_path / "a.pk3", "w") as archive:
        archive.writestr("sound/dog.wav", content)
    group = clonk_group({"x.wav": b"no", "Inner.ocg": clonk_group({"dog.wav": content})})
    (tmp_path / "b.ocg").write_bytes(b"\x1e\x8c" + gzip.compress(group)[2:])
    (tmp_path / "c.rcc").write_bytes(qt_resource(content))
    sample = b"RIFF" + content
    table = struct.pack("<4I", 0x80000010, 4, 0x80000014, 4 + len(sample))
    (tmp_path / "d.cat").write_bytes(table + b"\x00bad" + b"\x03dog" + sample)
    assert read_member(tmp_path / "a.pk3", "sound/dog.wav") == content
    assert read_member(tmp_path / "b.ocg", "Inner.ocg/dog.wav") == content
    assert read_member(tmp_path / "c.rcc", "sounds/dog.ogg") == content
    assert read_member(tmp_path / "d.cat", "1__dog.wav").startswith(sample)
    (tmp_path / "e.bin").write_bytes(b"????")
    lost = {
        "a.pk3": "no.wav",
        "b.ocg": "Inner.ocg/no.wav",
        "c.rcc": "sounds/no",
        "d.cat": "0__x",
        "e.bin": "x",
    }
    for file, member in lost.items():
        with pytest.raises(ArchiveError, match=file):
            read_member(tmp_path / file, member)


# --- the bank -----------------------------------------------------------------------------------------------


def a_row(**changes: Any) -> bank.Row:
    values: dict[str, Any] = {
        "path": "dog/x.flac",
        "label": "dog barking",
        "category": "animal",
        "kind": "transient",
        "duration_s": 0.5,
        "native_rate": 24000,
        "package": "some-sounds",
        "package_version": "1.0",
        "package_path": "/usr/share/x.wav",
        "licence": "CC0",
        "split": "train",
    }
    return bank.Row(**{**values, **changes})


def test_recipe_is_whole() -> None:
    rows = bank.read_recipe()
    assert len(rows) == 2404
    assert len({row.label for row in rows}) == 257
    assert len({row.path for row in rows}) == len(rows)
    assert {row.split for row in rows} == set(SPLITS)
    assert all(row.licence and row.package and row.package_version for row in rows)
    notes = [row for row in rows if ".sf2" in row.package_path]
    assert len(notes) == 478
    assert all(bank._SOUNDFONT.match(row.package_path) for row in notes)
    # No file of a package is cut into clips of two splits.
    splits: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        whole = bank._PIECE.sub("", row.package_path)
        splits.setdefault((row.package, whole), set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "fluidsynth" else f"/usr/bin/{name}")
    with pytest.raises(SmartDJError, match="fluidsynth is not installed") as caught:
        bank.build(tmp_path, packages=["timgm6mb-soundfont"])
    assert "apt-get install fluidsynth" in caught.value.hint
    with pytest.raises(SmartDJError, match="no label 'dog brking'"):
        bank.build(tmp_path, labels=["dog brking"])


def test_prepare_trims_cuts_fades_and_levels() -> None:
    rng = np.random.default_rng(0)
    sound = np.concatenate([np.zeros(24000), rng.standard_normal(7 * 24000), np.zeros(24000)]) * 0.01
    made = bank.prepare(np.stack([sound, sound]), 24000, a_row(duration_s=5.0))
    assert made.shape == (5 * 32000,)
    assert np.abs(made).max() == pytest.approx(10 ** (-3 / 20), rel=1e-6)
    assert np.abs(made[: round(0.009 * 32000)]).max() < 0.01  # 10 ms are kept before the onset
    assert np.abs(made[: round(0.012 * 32000)]).max() > 0.1
    assert np.abs(made[-100:]).max() < 0.05
    cancelling = bank.prepare(np.stack([sound, -sound]), 24000, a_row(duration_s=5.0))
    assert np.array_equal(cancelling, made)
    with pytest.raises(bank.ClipError, match="silent"):
        bank.prepare(np.zeros((1, 24000)), 24000, a_row())
    with pytest.raises(bank.ClipError, match=r"only 0\.0"):
        bank.prepare(sound[None, 24000:24500], 24000, a_row())


def test_prepare_cuts_pieces_and_loops() -> None:
    ramp = np.linspace(0.1, 1, 8 * 32000) * np.sign(np.sin(np.arange(8 * 32000)))
    piece = bank.prepare(ramp[None], 32000, a_row(package_path="/x.wav@3.0s", duration_s=2.5, category="instrument"))
    whole = bank.prepare(ramp[None, 96000:], 32000, a_row(duration_s=2.5))
    assert np.abs(piece - whole).max() < 2e-3
    looped = bank.prepare(ramp[None, :32000], 32000, a_row(package_path="/x.wav#looped-to-4s", duration_s=4.0))
    assert looped.size == 4 * 32000
    assert np.allclose(looped[:32000], looped[32000:64000])


def test_midi_notes_follow_each_other() -> None:
    made = bank.midi_file(0, 21, [59, 57], 70, effect=False, duration_s=2.0)
    assert made[:14] == b"MThd" + struct.pack(">IHHH", 6, 0, 1, 1000)
    (size,) = struct.unpack(">I", made[18:22])
    assert size == len(made) - 22
    on, off, second = (made.index(bytes(code)) for code in ((0x90, 59, 70), (0x80, 59, 0), (0x90, 57, 70)))
    assert on < off < second
    drums = bank.midi_file(128, 0, [60, 60, 60], 90, effect=False, duration_s=1.0)
    assert drums.count(bytes((0x99, 60, 90))) == 3
    assert bytes((0xB9, 0)) not in drums


def test_a_package_is_built_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fake(package: str, version: str, folder: Path) -> tuple[Path, str]:
        tone(folder / "root" / "usr" / "share" / "x.wav", seconds=0.5, rate=44100)
        return folder / "root", "another version"

    monkeypatch.setattr(bank, "fetch_package", fake)
    rows = [a_row(), a_row(path="dog/y.flac", package_path="/usr/share/lost.wav")]
    made, problems = bank.build_package(rows, tmp_path)
    assert made == 1
    assert problems[0] == "another version"
    assert "dog/y.flac" in problems[1]
    assert soundfile.info(tmp_path / "dog" / "x.flac").samplerate == 32000
    assert bank.write_manifest(tmp_path, rows) == 1
    assert [clip.label for clip in read_manifest(tmp_path)] == ["dog barking"]


def test_download_falls_back_to_the_available_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def fake(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        if command[-1] == "some-sounds":
            (tmp_path / "some-sounds_2.0_all.deb").write_bytes(b"")
        fails = command[-1] in ("some-sounds=1.0", "gone=1", "gone")
        return subprocess.CompletedProcess(command, 100 if fails else 0, "", "E: not found")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", fake)
    _, warning = bank.fetch_package("some-sounds", "1.0", tmp_path)
    assert "1.0 is not to be had" in warning
    assert asked[:2] == ["some-sounds=1.0", "some-sounds"]
    with pytest.raises(bank.ClipError, match="apt-get update"):
        bank.fetch_package("gone", "1", tmp_path)


def test_comparison_finds_lag_and_difference() -> None:
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(32000)
    same = bank.compare_clips("x", np.concatenate([np.zeros(320), sound]), 0.5 * sound)
    assert same.correlation == pytest.approx(1.0)
    assert same.lag_s == pytest.approx(0.01)
    assert same.length_difference_s == pytest.approx(0.01)
    assert bank.compare_clips("x", sound, rng.standard_normal(32000)).correlation < 0.1


# --- spellings ----------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(list(Operation)), st.sampled_from(LABELS), st.booleans())
def test_every_spelling_means_the_step(seed: int, operation: Operation, target: str, placed: bool) -> None:
    rng = np.random.default_rng(seed)
    step = synthesis._draw_step(operation, target, -45.0 if placed else None, rng)
    assert parse_step(spelled(step, rng)) == step


def test_spellings_vary() -> None:
    rng = np.random.default_rng(0)
    step = Step(Operation.ADD, "dog barking", azimuth_deg=-90.0, gain_db=3.0)
    texts = {spelled(step, rng) for _ in range(300)}
    assert len(texts) > 20
    assert "Add the sound of dog barking at left by 3dB" in texts  # the planner's published style
    assert "add the sound of dog barking at the left with 3 dB" in texts  # the editor's


# --- examples -----------------------------------------------------------------------------------------------


def example(
    seed: int,
    store: ClipStore,
    knowledge: SceneKnowledge,
    kind: str = "declarative",
    placement: Placement = Placement.RELEASED,
) -> Example:
    return make_example(seed, kind, store, knowledge, "train", duration_s=2.0, placement=placement)


@pytest.mark.parametrize("kind", list(ExampleKind))
def test_the_trajectory_is_exactly_what_the_steps_changed(
    kind: ExampleKind, store: ClipStore, knowledge: SceneKnowledge
) -> None:
    for seed in range(40):
        made = example(seed, store, knowledge, kind)
        mixtures = [made.source, *(audio for _, audio in made.trajectory)]
        assert len(made.stems) == len(mixtures)
        for mixture, stems in zip(mixtures, made.stems, strict=True):
            assert np.array_equal(mixture, np.sum(stems, axis=0, dtype=np.float32))
        for index, (step, after) in enumerate(made.trajectory):
            old, new = made.stems[index], made.stems[index + 1]
            changed = [slot for slot in range(len(made.events)) if old[slot] is not new[slot]]
            change = np.zeros_like(after)
            for slot in changed:
                change += new[slot] - old[slot]
            assert np.array_equal(after - mixtures[index], change)
            assert len(changed) <= 1 or step.operation is Operation.EXTRACT


def test_the_same_seed_gives_the_same_bytes(store: ClipStore, knowledge: SceneKnowledge) -> None:
    for kind in ExampleKind:
        first, second = (example(7, store, knowledge, kind) for _ in range(2))
        assert first.final.tobytes() == second.final.tobytes()
        assert synthesis.describe(first) == synthesis.describe(second)
        assert first.source.tobytes() != example(8, store, knowledge, kind).source.tobytes()


def check_step(made: Example, step: Step, slot: int) -> None:
    """See that the stem of the named sound has become what the step says (to the grid of 2⁻¹⁵)."""
    ((_, after),) = made.trajectory
    old, new = made.stems[0][slot], made.stems[1][slot]
    match step.operation:
        case Operation.REMOVE:
            assert np.array_equal(made.source - old, after)
        case Operation.EXTRACT:
            assert np.array_equal(old, after)
        case Operation.VOLUME:
            assert step.gain_db is not None
            assert np.abs(new - old * amplitude(step.gain_db)).max() < 1e-4
        case Operation.SHIFT:
            assert step.shift_s is not None
            by, n = round(step.shift_s * SAMPLE_RATE), old.shape[1]
            moved = np.zeros_like(old)
            if abs(by) < n:
                moved[:, max(by, 0) : n + min(by, 0)] = old[:, max(-by, 0) : n - max(by, 0)]
            assert np.array_equal(new, moved)
        case Operation.DIRECTION:
            assert step.to_azimuth_deg is not None
            near = new[0 if step.to_azimuth_deg <= 0 else 1]
            assert np.array_equal(near, old[0 if made.events[slot].azimuth_deg <= 0 else 1])
            assert np.abs(new - place(near, step.to_azimuth_deg, SAMPLE_RATE)).max() < 1e-4
        case _:
            assert not np.array_equal(old, new)


def test_single_steps_obey_the_laws(store: ClipStore, knowledge: SceneKnowledge) -> None:
    counts: dict[Operation, int] = dict.fromkeys(Operation, 0)
    absent = 0
    for seed in range(320):
        made = example(seed, store, knowledge, "single")
        ((step, after),) = made.trajectory
        counts[step.operation] += 1
        assert parse_step(made.instruction) == step
        begun = [event for event in made.events if event.added_by is None]
        peaks = [event.peak for event in begun]
        assert sum(peaks) == pytest.approx(0.5)
        assert max(peaks) / min(peaks) <= amplitude(7.0) + 1e-9
        for event, stem in zip(begun, made.stems[0], strict=False):
            near = stem[0 if event.azimuth_deg <= 0 else 1]
            assert np.abs(near).max() == pytest.approx(event.peak, abs=2e-5)
            assert np.abs(stem - place(near, event.azimuth_deg, SAMPLE_RATE)).max() < 1e-4
        if made.absent:
            absent += 1
            expected = np.zeros_like(after) if step.operation is Operation.EXTRACT else made.source
            assert np.array_equal(after, expected)
        elif step.operation is Operation.ADD:
            assert step.gain_db is not None
            new = made.stems[1][-1]
            assert made.events[-1].added_by == 0
            assert np.abs(new).max() == pytest.approx(0.5 * amplitude(step.gain_db), abs=2e-5)
            assert np.array_equal(made.source + new, after)
        else:
            labels = [event.label for event in begun]
            check_step(made, step, labels.index(knowledge.bank_label(step.target) or step.target))
    assert min(counts.values()) >= 22  # 40 of each are expected
    assert 3 <= absent <= 25


def test_extract_and_remove_are_complements(store: ClipStore, knowledge: SceneKnowledge) -> None:
    made = example(3, store, knowledge)
    voices = [
        synthesis._Voice(event, np.zeros(100, np.float32), event.azimuth_deg)
        for event in made.events
        if event.added_by is None
    ]
    rng = np.random.default_rng(0)
    kept, rest = (
        synthesis._after(voices, Step(operation, voices[0].event.label), 0, store, knowledge, rng)
        for operation in (Operation.EXTRACT, Operation.REMOVE)
    )
    assert all(a.sounding != b.sounding for a, b in zip(kept, rest, strict=True))
    assert [voice.sounding for voice in kept] == [True] + [False] * (len(voices) - 1)


def test_clips_come_from_the_split_only(store: ClipStore, knowledge: SceneKnowledge) -> None:
    for seed in range(20):
        made = example(seed, store, knowledge)
        assert all(event.clip.rsplit("/", 1)[1].startswith("train-") for event in made.events)
    with pytest.raises(ValueError, match="another split than valid"):
        make_example(0, "single", store, knowledge, "valid")


def test_designs_reach_the_recording(store: ClipStore, knowledge: SceneKnowledge) -> None:
    made = [example(seed, store, knowledge) for seed in range(80)]
    assert any(one.question and not one.steps for one in made)
    assert {len(one.steps) for one in made if one.steps} >= {1, 2, 3}
    for one in made:
        assert 2 <= sum(event.added_by is None for event in one.events) <= 5
        adds = [step.target for step in one.steps if step.operation is Operation.ADD]
        assert [event.name for event in one.events if event.added_by is not None] == adds


def test_rooms_sound_different_but_are_repeatable(store: ClipStore, knowledge: SceneKnowledge) -> None:
    pytest.importorskip("pyroomacoustics")
    dry = example(5, store, knowledge, "single")
    wet, again = (example(5, store, knowledge, "single", Placement.ROOM) for _ in range(2))
    assert 0.3 <= wet.rt60_s <= 1.2
    assert dry.rt60_s == 0.0
    assert not np.array_equal(dry.source, wet.source)
    assert [event.clip for event in dry.events[:1]] == [event.clip for event in wet.events[:1]]
    assert again.final.tobytes() == wet.final.tobytes()


def test_example_seeds_differ() -> None:
    keys = list(itertools.product((0, 1), ExampleKind, SPLITS, range(50)))
    assert len({example_seed(*key) for key in keys}) == len(keys)
    assert example_seed(0, "single", "train", 0) == example_seed(0, ExampleKind.SINGLE, "train", 0)


def test_every_operation_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    for operation in Operation:
        for _ in range(30):
            step = synthesis._draw_step(operation, "rain", None, rng)
            for parameter in OPERATIONS[operation].parameters:
                assert not parameter.required or getattr(step, parameter.name) is not None
    drawn = {synthesis._draw_step(Operation.TIMBRE, "rain", None, rng).timbre for _ in range(60)}
    assert drawn == set(Timbre)


# --- data sets ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture, which takes longer than all the rest."""
    monkeypatch.setattr(gallery, "draw_gallery", lambda path, examples: None)


def write(out: Path, clip_folder: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "kind": "declarative",
        "count": 7,
        "seed": 3,
        "banks": [clip_folder],
        "duration_s": 1.0,
        "shard_size": 3,
    }
    return dataset.write_dataset(out, **{**options, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".png"}


@pytest.mark.usefixtures("no_picture")
def test_a_set_has_the_same_bytes_however_it_was_made(tmp_path: Path, clip_folder: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    write(one, clip_folder)
    write(two, clip_folder, jobs=2)
    assert contents(one) == contents(two)

    # Stopped after fewer examples, with one shard damaged, one lost, and a leftover: the rest is made again.
    write(three, clip_folder, count=4)
    damaged = three / dataset.shard_name(0)
    damaged.write_bytes(damaged.read_bytes()[:-512] + b"\1" * 512)
    (three / ".shard-00001.tar.9.part").write_bytes(b"half")
    (three / "shard-00001.sha256").unlink()
    write(three, clip_folder)
    assert contents(one) == contents(three)

    with pytest.raises(SmartDJError, match="holds 7 examples already, more than 2"):
        write(three, clip_folder, count=2)


@pytest.mark.usefixtures("no_picture")
def test_finished_shards_are_left_alone(tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "set", clip_folder)
    monkeypatch.setattr(dataset, "make_example", lambda *_, **__: pytest.fail("made again"))
    write(tmp_path / "set", clip_folder)


def test_an_interruption_leaves_no_partial_file(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(seed: int, *rest: Any, **more: Any) -> Example:
        if seed == example_seed(3, "declarative", "train", 4):
            raise KeyboardInterrupt
        return make_example(seed, *rest, **more)

    monkeypatch.setattr(dataset, "make_example", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", clip_folder)
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names == {"settings.json", "shard-00000.tar", "shard-00000.jsonl", "shard-00000.sha256"}


@pytest.mark.usefixtures("no_picture")
def test_what_is_read_back_is_what_was_made(tmp_path: Path, clip_folder: Path, knowledge: SceneKnowledge) -> None:
    out = tmp_path / "set"
    manifest = write(out, clip_folder, stems=True)
    store = ClipStore.open([clip_folder], "train")
    stored = [item for shard in manifest["shards"] for item in dataset.read_shard(out / shard["name"])]
    assert [item.about["index"] for item in stored] == list(range(7))
    for index, item in enumerate(stored):
        seed = example_seed(3, "declarative", "train", index)
        made = make_example(seed, "declarative", store, knowledge, "train", duration_s=1.0)
        expected = [made.source, *(audio for _, audio in made.trajectory)]
        assert len(item.trajectory) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(item.trajectory, expected, strict=True))
        assert [parse_step(text) for text in item.about["steps"]] == list(made.steps)


def test_loud_audio_is_scaled_and_comes_back() -> None:
    grid = np.rint(np.linspace(-3.9, 3.9, 4000) * 2**15) / 2**15
    samples = grid.astype(np.float32).reshape(2, -1)
    with pytest.raises(ValueError, match="too loud"):
        dataset.encode_audio(samples, 2)
    assert np.array_equal(dataset.decode_audio(dataset.encode_audio(samples, 4), 4), samples)


@pytest.mark.usefixtures("no_picture")
def test_another_set_in_the_folder_is_refused(tmp_path: Path, clip_folder: Path) -> None:
    write(tmp_path / "set", clip_folder, count=1)
    with pytest.raises(SmartDJError, match="seed differ") as caught:
        write(tmp_path / "set", clip_folder, seed=4)
    assert caught.value.code is ErrorCode.USAGE


@pytest.mark.usefixtures("no_picture")
def test_splits_share_no_clip(tmp_path: Path, clip_folder: Path) -> None:
    used: dict[str, set[str]] = {}
    for split in SPLITS:
        out = tmp_path / split
        write(out, clip_folder, kind="single", split=split, count=12)
        abouts = [about for tar in sorted(out.glob("*.tar")) for about in dataset.read_index(tar)]
        used[split] = {event["clip"] for about in abouts for event in about["events"]}
        assert used[split]
    for first, second in itertools.combinations(SPLITS, 2):
        assert not used[first] & used[second]


def test_figures_and_picture_show_what_is_there(tmp_path: Path, clip_folder: Path) -> None:
    write(tmp_path / "set", clip_folder, kind="single", count=20)
    picture = (tmp_path / "set" / "examples.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1440, 1764)
    figures = json.loads((tmp_path / "set" / "figures.json").read_text())
    assert figures["examples"] == figures["steps"] == 20
    assert figures["plan_length"] == {"1": 20}
    assert sum(figures["operations"].values()) == 20
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["examples"] == 20
    assert len(manifest["dataset_sha256"]) == 64
