"""Folders of sounds that are found by what they are: names, metadata and how they sound, kept in one file per folder.

The index lies in the person's data folder, never in the library. It is an SQLite database, so it is whole at any time:
what was indexed before Ctrl-C, a crash or a power cut is there, and the next run goes on.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import filelock
import numpy as np
import platformdirs
import soundfile
import soxr

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.excerpt import choose_region, measure_levels, soundfile_name, to_mono
from smartdj_agent.files import file_sha256
from smartdj_agent.library import AUDIO_SUFFIXES, LibraryClip, LibraryMatch, plain_label
from smartdj_agent.soundfacts import Lists, SoundFacts, embedded_texts, facts_of

VERSION: Final = "1"
"""Layout of the database; another one is built anew."""
BATCH: Final = 48
"""Files between two commits, at most."""
COMMIT_S: Final = 5.0
HEARD_S: Final = 10.0
"""How much of a sound is listened to."""
TEXT_WEIGHT: Final = 0.75
"""Share of what is written in a match; the rest is what is heard."""
UNNAMED: Final = 0.9
"""What a match by hearing alone is worth beside one that is also written."""
HEARD_LOW, HEARD_HIGH = 0.0, 0.32
"""Likeness (cosine) of sound and text that counts as 0 and as 1.

Of the starter library's sounds, one in twenty is this like its own name; of wrong names, 19 in 20 are less than half as
like."""
NEAR: Final = 0.05
"""Matches this close to the best are as good, by all that is known: the seed picks."""
MOST_NEAR: Final = 8
CHUNK: Final = 4096

EncodeTexts = Callable[[list[str]], np.ndarray]
"""n texts → sentence vectors (n, width)."""
Hear = Callable[[np.ndarray], np.ndarray]
"""Mono samples at 24 kHz → a unit vector of the joint space of sounds and texts."""
HEAR_RATE: Final = 24_000


@dataclass(frozen=True)
class IndexProgress:
    """Where an index run stands.

    Attributes
    ----------
    done, count
        Files looked at, and in all.
    fresh
        Of `done`, those that were read.
    name
        The file in work, relative to the folder.
    seconds_left
        Estimate; None before there is one.
    """

    done: int
    count: int
    fresh: int
    name: str
    seconds_left: float | None


@dataclass(frozen=True)
class IndexSummary:
    """What an index run came to.

    Attributes
    ----------
    sounds
        In the index now.
    added, kept, removed
        Read (again), unchanged, gone.
    skipped
        Files that could not be read, relative to the folder, and why.
    seconds
        How long it took.
    """

    sounds: int
    added: int
    kept: int
    removed: int
    skipped: tuple[tuple[str, str], ...]
    seconds: float


@dataclass(frozen=True)
class IndexInfo:
    """One index.

    Attributes
    ----------
    folder
        The library.
    file
        The index.
    sounds, skipped
        How many there are, how many can't be read.
    duration_s
        Of all sounds.
    there
        Whether the folder is there.
    """

    folder: Path
    file: Path
    sounds: int
    skipped: int
    duration_s: float
    there: bool


def index_folder() -> Path:
    """Where indexes lie: ``SMARTDJ_INDEXES``, else ``libraries`` in the person's data folder."""
    configured = os.environ.get("SMARTDJ_INDEXES")
    if configured:
        return Path(configured)
    return platformdirs.user_data_path("smartdj", appauthor=False) / "libraries"


def index_file(root: Path) -> Path:
    """Where the index of a library lies; it need not exist."""
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    return index_folder() / f"{key}.sqlite"


