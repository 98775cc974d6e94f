"""Sound libraries: the one that ships with SmartDJ, and any folder of recordings.

A library is a folder of audio files. A ``manifest.csv`` in it (columns ``path`` and ``label``; ``licence``,
``author``, ``source``, ``duration_s`` and ``kind`` if known) says what each file is; without one, file names
do.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from smartdj_agent.errors import ErrorCode, SmartDJError

MANIFEST_NAME = "manifest.csv"
"""File that describes a library."""

AUDIO_SUFFIXES = frozenset(
    {
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
        ".rf64",
    }
)
"""Files that count as audio in a folder without a manifest."""

Encode = Callable[[list[str]], np.ndarray]
"""A sentence encoder: a list of n texts to an array (n, width)."""


@dataclass(frozen=True)
class LibraryClip:
    """One sound of a library.

    Attributes
    ----------
    path
        The audio file.
    label
        What it is, in plain words, lower case.
    licence, author, source
        As the manifest states them; empty where it does not.
    duration_s
        Length in seconds.
    continuous
        True for sounds that go on and may be looped, such as rain.
    """

    path: Path
    label: str
    licence: str
    author: str
    source: str
    duration_s: float
    continuous: bool = False


@dataclass(frozen=True)
class LibraryMatch:
    """A clip and how well its label fits what was asked for.

    Attributes
    ----------
    similarity
        How well it fits, 0 to 1. By names alone: 1 for the same words, else the cosine of the two sentence embeddings.
    written, heard
        The parts of it where there are two: by what is written about the sound, by how it sounds; None where it isn't
        known.
    """

    clip: LibraryClip
    similarity: float
    written: float | None = None
    heard: float | None = None


def plain_label(text: str) -> str:
    """Lower case, single spaces, without a leading article or "the sound of"."""
    words = " ".join(text.casefold().split())
    words = re.sub(r"^(?:the |a |an )?sounds? of ", "", words)
    return re.sub(r"^(?:the|a|an) (?=\S)", "", words)


def label_from_name(path: Path) -> str:
    """A label from a file's name: ``Dog-Bark_03.wav`` is "dog bark"; a name without letters takes its
    folder's.

    Digits, brackets, underscores and the like become spaces, and words run together in capitals are set
    apart.
    """
    for name in (path.stem, path.parent.name):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
        words = [w for w in re.split(r"[\W\d_]+", spaced) if len(w) > 1 or w in ("a", "A")]
        if words:
            return plain_label(" ".join(words))
    return path.stem.casefold()


class SoundLibrary:
    """Sounds that can be found by what they are.

    Parameters
    ----------
    clips
        All sounds.
    folder
        Where they lie.
    skipped
        Files of the folder that look like audio but can't be read.
    """

    def __init__(self, clips: Sequence[LibraryClip], folder: Path, skipped: Sequence[Path] = ()) -> None:
        self.clips = tuple(clips)
        self.folder = folder
        self.skipped = tuple(skipped)
        self._by_label: dict[str, list[LibraryClip]] = defaultdict(list)
        for clip in self.clips:
            self._by_label[plain_label(clip.label)].append(clip)
        self._encoded: tuple[Encode, np.ndarray] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label once, in the order of the clips."""
        return tuple(self._by_label)

    @classmethod
    def starter(cls) -> SoundLibrary:
        """The small free library that is part of the package."""
        return cls.open(Path(__file__).parent / "data" / "library")

    @classmethod
    def open(cls, folder: Path) -> SoundLibrary:
        """Read a folder, by its manifest or by its file names (subfolders included).

        Raises
        ------
        SmartDJError
            ``AUDIO_NOT_FOUND`` where the folder or all audio in it, or a file that the manifest names, is
            missing; ``AUDIO_UNREADABLE`` where the manifest can't be read; its `field` names the line and
            column.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND,
                f"The sound library {folder} is not a folder.",
                "Give the folder that holds the sounds.",
            )
        if (folder / MANIFEST_NAME).is_file():
            return cls(_clips_of_manifest(folder), folder)
        clips, skipped = _clips_of_files(folder)
        if not clips:
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND,
                f"The sound library {folder} holds no audio that can be read.",
                f"Put audio files into it, such as WAV or FLAC, or a {MANIFEST_NAME} that names them.",
            )
        return cls(clips, folder, skipped)

    def find(self, text: str, encode: Encode, *, seed: int = 0, count: int = 5) -> list[LibraryMatch]:
        """The sounds whose labels are nearest in meaning to `text`, best first.

        The same words win over anything else. Clips of one label are equally good by all that is known; the
        seed says in which order they come, so another seed gives another dog.

        Parameters
        ----------
        encode
            The sentence encoder. The labels' embeddings are kept for as long as the same encoder is passed.
        seed
            Any whole number ≥ 0.
        count
            Most matches to return.
        """
        wanted = plain_label(text)
        similarities = self._similarities(wanted, encode)
        order = sorted(range(len(similarities)), key=lambda i: (-similarities[i], self.labels[i]))
        rng = np.random.default_rng(seed)
        matches: list[LibraryMatch] = []
        for i in order:
            if len(matches) >= count:
                break
            clips = self._by_label[self.labels[i]]
            matches += [LibraryMatch(clips[k], similarities[i]) for k in rng.permutation(len(clips))]
        return matches[:count]

    def _similarities(self, wanted: str, encode: Encode) -> list[float]:
        """Similarity of `wanted` to each label, 0 to 1; the encoder is not asked where the words are the
        same."""
        if wanted in self._by_label and self._encoded is None:
            return [1.0 if label == wanted else 0.0 for label in self.labels]
        if self._encoded is None or self._encoded[0] != encode:
            self._encoded = (encode, _unit(encode(list(self.labels))))
        cosines = self._encoded[1] @ _unit(encode([wanted]))[0]
        return [
            1.0 if label == wanted else float(np.clip(cosine, 0.0, 0.999))
            for label, cosine in zip(self.labels, cosines, strict=True)
        ]

    def load(self, clip: LibraryClip, sample_rate: int) -> np.ndarray:
        """The clip's samples, (n,) mono float32, at `sample_rate` in Hz; channels are averaged.

        Raises
        ------
        SmartDJError
            ``AUDIO_NOT_FOUND``, ``AUDIO_UNREADABLE``, ``AUDIO_EMPTY`` or ``AUDIO_NOT_FINITE``.
        """
        if not clip.path.is_file():
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND,
                f"The library sound {clip.path} is missing.",
                "Put the file back, or take its row out of the library's manifest.",
            )
        try:
            samples, rate = soundfile.read(clip.path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise SmartDJError(
                ErrorCode.AUDIO_UNREADABLE,
                f"The library sound {clip.path} can't be read: {error.error_string}",
                "Replace the file, or take it out of the library.",
            ) from error
        mono = np.ascontiguousarray(samples.mean(axis=1), dtype=np.float32)
        if len(mono) == 0:
            raise SmartDJError(ErrorCode.AUDIO_EMPTY, f"The library sound {clip.path} is empty.", "Take it out.")
        if not np.isfinite(mono).all():
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FINITE,
                f"The library sound {clip.path} holds invalid samples.",
                "Replace the file, or take it out of the library.",
            )
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate, quality="VHQ")
        return np.ascontiguousarray(mono, dtype=np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; rows of zeros stay."""
    x = np.asarray(vectors, dtype=np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _clips_of_manifest(folder: Path) -> list[LibraryClip]:
    def fail(line: int, column: str, what: str, code: ErrorCode = ErrorCode.AUDIO_UNREADABLE) -> SmartDJError:
        return SmartDJError(
            code,
            f"{folder / MANIFEST_NAME}, line {line}: {what}",
            "Mend the line, or take the manifest away to go by file names.",
            f"{MANIFEST_NAME}[{line}].{column}" if column else f"{MANIFEST_NAME}[{line}]",
        )

    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise fail(1, "", f"the file can't be read as UTF-8 text ({type(error).__name__}).") from error
    reader = csv.DictReader(text.splitlines())
    for column in ("path", "label"):
        if column not in (reader.fieldnames or ()):
            raise fail(1, column, f"the column {column!r} is missing.")
    root = folder.resolve()
    clips = []
    try:
        for row in reader:
            line = reader.line_num

            def wrong_duration(what: str, line: int = line) -> SmartDJError:
                return fail(line, "duration_s", what)

            path = folder / (row["path"] or "")
            if not (row["path"] or "").strip() or not path.resolve().is_relative_to(root):
                raise fail(line, "path", f"the path {row['path']!r} does not lie inside the library.")
            if not path.is_file():
                raise fail(line, "path", f"the file {row['path']!r} is missing.", ErrorCode.AUDIO_NOT_FOUND)
            label = plain_label(row["label"] or "")
            if not label or len(label) > 200:
                raise fail(line, "label", "the label has to have 1 to 200 characters.")
            clips.append(
                LibraryClip(
                    path,
                    label,
                    (row.get("licence") or "").strip(),
                    (row.get("author") or "").strip(),
                    (row.get("source") or "").strip(),
                    _duration_s(path, row.get("duration_s") or "", wrong_duration),
                    (row.get("kind") or "").strip() == "continuous",
                )
            )
    except csv.Error as error:
        raise fail(reader.line_num, "", f"this is not a row of a CSV file ({error}).") from error
    if not clips:
        raise fail(1, "", "the manifest names no sounds.")
    return clips


def _duration_s(path: Path, stated: str, fail: Callable[[str], SmartDJError]) -> float:
    """The stated duration, or the file's own where none is stated."""
    if stated.strip():
        try:
            value = float(stated)
        except ValueError:
            raise fail(f"the duration {stated!r} is not a number.") from None
        if not 0.0 < value < float("inf"):
            raise fail(f"the duration {stated!r} has to be above 0 seconds.")
        return value
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError as error:
        raise fail(f"the file {path.name!r} can't be read: {error.error_string}") from error


def _clips_of_files(folder: Path) -> tuple[list[LibraryClip], list[Path]]:
    clips, skipped = [], []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file() or path.name.startswith("."):
            continue
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError:
            skipped.append(path)
            continue
        if info.frames > 0:
            clips.append(LibraryClip(path, label_from_name(path), "", "", "", float(info.duration)))
        else:
            skipped.append(path)
    return clips, skipped
