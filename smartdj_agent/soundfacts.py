"""What a sound file says about itself, its name and its folder included: nothing is written, nothing is trusted.

WAV chunks (``bext``, ``iXML``, ``LIST``/``INFO``) are read here, by seeking from chunk to chunk; all other text fields
(Vorbis comments, ID3, AIFF's) come from libsndfile.
"""

from __future__ import annotations

import csv
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any, Final
from xml.etree import ElementTree

import soundfile

from smartdj_agent.ucs import parse_ucs, plain_words, words_of_path

MAX_CHUNKS: Final = 200
MAX_TEXT_BYTES: Final = 1 << 20
MAX_TEXT_CHARS: Final = 600
"""Longest description that is kept."""
MAX_CSV_BYTES: Final = 64 << 20
MAX_LICENCE_CHARS: Final = 100

_INFO: Final = {
    b"INAM": "title",
    b"ICMT": "comment",
    b"ISBJ": "subject",
    b"IKEY": "keywords",
    b"IGNR": "genre",
    b"IART": "artist",
    b"ICOP": "copyright",
    b"ISRC": "source",
}
_IXML: Final = {
    "DESCRIPTION": "description",
    "FXNAME": "title",
    "TRACKTITLE": "title",
    "KEYWORDS": "keywords",
    "CATEGORY": "category",
    "SUBCATEGORY": "subcategory",
    "CREATORID": "artist",
    "DESIGNER": "artist",
    "RIGHTSOWNER": "copyright",
    "LICENSE": "license",
    "NOTE": "comment",
}
_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "path": ("path", "filepath", "pathname", "filename", "file", "location"),
    "label": ("label", "fxname", "title", "tracktitle"),
    "description": ("description", "bwfdescription", "longid", "comment"),
    "keywords": ("keywords", "tags", "category", "subcategory"),
    "licence": ("licence", "license", "copyright", "rights"),
    "author": ("author", "artist", "creator", "designer", "originator"),
    "source": ("source", "library", "url"),
    "kind": ("kind",),
}
"""Columns of a list of sounds, by the headings that are common; the first heading found counts."""


@dataclass(frozen=True)
class SoundFacts:
    """What is known of a sound without listening to it.

    Attributes
    ----------
    label
        What it is, in a few plain words, lower case; empty where nothing says it.
    description
        What the file or a list beside it tells at more length; empty where they don't.
    licence, author, source
        As stated; empty where not.
    continuous
        Whether a list says so; None where none does.
    """

    label: str
    description: str = ""
    licence: str = ""
    author: str = ""
    source: str = ""
    continuous: bool | None = None


def embedded_texts(path: Path, sound: soundfile.SoundFile) -> dict[str, str]:
    """Text fields inside a file, by names in lower case (``title``, ``description``, ``license`` …).

    Parameters
    ----------
    sound
        The same file, opened. What is damaged or strange counts as not there.
    """
    found: dict[str, str] = {}
    if sound.format in ("WAV", "WAVEX", "RF64", "W64"):
        try:
            with path.open("rb") as file:
                for name, text in _wav_texts(file):
                    if text and not found.get(name):
                        found[name] = text
        except (OSError, struct.error, ValueError):
            pass
    try:
        tags: Mapping[str, Any] = sound.copy_metadata()
    except (soundfile.LibsndfileError, UnicodeDecodeError, AttributeError):
        tags = {}
    for name, value in tags.items():
        text = _clean(str(value))
        if text and not found.get(name):
            found[name] = text
    return found


