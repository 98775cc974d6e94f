"""Readers of labelled clips: ESC-50, ESC-10, FSD50K and plain folders, all as lists of `training.clips.Clip`.

``python -m training.readers SOURCE --out DIR`` writes such a list as ``DIR/manifest.csv``, which is all that
the rest of
`training` needs; the audio stays where it is. The padding of ESC-50's clips is trimmed when a clip is loaded
(`training.clips.load_mono`).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from smartdj_agent.errors import ErrorCode, SmartDJError
from training.clips import SPLITS, Clip, read_manifest

AUDIO_SUFFIXES = (*(f".{name.lower()}" for name in soundfile.available_formats()), ".aif", ".opus", ".oga")
ESC_SPLITS = {1: "train", 2: "train", 3: "train", 4: "valid", 5: "test"}
"""ESC-50's folds keep the clips of one recording together; so do these splits."""
VALID_PERCENT, TEST_PERCENT = 10, 10
"""Share of source recordings of a plain folder; the rest is train."""

PLAIN_WORDS = {
    # ESC-50 categories
    "dog": "dog barking",
    "rooster": "rooster crowing",
    "pig": "pig grunting",
    "cow": "cow mooing",
    "frog": "frogs croaking",
    "cat": "cat meowing",
    "hen": "chicken clucking",
    "insects": "insects buzzing",
    "sheep": "sheep or goat bleating",
    "crow": "crow cawing",
    "crickets": "crickets chirping",
    "chirping birds": "birds chirping",
    "water drops": "water dripping",
    "wind": "wind blowing",
    "pouring water": "water pouring",
    "toilet flush": "toilet flushing",
    "thunderstorm": "thunder",
    "crying baby": "baby crying",
    "sneezing": "person sneezing",
    "clapping": "applause",
    "coughing": "person coughing",
    "laughing": "person laughing",
    "brushing teeth": "tooth brushing",
    "drinking sipping": "gulping a drink",
    "door wood knock": "door knocking",
    "mouse click": "mouse clicking",
    "door wood creaks": "door creaking",
    "can opening": "can being opened",
    "clock alarm": "alarm clock beeping",
    "clock tick": "clock ticking",
    "chainsaw": "chainsaw or circular saw",
    "siren": "emergency siren",
    "engine": "car engine",
    "church bells": "church bell ringing",
    "airplane": "jet plane",
    "train": "train passing",
    "hand saw": "hand sawing wood",
    "crackling fire": "fire crackling",
    # FSD50K (AudioSet names)
    "bark": "dog barking",
    "meow": "cat meowing",
    "purr": "cat purring",
    "growling": "dog growling",
    "chicken and rooster": "chicken clucking",
    "chirp and tweet": "birds chirping",
    "gull and seagull": "seagull calling",
    "cricket": "crickets chirping",
    "crying and sobbing": "person crying",
    "cough": "person coughing",
    "sneeze": "person sneezing",
    "laughter": "person laughing",
    "screaming": "person screaming",
    "male speech and man speaking": "man speaking",
    "female speech and woman speaking": "woman speaking",
    "child speech and kid speaking": "child speaking",
    "walk and footsteps": "footsteps",
    "knock": "door knocking",
    "tick-tock": "clock ticking",
    "tick": "clock ticking",
    "water tap and faucet": "water running from tap",
    "drip": "water dripping",
    "pour": "water pouring",
    "waves and surf": "sea waves",
    "stream": "water stream flowing",
    "fire": "fire crackling",
    "crackle": "fire crackling",
    "gunshot and gunfire": "gunshot",
    "shatter": "glass breaking",
    "vehicle horn and car horn and honking": "car horn",
    "bicycle bell": "bicycle bell ringing",
    "church bell": "church bell ringing",
    "keys jangling": "keys jingling",
    "coin (dropping)": "coins jingling",
    "typing": "keyboard typing",
    "computer keyboard": "keyboard typing",
    "zipper (clothing)": "zip",
    "telephone": "telephone ringing",
    "ringtone": "telephone ringing",
}
"""Class names of the data sets in the words of our bank, where they differ."""