_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sounds (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL, stamp TEXT NOT NULL,
    label TEXT NOT NULL, description TEXT NOT NULL, licence TEXT NOT NULL, author TEXT NOT NULL, source TEXT NOT NULL,
    duration_s REAL NOT NULL, continuous INTEGER NOT NULL, text BLOB, more BLOB, heard BLOB, seen INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS sounds_by_hash ON sounds (sha256);
CREATE TABLE IF NOT EXISTS skipped (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, reason TEXT NOT NULL,
    seen INTEGER NOT NULL
);
"""


def _connect(file: Path, *, write: bool) -> sqlite3.Connection:
    try:
        if write:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(file, timeout=30, isolation_level=None)
            connection.executescript(_TABLES)
        else:
            # Not read-only: what a killed run left half written is rolled back by whoever comes next.
            connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
            connection.execute("SELECT count(*) FROM meta").fetchone()
    except (sqlite3.Error, OSError) as error:
        raise _damaged(file, error) from error
    return connection


def _damaged(file: Path, error: Exception) -> SmartDJError:
    if isinstance(error, OSError) or "readonly" in str(error) or "unable to open" in str(error):
        return SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The index {file} can't be opened: {error}.",
            "Give the folder back its permissions, or set SMARTDJ_INDEXES to another one.",
        )
    if "full" in str(error):
        return SmartDJError(ErrorCode.DISK_FULL, f"There is no room for the index {file}.", "Free some space.")
    return SmartDJError(
        ErrorCode.AUDIO_UNREADABLE,
        f"The index {file} is damaged: {error}.",
        "Build it again: smartdj library index DIR --rebuild.",
    )


def _meta(connection: sqlite3.Connection) -> dict[str, bytes]:
    return {key: bytes(value) for key, value in connection.execute("SELECT key, value FROM meta")}


def list_indexes() -> list[IndexInfo]:
    """Every index of the person, by folder; damaged ones are left out."""
    found = []
    for file in sorted(index_folder().glob("*.sqlite")):
        try:
            with closing(_connect(file, write=False)) as connection:
                root = Path(os.fsdecode(_meta(connection)["root"]))
                sounds, duration_s = connection.execute("SELECT count(*), total(duration_s) FROM sounds").fetchone()
                (skipped,) = connection.execute("SELECT count(*) FROM skipped").fetchone()
        except (SmartDJError, sqlite3.Error, KeyError):
            continue
        found.append(IndexInfo(root, file, sounds, skipped, duration_s, root.is_dir()))
    return sorted(found, key=lambda info: str(info.folder))


def remove_index(root: Path) -> bool:
    """Forget a library: only the index goes, the sounds stay. Returns whether there was one."""
    file = index_file(root)
    there = file.exists()
    for ending in ("", "-journal", ".lock"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    return there


# --- building -----------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """One audio file of a library, as the folder shows it."""

    path: Path
    relative: bytes
    size: int
    mtime_ns: int


def _walk(root: Path, problems: dict[bytes, str] | None = None) -> Iterator[_Found]:
    """Audio files below a folder, in a fixed order, one at a time."""

    def refused(error: OSError) -> None:
        if problems is not None and error.filename is not None:
            problems[os.fsencode(os.path.relpath(error.filename, root))] = error.strerror or str(error)

    for folder, folders, names in os.walk(root, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            # "._name.wav" is what macOS leaves on foreign disks beside "name.wav".
            if name.startswith(".") or os.path.splitext(name)[1].casefold() not in AUDIO_SUFFIXES:
                continue
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError as error:
                if problems is not None:
                    problems[os.fsencode(os.path.relpath(path, root))] = error.strerror or str(error)
                continue
            relative = os.fsencode(os.path.relpath(path, root))
            yield _Found(path, relative, status.st_size, status.st_mtime_ns)


@dataclass
class _Read:
    """What was read of one file, before its texts become vectors."""

    found: _Found
    sha256: str
    stamp: str
    facts: SoundFacts
    duration_s: float
    continuous: bool
    heard: bytes | None


def build_index(
    root: Path, encode: EncodeTexts, hear: Hear, *, listener_id: str, rebuild: bool = False
) -> Iterator[IndexProgress | IndexSummary]:
    """Bring the index of a folder up to date; the last item is the summary.

    Files whose size and time are as before are not opened. Of those whose content is as before (moved, copied,
    touched), only the names are read anew. Closing the generator keeps what is done.

    Parameters
    ----------
    root
        The library; nothing is written to it.
    encode
        Sentence encoder.
    hear
        The listener's embedding of a sound.
    listener_id
        Names the listener; with another one than before, every sound is heard again.
    rebuild
        Read everything again. The old entries hold until each is replaced.

    Raises
    ------
    SmartDJError
        ``AUDIO_NOT_FOUND`` where the folder is none, or has lost all its sounds; ``USAGE`` where another run is at it
        or the index would lie in the library; ``OUTPUT_UNWRITABLE``, ``DISK_FULL``.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise SmartDJError(
            ErrorCode.AUDIO_NOT_FOUND, f"The sound library {root} is not a folder.", "Give the folder of the sounds."
        )
    file = index_file(root)
    if file.resolve().is_relative_to(root):
        raise SmartDJError(
            ErrorCode.USAGE,
            f"The index would lie inside the library {root}, where nothing is written.",
            "Set SMARTDJ_INDEXES to a folder outside it.",
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{file}.lock", timeout=0):
            yield from _Builder(root, file, encode, hear, listener_id, rebuild).run()
    except filelock.Timeout:
        raise SmartDJError(ErrorCode.USAGE, f"{root} is being indexed by another run.", "Wait for it to end.") from None
    except (sqlite3.Error, OSError) as error:
        raise _damaged(file, error) from error


class _Builder:
    def __init__(
        self, root: Path, file: Path, encode: EncodeTexts, hear: Hear, listener_id: str, rebuild: bool
    ) -> None:
        self.root, self.file = root, file
        self.encode, self.hear = encode, hear
        self.listener_id, self.rebuild = listener_id.encode(), rebuild
        self.waiting: list[_Read] = []
        self.problems: dict[bytes, str] = {}
        self.added = self.kept = 0

    def run(self) -> Iterator[IndexProgress | IndexSummary]:
        started = time.monotonic()
        self.db = self._opened()
        try:
            (self.seen,) = self.db.execute("SELECT coalesce(max(seen), 0) + 1 FROM sounds").fetchone()
            if self.rebuild:
                self.db.execute("UPDATE sounds SET mtime_ns = -1, sha256 = ''")
                self.db.execute("DELETE FROM skipped")
            lists = Lists(self.root)
            count, work = self._survey()
            if count == 0 and not self.rebuild and self.db.execute("SELECT 1 FROM sounds").fetchone():
                raise SmartDJError(
                    ErrorCode.AUDIO_NOT_FOUND,
                    f"{self.root} holds no sounds, but its index does; nothing was changed.",
                    "Connect its disk; if the sounds are gone for good: smartdj library remove DIR.",
                )
            self.db.execute("BEGIN")
            try:
                yield from self._read_all(lists, count, work)
            finally:
                self._flush()
                self.db.execute("COMMIT")
            yield self._finish(lists, started)
        finally:
            self.db.close()

    def _opened(self) -> sqlite3.Connection:
        """The database, emptied where it is of another layout or damaged, its embeddings where the listener is new."""
        try:
            db = _connect(self.file, write=True)
            meta = _meta(db)
        except (SmartDJError, sqlite3.Error) as error:
            if not self.rebuild or (isinstance(error, SmartDJError) and error.code is not ErrorCode.AUDIO_UNREADABLE):
                raise
            self.file.unlink(missing_ok=True)
            db, meta = _connect(self.file, write=True), {}
        if meta.get("version", VERSION.encode()) != VERSION.encode():
            db.executescript("DROP TABLE sounds; DROP TABLE skipped;" + _TABLES)
        if meta.get("listener", self.listener_id) != self.listener_id:
            db.execute("UPDATE sounds SET heard = NULL")
        for key, value in (
            ("version", VERSION.encode()),
            ("root", os.fsencode(self.root)),
            ("listener", self.listener_id),
        ):
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        return db

    def _survey(self) -> tuple[int, int]:
        """How many files there are, and roughly how much work the changed ones are (in bytes)."""
        count = work = 0
        for found in _walk(self.root):
            count += 1
            if not self._unchanged(found):
                work += _weight(found)
        return count, work

    def _unchanged(self, found: _Found, stamp: str | None = None) -> bool:
        row = self.db.execute(
            "SELECT size, mtime_ns, stamp, heard IS NULL FROM sounds WHERE path = ?", (found.relative,)
        ).fetchone()
        if row is not None:
            return row[:2] == (found.size, found.mtime_ns) and not row[3] and stamp in (None, row[2])
        row = self.db.execute("SELECT size, mtime_ns FROM skipped WHERE path = ?", (found.relative,)).fetchone()
        return row == (found.size, found.mtime_ns)

    def _read_all(self, lists: Lists, count: int, work: int) -> Iterator[IndexProgress]:
        began = committed = time.monotonic()
        done = worked = fresh = 0
        for found in _walk(self.root, self.problems):
            done += 1
            stamp = lists.stamp(found.path)
            if self._unchanged(found, stamp):
                seen = (self.seen, found.relative)
                self.kept += self.db.execute("UPDATE sounds SET seen = ? WHERE path = ?", seen).rowcount
                self.db.execute("UPDATE skipped SET seen = ? WHERE path = ?", seen)
                if done % 500 and done < count:
                    continue
            else:
                self._read(found, lists, stamp)
                fresh += 1
                worked += _weight(found)
            now = time.monotonic()
            if len(self.waiting) >= BATCH or now - committed > COMMIT_S:
                self._flush()
                self.db.execute("COMMIT")
                self.db.execute("BEGIN")
                committed = now
            spent = now - began
            left = spent / worked * max(0, work - worked) if worked and spent > 0.5 else None
            yield IndexProgress(done, max(count, done), fresh, _shown(found.relative), left)

    def _read(self, found: _Found, lists: Lists, stamp: str) -> None:
        try:
            self.waiting.append(self._facts(found, lists, stamp))
        except (soundfile.LibsndfileError, OSError, ValueError, RuntimeError, TypeError) as error:
            reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
            self._skip(found, str(reason).strip() or type(error).__name__)

    def _skip(self, found: _Found, reason: str) -> None:
        self.db.execute("DELETE FROM sounds WHERE path = ?", (found.relative,))
        self.db.execute(
            "INSERT OR REPLACE INTO skipped VALUES (?, ?, ?, ?, ?)",
            (found.relative, found.size, found.mtime_ns, reason[:200], self.seen),
        )

    def _facts(self, found: _Found, lists: Lists, stamp: str) -> _Read:
        if found.size == 0:
            raise ValueError("it is empty")
        if not found.path.is_file():
            raise ValueError("it is no file")
        sha256 = file_sha256(found.path)
        row, licence = lists.row(found.path), lists.licence(found.path)
        known = self.db.execute(
            "SELECT heard, continuous, duration_s FROM sounds WHERE sha256 = ? AND heard IS NOT NULL", (sha256,)
        ).fetchone()
        with soundfile.SoundFile(soundfile_name(found.path)) as sound:
            if sound.frames <= 0 or sound.samplerate <= 0:
                raise ValueError("it holds no samples")
            facts = facts_of(Path(_shown(found.relative)), embedded_texts(found.path, sound), row, licence)
            if known is not None:
                heard, steady, duration_s = bytes(known[0]), bool(known[1]), float(known[2])
            else:
                heard, steady, duration_s = self._listen(sound)
        continuous = steady if facts.continuous is None else facts.continuous
        return _Read(found, sha256, stamp, facts, duration_s, continuous, heard)

    def _listen(self, sound: soundfile.SoundFile) -> tuple[bytes, bool, float]:
        levels = measure_levels(sound)
        if levels.decibels.max(initial=-120.0) <= -110.0:
            raise ValueError("it is silent")
        steady = levels.steady
        begin, end = choose_region(levels, HEARD_S, continuous=steady)
        rate = int(sound.samplerate)
        sound.seek(min(round(begin * rate), sound.frames))
        samples = sound.read(max(1, round((end - begin) * rate)), dtype="float32", always_2d=True)
        if len(samples) == 0:
            raise ValueError("it ends before its length")
        mono = soxr.resample(to_mono(samples.T), rate, HEAR_RATE) if rate != HEAR_RATE else to_mono(samples.T)
        vector = self.hear(mono[: round(HEARD_S * HEAR_RATE)])
        return _packed(vector), steady, levels.duration_s

    def _flush(self) -> None:
        """Turn the texts of what was read into vectors, all at once, and write it down."""
        reads, self.waiting = self.waiting, []
        if not reads:
            return
        texts = list(dict.fromkeys(text for read in reads for text in _texts(read.facts) if text))
        vectors = dict(zip(texts, self.encode(texts), strict=True)) if texts else {}
        for read in reads:
            label, more = (_packed(vectors[text]) if text else None for text in _texts(read.facts))
            facts, found = read.facts, read.found
            self.db.execute("DELETE FROM skipped WHERE path = ?", (found.relative,))
            self.db.execute(
                f"INSERT OR REPLACE INTO sounds VALUES ({', '.join('?' * 16)})",
                (
                    found.relative, found.size, found.mtime_ns, read.sha256, read.stamp, facts.label,
                    facts.description, facts.licence, facts.author, facts.source, read.duration_s,
                    int(read.continuous), label, more, read.heard, self.seen,
                ),
            )  # fmt: skip
            self.added += 1

    def _finish(self, lists: Lists, started: float) -> IndexSummary:
        # Folders that could not be opened keep their sounds: a disk may be away for a moment.
        unseen = [bytes(path) for (path,) in self.db.execute("SELECT path FROM sounds WHERE seen <> ?", (self.seen,))]
        away = tuple(path + os.fsencode(os.sep) for path in self.problems)
        gone = [path for path in unseen if not path.startswith(away)] if away else unseen
        with self.db:
            self.db.execute("BEGIN")
            self.db.executemany("DELETE FROM sounds WHERE path = ?", [(path,) for path in gone])
            self.db.execute("DELETE FROM skipped WHERE seen <> ?", (self.seen,))
        skipped = [
            (_shown(bytes(path)), reason)
            for path, reason in self.db.execute("SELECT path, reason FROM skipped ORDER BY path")
        ]
        skipped += [(_shown(path), reason) for path, reason in self.problems.items()]
        skipped += [(os.path.relpath(path, self.root), reason) for path, reason in dict(lists.problems).items()]
        (sounds,) = self.db.execute("SELECT count(*) FROM sounds").fetchone()
        return IndexSummary(sounds, self.added, self.kept, len(gone), tuple(skipped), time.monotonic() - started)


def _weight(found: _Found) -> int:
    """Work that a file is: hearing ten seconds costs about as much as reading 20 MB."""
    return found.size + 20_000_000


def _texts(facts: SoundFacts) -> tuple[str, str]:
    label = facts.label
    return label, facts.description if facts.description.casefold() != label else ""


def _shown(relative: bytes) -> str:
    return os.fsdecode(relative).encode("utf-8", "replace").decode()


def _packed(vector: np.ndarray) -> bytes:
    x = np.asarray(vector, np.float32)
    return (x / max(float(np.linalg.norm(x)), 1e-12)).astype(np.float16).tobytes()


# --- searching ----------------------------------------------------------------


class IndexedLibrary:
    """An indexed folder, ready to be searched; vectors are kept in half precision (1 to 2 kB a sound).

    Parameters
    ----------
    root
        The library.
    listener_id
        Names the listener whose embeddings are of use; None not to go by hearing.

    Attributes
    ----------
    stale
        True where the index was made with another listener: it is searched by texts alone.

    Raises
    ------
    SmartDJError
        ``AUDIO_NOT_FOUND`` where there is no index, ``AUDIO_UNREADABLE`` where it is damaged.
    """

    def __init__(self, root: Path, listener_id: str | None = None) -> None:
        self.folder = Path(root).resolve()
        self.file = index_file(self.folder)
        if not self.file.is_file():
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND,
                f"The sound library {root} has no index.",
                f'Make one: smartdj library index "{root}"',
            )
        try:
            with closing(_connect(self.file, write=False)) as db:
                meta = _meta(db)
                self.stale = listener_id is not None and meta.get("listener") != listener_id.encode()
                self._load(db, hearing=listener_id is not None and not self.stale)
        except sqlite3.Error as error:
            raise _damaged(self.file, error) from error

    def _load(self, db: sqlite3.Connection, *, hearing: bool) -> None:
        self._paths: list[bytes] = []
        words: dict[str, list[int]] = {}
        labels: list[frozenset[str]] = []
        columns: dict[str, tuple[list[int], list[bytes]]] = {name: ([], []) for name in ("text", "more", "heard")}
        rows = db.execute("SELECT path, label, text, more, heard FROM sounds ORDER BY path")
        for number, (path, label, text, more, heard) in enumerate(rows):
            self._paths.append(bytes(path))
            stems = frozenset(map(stem, label.split()))
            labels.append(stems)
            for word in stems:
                words.setdefault(word, []).append(number)
            for name, blob in (("text", text), ("more", more), ("heard", heard if hearing else None)):
                if blob is not None:
                    columns[name][0].append(number)
                    columns[name][1].append(blob)
        self._sizes = np.array([len(stems) for stems in labels], np.int32)
        self._words = {word: np.array(numbers, np.int32) for word, numbers in words.items()}
        self._columns = {
            name: (np.array(numbers, np.int64), _stacked(blobs)) for name, (numbers, blobs) in columns.items()
        }

    def __len__(self) -> int:
        return len(self._paths)

    def search(
        self, text: str, encode: EncodeTexts, embed: EncodeTexts | None, *, count: int = 10
    ) -> list[LibraryMatch]:
        """The sounds that fit a text best, best first; files that are gone are among them.

        Parameters
        ----------
        encode
            Sentence encoder.
        embed
            Texts → unit vectors of the listener's joint space; None not to go by hearing.
        count
            Most matches to return.
        """
        wanted = plain_label(text)
        total = len(self._paths)
        if total == 0 or count < 1 or not wanted:
            return []
        written = np.full(total, -1.0, np.float32)
        vector = np.asarray(encode([wanted])[0], np.float32)
        for name in ("text", "more"):
            numbers, matrix = self._columns[name]
            if len(numbers):
                # What is told at length says less surely what a sound is than its name.
                found = _products(matrix, vector) * (1.0 if name == "text" else 0.95)
                written[numbers] = np.maximum(written[numbers], found)
        written = np.where(written >= 0, np.clip(written, 0.0, 0.999), written)
        self._raise_same_words(wanted, written)
        heard = np.full(total, -1.0, np.float32)
        numbers, matrix = self._columns["heard"]
        if embed is not None and len(numbers):
            likeness = _products(matrix, np.asarray(embed([wanted])[0], np.float32))
            heard[numbers] = np.clip((likeness - HEARD_LOW) / (HEARD_HIGH - HEARD_LOW), 0.0, 1.0)
        scores = np.where(
            heard < 0,
            np.maximum(written, 0.0),
            np.where(written < 0, UNNAMED * heard, TEXT_WEIGHT * written + (1 - TEXT_WEIGHT) * heard),
        )
        most = min(count, total)
        best = np.argpartition(-scores, most - 1)[:most]
        best = best[np.lexsort((best, -scores[best]))]
        return self._matches([int(number) for number in best], scores, written, heard)

    def _raise_same_words(self, wanted: str, written: np.ndarray) -> None:
        """Where a name holds every word that was asked for, it fits, whatever the sentence encoder thinks."""
        asked = {stem(word) for word in wanted.split()} - _LITTLE
        if not asked or not asked <= self._words.keys():
            return
        numbers = None
        for word in asked:
            found = self._words[word]
            numbers = found if numbers is None else np.intersect1d(numbers, found, assume_unique=True)
        assert numbers is not None
        share = len(asked) / np.maximum(self._sizes[numbers], len(asked))
        written[numbers] = np.maximum(written[numbers], 0.8 + 0.2 * share)

    def _matches(
        self, numbers: list[int], scores: np.ndarray, written: np.ndarray, heard: np.ndarray
    ) -> list[LibraryMatch]:
        matches = []
        with closing(_connect(self.file, write=False)) as db:
            for number in numbers:
                row = db.execute(
                    "SELECT label, licence, author, source, duration_s, continuous FROM sounds WHERE path = ?",
                    (self._paths[number],),
                ).fetchone()
                if row is None:  # indexed anew meanwhile
                    continue
                label, licence, author, source, duration_s, continuous = row
                clip = LibraryClip(
                    self.folder / os.fsdecode(self._paths[number]),
                    label,
                    licence,
                    author,
                    source,
                    duration_s,
                    bool(continuous),
                )
                matches.append(
                    LibraryMatch(
                        clip,
                        float(scores[number]),
                        None if written[number] < 0 else float(written[number]),
                        None if heard[number] < 0 else float(heard[number]),
                    )
                )
        return matches


_LITTLE: Final = frozenset({"a", "an", "the", "of", "on", "in", "at", "and", "with", "to", "is"})


def stem(word: str) -> str:
    """A word without its commonest endings: "barking", "barks" and "bark" are one."""
    for ending in ("ing", "ers", "er", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _stacked(blobs: Sequence[bytes]) -> np.ndarray:
    if not blobs:
        return np.zeros((0, 0), np.float16)
    width = len(blobs[0])
    if any(len(blob) != width for blob in blobs):
        raise sqlite3.DatabaseError("vectors of different lengths")
    return np.frombuffer(b"".join(blobs), np.float16).reshape(len(blobs), -1)


def _products(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Inner products (n,) of half-precision rows (n, width) with a vector; in chunks, to stay small."""
    unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
    out = np.empty(len(matrix), np.float32)
    for start in range(0, len(matrix), CHUNK):
        out[start : start + CHUNK] = matrix[start : start + CHUNK].astype(np.float32) @ unit
    return out


def near_best(matches: Sequence[LibraryMatch], seed: int) -> list[LibraryMatch]:
    """Order matches for use: those near the best shuffled by the seed, the others behind as they are."""
    if not matches:
        return []
    best = matches[0].similarity
    near = [match for match in matches[:MOST_NEAR] if match.similarity >= best - NEAR]
    order = np.random.default_rng(seed).permutation(len(near))
    return [*(near[i] for i in order), *matches[len(near) :]]