def _wav_texts(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return
    data_size = 0
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        begin = file.tell()
        if name == b"ds64":
            data_size = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"bext":
            yield from _bext(file.read(min(size, 602)))
        elif name == b"iXML":
            yield from _ixml(file.read(min(size, MAX_TEXT_BYTES)))
        elif name == b"LIST":
            yield from _info(file.read(min(size, MAX_TEXT_BYTES)))
        if name == b"data" and size == 0xFFFFFFFF:
            size = data_size
        file.seek(begin + size + size % 2)


def _bext(chunk: bytes) -> Iterator[tuple[str, str]]:
    yield "description", _clean(_decoded(chunk[:256]))
    yield "artist", _clean(_decoded(chunk[256:288]))
    yield "reference", _clean(_decoded(chunk[288:320]))


def _info(chunk: bytes) -> Iterator[tuple[str, str]]:
    if chunk[:4] != b"INFO":
        return
    place = 4
    while place + 8 <= len(chunk):
        name, size = chunk[place : place + 4], struct.unpack("<I", chunk[place + 4 : place + 8])[0]
        if name in _INFO:
            yield _INFO[name], _clean(_decoded(chunk[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2


def _ixml(chunk: bytes) -> Iterator[tuple[str, str]]:
    text = chunk.rstrip(b"\0 \r\n")
    if b"<!" in text.replace(b"<!--", b""):  # declarations can blow up; iXML has none
        return
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError):
        return
    for element in root.iter():
        name = _IXML.get(str(element.tag).upper())
        if name is not None and element.text:
            yield name, _clean(element.text)


def _decoded(raw: bytes) -> str:
    raw = raw.split(b"\0", 1)[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _clean(text: str) -> str:
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:MAX_TEXT_CHARS]


@dataclass
class Lists:
    """Lists of sounds (CSV) and licences beside the sounds, read folder by folder.

    Parameters
    ----------
    root
        The library's folder.

    Attributes
    ----------
    problems
        Lists that could not be read, and why.
    """

    root: Path
    problems: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._root_rows, self._root_licence = self._read_folder(self.root)
        self._folder: Path = self.root
        self._rows: dict[str, dict[str, str]] = self._root_rows
        self._licence = self._root_licence

    def row(self, path: Path) -> dict[str, str]:
        """What the lists say about a file; an empty mapping where they say nothing."""
        if path.parent != self._folder:
            self._folder = path.parent
            self._rows, self._licence = self._read_folder(path.parent)
        relative = path.relative_to(self.root).as_posix()
        row = self._rows.get(path.name.casefold()) or self._root_rows.get(relative.casefold())
        if row is None:
            # Lists often name files without their folders; but a file of the list's own folder is meant first.
            row = self._root_rows.get(path.name.casefold())
            if row is None or (self.root / path.name).exists():
                return {}
        return row

    def licence(self, path: Path) -> str:
        """The licence that lies beside a file or in the library's folder; empty where none does."""
        self.row(path)
        return self._licence or self._root_licence

    def stamp(self, path: Path) -> str:
        """What `row` and `licence` say, in short: a file is read again when it changes."""
        row = self.row(path)
        licence = self.licence(path)
        if not row and not licence:
            return ""
        return hashlib.sha256(repr((sorted(row.items()), licence)).encode("utf-8", "replace")).hexdigest()[:16]

    def _read_folder(self, folder: Path) -> tuple[dict[str, dict[str, str]], str]:
        rows: dict[str, dict[str, str]] = {}
        licence = ""
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            return rows, licence
        for name in names:
            low = name.casefold()
            if low.endswith(".csv"):
                rows.update(self._read_csv(folder / name))
            elif re.fullmatch(r"_?(licen[cs]e|copying)(\.txt|\.md)?", low) and not licence:
                licence = _first_line(folder / name)
        return rows, licence

    def _read_csv(self, path: Path) -> dict[str, dict[str, str]]:
        rows: dict[str, dict[str, str]] = {}
        try:
            if path.stat().st_size > MAX_CSV_BYTES:
                raise ValueError("larger than 64 MB")
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                sample = file.readline()
                file.seek(0)
                delimiter = max(",;\t", key=sample.count)
                reader = csv.reader(file, delimiter=delimiter)
                headings = [re.sub(r"[^a-z]", "", heading.casefold()) for heading in next(reader, [])]
                places = {
                    name: next((headings.index(known) for known in knowns if known in headings), None)
                    for name, knowns in _COLUMNS.items()
                }
                if places["path"] is None:
                    return {}  # a table of something else
                for cells in reader:
                    row = {
                        name: _clean(cells[place])
                        for name, place in places.items()
                        if place is not None and place < len(cells) and cells[place].strip()
                    }
                    if "path" in row:
                        rows[PurePath(row["path"].replace("\\", "/")).as_posix().casefold()] = row
        except (OSError, ValueError, csv.Error) as error:
            self.problems.append((str(path), str(error)))
        return rows


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file.read(4096).splitlines():
                if any(character.isalnum() for character in line):
                    return _clean(line.strip("#* ="))[:MAX_LICENCE_CHARS]
    except OSError:
        pass
    return ""


def facts_of(relative: PurePath, texts: Mapping[str, str], row: Mapping[str, str], licence: str) -> SoundFacts:
    """Bring together what is known of a sound: a list beside it outranks the file's own fields, those its name.

    Parameters
    ----------
    relative
        The file's path inside the library.
    texts
        From `embedded_texts`.
    row, licence
        From `Lists`.
    """
    ucs = parse_ucs(relative.name)
    named = words_of_path(PurePath(relative.name))
    label = _label(row.get("label", "")) or named
    if not label or (ucs is None and len(label) < 3):
        label = _label(texts.get("title", "")) or words_of_path(relative)
    told = [row.get("description", ""), texts.get("description", ""), texts.get("comment", "")]
    told += [texts.get("title", ""), texts.get("subject", ""), row.get("keywords", ""), texts.get("keywords", "")]
    told += [" ".join(filter(None, (texts.get("category", ""), texts.get("subcategory", ""))))]
    description = "; ".join(dict.fromkeys(text for text in told if text))[:MAX_TEXT_CHARS]
    if not label:
        label = plain_words(description)[:80].strip()
    kind = row.get("kind", "").casefold()
    return SoundFacts(
        label=label,
        description=description,
        licence=(row.get("licence") or texts.get("license") or texts.get("copyright") or licence)[:MAX_LICENCE_CHARS],
        author=row.get("author") or texts.get("artist") or (ucs.creator_id if ucs is not None else ""),
        source=row.get("source") or (ucs.source_id if ucs is not None else ""),
        continuous=None if kind not in ("continuous", "transient") else kind == "continuous",
    )


def _label(text: str) -> str:
    """A label as people write them, made plain."""
    return " ".join(text.casefold().split())[:200]