_TAKE = re.compile(r"(@[\d.]+s|[-_ ]?\(\d+\)|[-_ ](take|part|seg|segment|chunk|piece)[-_ ]?\d+|-[A-Z])$", re.IGNORECASE)


def plain_label(name: str) -> str:
    """A class name as plain lower-case words, and in the bank's words where it has a class for it."""
    words = " ".join(re.sub(r"[_/]+", " ", name).lower().split())
    return PLAIN_WORDS.get(words, words)


def recording_id(stem: str) -> str:
    """The source recording that a file is a piece of, from the file's name without its suffix.

    Endings such as ``@12.0s``, ``(2)``, ``_take3``, ``-part 2`` and ``-B`` are cut off; a bare number is not,
    since most collections number their recordings.
    """
    while (shorter := _TAKE.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem.strip(" -_").lower() or stem.lower()


def split_of(recording: str) -> str:
    """Split of a source recording, by hash: the same for ever, whatever else the folder holds."""
    percent = int.from_bytes(hashlib.sha256(recording.encode()).digest()[:4], "big") % 100
    if percent < TEST_PERCENT:
        return "test"
    return "valid" if percent < TEST_PERCENT + VALID_PERCENT else "train"


def _fail(message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint)


def _rows(path: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise _fail(f"{path} has no column {', '.join(missing)}", "Is this the data set's own file?")
        return list(reader)


def _present(clips: Sequence[Clip], folder: Path) -> list[Clip]:
    lost = [clip.path for clip in clips if not clip.path.exists()]
    if lost:
        raise _fail(
            f"{folder}: {len(lost)} of {len(clips)} listed clips are missing, such as {lost[0]}",
            "Unpack the data set again, completely.",
        )
    if not clips:
        raise _fail(f"{folder} holds no labelled clips", "See training/readers.py for the layouts that are read.")
    return list(clips)


def read_esc50(folder: Path) -> list[Clip]:
    """Read ESC-50: ``meta/esc50.csv`` and ``audio/``; folds 1 to 3 train, 4 valid, 5 test.

    Raises
    ------
    SmartDJError
        ``USAGE`` if a column or a listed file is missing.
    """
    rows = _rows(folder / "meta" / "esc50.csv", ("filename", "fold", "category"))
    licence = "CC-BY-NC-3.0 (data set)"
    clips = [
        Clip(
            folder / "audio" / row["filename"],
            plain_label(row["category"]),
            ESC_SPLITS[int(row["fold"])],
            licence="CC-BY-3.0 (data set)" if row.get("esc10") == "True" else licence,
        )
        for row in rows
    ]
    return _present(clips, folder)


def implied_labels(label_sets: Sequence[frozenset[str]]) -> dict[str, frozenset[str]]:
    """For each label, the labels that stand wherever it stands (itself among them).

    FSD50K gives every clip the ancestors of its classes too ("Bark", "Dog", "Animal"), so the ancestors of a
    class are among the labels that all its clips share.
    """
    implied: dict[str, frozenset[str]] = {}
    for labels in label_sets:
        for label in labels:
            implied[label] = implied.get(label, labels) & labels
    return implied


def read_fsd50k(folder: Path) -> list[Clip]:
    """Read FSD50K: the clips of a single class, with the data set's own splits (dev train and val, eval).

    The layout is that of the published archives: ``FSD50K.ground_truth/dev.csv`` and ``eval.csv``,
    ``FSD50K.dev_audio/``, ``FSD50K.eval_audio/`` and, for licences,
    ``FSD50K.metadata/*_clips_info_FSD50K.json`` where present. A clip is of a single class if one of its
    labels accounts for all the others as its ancestors.

    Raises
    ------
    SmartDJError
        ``USAGE`` if a column or a listed file is missing.
    """
    truth = folder / "FSD50K.ground_truth"
    entries: list[tuple[Path, list[str], str, str]] = []
    for part in ("dev", "eval"):
        info_file = folder / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json"
        info = json.loads(info_file.read_text(encoding="utf-8")) if info_file.exists() else {}
        for row in _rows(truth / f"{part}.csv", ("fname", "labels", *(("split",) if part == "dev" else ()))):
            split = {"train": "train", "val": "valid"}[row["split"]] if part == "dev" else "test"
            path = folder / f"FSD50K.{part}_audio" / f"{row['fname']}.wav"
            licence = str(info.get(row["fname"], {}).get("license", ""))
            entries.append((path, row["labels"].split(","), split, licence))
    implied = implied_labels([frozenset(labels) for _, labels, _, _ in entries])
    clips = []
    for path, labels, split, licence in entries:
        # The class comes before its ancestors, some of which may have no other class in the data.
        leaf = next((label for label in labels if implied[label] == frozenset(labels)), None)
        if leaf is not None:
            clips.append(Clip(path, plain_label(leaf), split, licence=licence))
    return _present(clips, folder)


def read_folder(folder: Path) -> list[Clip]:
    """Read a plain folder: one subfolder per label, or a ``manifest.csv`` with columns path and label.

    Where the manifest states no split, it is chosen by hash of the source recording: of the column
    ``source``, else of the file's name without what marks a piece or a take (`recording_id`), so that no
    recording straddles.

    Raises
    ------
    SmartDJError
        ``USAGE`` if there is nothing to read or a listed file is missing.
    """
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        files = sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        return _present(
            [
                Clip(path, plain_label(path.relative_to(folder).parts[0]), split_of(recording_id(path.stem)))
                for path in files
            ],
            folder,
        )
    rows = _rows(manifest, ("path", "label"))
    if rows and "split" in rows[0]:
        return _present(read_manifest(folder), folder)
    return _present(
        [
            Clip(
                folder / row["path"],
                plain_label(row["label"]),
                split_of(row.get("source") or recording_id(Path(row["path"]).stem)),
                category=row.get("category") or "",
                kind=row.get("kind") or "",
                licence=row.get("licence") or "",
            )
            for row in rows
        ],
        folder,
    )


def read_clips(folder: Path) -> list[Clip]:
    """Read a folder of any known layout, told by the files in it.

    Raises
    ------
    SmartDJError
        ``USAGE`` if the folder is missing, holds no clips, or is damaged.
    """
    if not folder.is_dir():
        raise _fail(f"{folder} is no folder", "Give a folder of clips, such as the one made by training.bank.")
    if (folder / "meta" / "esc50.csv").exists():
        return read_esc50(folder)
    if (folder / "FSD50K.ground_truth").exists():
        return read_fsd50k(folder)
    return read_folder(folder)


def check_disjoint(clips: Sequence[Clip]) -> None:
    """See that no file stands in two splits.

    Raises
    ------
    SmartDJError
        ``USAGE``, naming a file that does.
    """
    split_by_path: dict[Path, str] = {}
    for clip in clips:
        path = clip.path.resolve()
        if split_by_path.setdefault(path, clip.split) != clip.split:
            raise _fail(
                f"{clip.path} is in the splits {split_by_path[path]} and {clip.split}",
                "Give every clip one split: train, valid and test must not share any.",
            )


def write_manifest(clips: Sequence[Clip], folder: Path) -> Path:
    """Write clips as ``folder/manifest.csv``, paths relative to it, for `training.clips.read_manifest`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".manifest.csv.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "category", "kind", "licence", "split"))
        for clip in clips:
            path = os.path.relpath(clip.path.resolve(), folder.resolve())
            writer.writerow((path, clip.label, clip.category, clip.kind, clip.licence, clip.split))
    os.replace(partial, folder / "manifest.csv")
    return folder / "manifest.csv"


def main(
    source: Annotated[Path, typer.Argument(help="ESC-50, ESC-10, FSD50K or a plain folder of labelled clips.")],
    out: Annotated[Path, typer.Option(help="Folder for manifest.csv.")],
) -> None:
    """Write the manifest of a folder of clips."""
    try:
        clips = read_clips(source)
        check_disjoint(clips)
    except SmartDJError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.row.exit_code) from None
    path = write_manifest(clips, out)
    counts = ", ".join(f"{sum(clip.split == split for clip in clips)} {split}" for split in SPLITS)
    typer.echo(f"{path}: {len(clips)} clips, {len({clip.label for clip in clips})} labels ({counts})")


if __name__ == "__main__":
    typer.run(main)
