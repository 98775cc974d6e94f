"""REAPER projects (.RPP) as trees of lines in which every byte is kept.

A project is text: a line that begins with ``<`` opens a block, a line that is ``>`` closes it, every other line is
words, quoted with ``"``, ``'`` or a backtick where they need it. `Document.parse` finds the blocks and nothing else:
lines stay bytes with their own line ends, and words are read only when somebody asks for them, so plug-in states,
notes and lines that nobody has heard of pass through unharmed. What a change leaves alone is the same byte for byte.

The views (`Track`, `Item`, `Take`, `Source`) follow the state chunk definitions of ReaTeam/Doc (REAPER 7).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from smartdj_agent.errors import ErrorCode, SmartDJError

_BLANKS = b" \t\r"
_BOM = b"\xef\xbb\xbf"
_NO_NEST = frozenset({b"ITEM", b"TRACK", b"REAPER_PROJECT"})
"""Blocks that never hold one of their own kind, at any depth: meeting one means that a ``>`` is missing."""

_TAKE_STARTS = frozenset({"NAME", "VOLPAN", "SOFFS", "PLAYRATE", "CHANMODE", "GUID", "SOURCE"})
"""Whichever of these comes first ends the item's own lines and begins its first take's."""


# --- words --------------------------------------------------------------------------------------------------


def read_words(text: str) -> list[str]:
    """Split a line into its words; a quoted word ends at the next quote of its own kind, or at the line's end."""
    words: list[str] = []
    position, end = 0, len(text)
    while position < end:
        char = text[position]
        if char in " \t\r\n":
            position += 1
        elif char in "\"'`":
            close = text.find(char, position + 1)
            close = end if close < 0 else close
            words.append(text[position + 1 : close])
            position = close + 1
        else:
            match = re.compile(r"[^ \t\r\n]+").match(text, position)
            assert match is not None
            words.append(match[0])
            position = match.end()
    return words


def quote(text: str) -> str:
    """Write one word as REAPER does: bare where it can be, else in the first kind of quote that it doesn't hold.

    A word that holds all three kinds can't be written: its backticks become ``'``, as in REAPER. So do line breaks
    and other control characters become blanks.
    """
    text = "".join(" " if ord(char) < 32 or ord(char) == 127 else char for char in text)
    if not text:
        return '""'
    if not any(char in " \t" for char in text) and text[0] not in "\"'`#;<>|":
        return text
    for mark in "\"'`":
        if mark not in text:
            return f"{mark}{text}{mark}"
    return "`" + text.replace("`", "'") + "`"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- the tree -----------------------------------------------------------------------------------------------


class Block:
    """One ``<TAG … >``: the numbers of its first and last line, counted from 0, and the blocks inside."""

    __slots__ = ("children", "parent", "start", "stop", "tag")

    def __init__(self, tag: str, start: int, parent: Block | None) -> None:
        self.tag = tag
        self.start = start
        self.stop = start
        self.parent = parent
        self.children: list[Block] = []

    def __repr__(self) -> str:
        return f"Block({self.tag!r}, lines {self.start + 1}–{self.stop + 1}, {len(self.children)} inside)"


class Document:
    """A project's lines and blocks; made by `parse`.

    Attributes
    ----------
    lines
        Every line with its own line end, in order; joined they are the file.
    root
        The ``<REAPER_PROJECT`` block.
    """

    def __init__(self, lines: list[bytes], root: Block) -> None:
        self.lines = lines
        self.root = root

    @classmethod
    def parse(cls, data: bytes) -> Document:
        """Find the blocks.

        Raises
        ------
        SmartDJError
            RPP_INVALID with the number of the line: not a project, a block that isn't closed or closed twice, or
            blocks inside each other that never are (a track in a track).
        """
        lines = data.split(b"\n")
        last = lines.pop()
        lines = [line + b"\n" for line in lines]
        if last:
            lines.append(last)
        root: Block | None = None
        block: Block | None = None
        open_tags: list[bytes] = []
        for index, line in enumerate(lines):
            text = line.strip()
            if index == 0 and text.startswith(_BOM):
                text = text[len(_BOM) :].lstrip()
            if block is None:
                if not text:
                    continue
                if root is not None:
                    raise _damaged(
                        index,
                        f"{_shown(text)} after the project's end",
                        "one '>' too many stands somewhere above",
                    )
                if not text.startswith(b"<REAPER_PROJECT"):
                    raise _damaged(index, "this is no REAPER project", "it has to begin with <REAPER_PROJECT")
            first = text[:1]
            if first == b"<":
                words = text[1:].split(None, 1)
                if not words or text[1:2] in (b" ", b"\t"):
                    raise _damaged(index, "a block without a name", "open the project in REAPER and save it")
                tag = words[0]
                if tag in _NO_NEST and tag in open_tags:
                    outer: Block | None = block
                    while outer is not None and outer.tag != _decode(tag):
                        outer = outer.parent
                    assert outer is not None
                    raise _damaged(
                        index,
                        f"<{_decode(tag)} begins inside the <{_decode(tag)} of line {outer.start + 1}",
                        "a '>' is missing above",
                    )
                child = Block(_decode(tag), index, block)
                if block is None:
                    root = child
                else:
                    block.children.append(child)
                block = child
                open_tags.append(tag)
            elif first == b">":
                if text != b">":
                    raise _damaged(
                        index,
                        f"text behind a '>': {_shown(text)}",
                        "open the project in REAPER and save it",
                    )
                assert block is not None
                block.stop = index
                block = block.parent
                open_tags.pop()
        if block is not None:
            raise _damaged(
                len(lines) - 1,
                f"the file ends inside <{block.tag} of line {block.start + 1}",
                "it is cut short or a '>' is missing; take an undamaged copy, such as the .rpp-bak file",
            )
        if root is None:
            raise _damaged(0, "the file is empty", "take an undamaged copy, such as the .rpp-bak file")
        return cls(lines, root)

    def to_bytes(self) -> bytes:
        """Return the file, as it was read."""
        return b"".join(self.lines)

    def text(self, index: int) -> str:
        """Return a line without outer blanks and line end; bytes that aren't UTF-8 become lone surrogates."""
        data = self.lines[index].strip()
        return _decode(data[len(_BOM) :] if data.startswith(_BOM) else data)

    def words(self, index: int) -> list[str]:
        """Return a line's words, without the ``<`` of a block's first line."""
        text = self.text(index)
        return read_words(text[1:] if text.startswith("<") else text)

    def indent(self, index: int) -> bytes:
        """Return the blanks before a line."""
        line = self.lines[index]
        return line[: len(line) - len(line.lstrip(b" \t"))]

    def line_end(self, index: int) -> bytes:
        """Return a line's end: ``\\r\\n``, ``\\n``, or nothing for a last line without one."""
        line = self.lines[index]
        return line[len(line.rstrip(b"\r\n")) :]

    def entries(self, block: Block) -> Iterator[tuple[str, int, Block | None]]:
        """Yield what stands directly in a block, in order: (first word, line, block or None)."""
        index = block.start + 1
        for child in block.children:
            yield from self._plain(index, child.start)
            yield child.tag, child.start, child
            index = child.stop + 1
        yield from self._plain(index, block.stop)

    def _plain(self, start: int, stop: int) -> Iterator[tuple[str, int, None]]:
        for index in range(start, stop):
            words = self.lines[index].split(None, 1)
            if words:
                yield _decode(words[0]), index, None

    def changed(self, replaced: Mapping[int, bytes], inserted: Mapping[int, Sequence[bytes]]) -> bytes:
        """Return the file with some lines replaced and others put before a line.

        Parameters
        ----------
        replaced
            New bytes, line end included, by line number (from 0).
        inserted
            Lines to put before a line, by its number.
        """
        parts: list[bytes] = []
        for index, line in enumerate(self.lines):
            parts.extend(inserted.get(index, ()))
            parts.append(replaced.get(index, line))
        return b"".join(parts)

    # --- views

    @cached_property
    def tracks(self) -> tuple[Track, ...]:
        """The project's tracks, in order."""
        found = [block for block in self.root.children if block.tag == "TRACK"]
        return tuple(Track(self, block, number) for number, block in enumerate(found, start=1))

    @cached_property
    def record_paths(self) -> tuple[str, ...]:
        """The project's media folders (``RECORD_PATH``), as they are written, without empty ones."""
        for name, index, block in self.entries(self.root):
            if name == "RECORD_PATH" and block is None:
                return tuple(word for word in self.words(index)[1:] if word)
        return ()

    @cached_property
    def guids(self) -> frozenset[str]:
        """Every GUID that stands anywhere in the file, upper case, in braces."""
        pattern = rb"\{[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\}"
        return frozenset(_decode(found).upper() for found in re.findall(pattern, self.to_bytes()))


@dataclass(frozen=True, eq=False)
class Track:
    """One track; `number` counts from 1."""

    document: Document = field(repr=False)
    block: Block
    number: int

    @cached_property
    def name(self) -> str:
        """Its name, or what REAPER shows where it has none: ``Track 3``."""
        for word, index, block in self.document.entries(self.block):
            if word == "NAME" and block is None:
                given = self.document.words(index)[1:]
                return given[0] if given and given[0] else f"Track {self.number}"
        return f"Track {self.number}"

    @property
    def frozen(self) -> bool:
        """Whether its items are stand-ins that vanish when the track is unfrozen."""
        return any(child.tag == "FREEZE" for child in self.block.children)

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Its items, in order."""
        found = [block for block in self.block.children if block.tag == "ITEM"]
        return tuple(read_item(self.document, block, number) for number, block in enumerate(found, start=1))


@dataclass(frozen=True)
class Source:
    """What a take plays.

    Attributes
    ----------
    kind
        ``WAVE``, ``MP3``, ``SECTION``, ``MIDI``, ``EMPTY`` …; ``_OFFLINE_WAVE`` where the media is offline.
    file
        The path as it is written, or empty.
    file_options
        Words behind the path.
    others
        First words of everything else in the block.
    inside
        For ``SECTION``: kind of the source that it is a part of.
    """

    kind: str
    file: str = ""
    file_options: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    inside: Source | None = None


@dataclass(frozen=True)
class Take:
    """One take of an item.

    Attributes
    ----------
    line
        Number (from 0) of its ``TAKE`` line; None for the first take, which has none.
    null
        An empty slot (``TAKE NULL``).
    selected
        Its ``TAKE`` line says ``SEL``.
    lines
        Words of its lines by their first word; the last counts where one comes twice.
    blocks
        Tags of its blocks, except the source's, that change what is heard or aren't known.
    unknown
        First words of lines that aren't known.
    source
        What it plays, or None.
    """

    line: int | None
    null: bool
    selected: bool
    lines: Mapping[str, tuple[str, ...]]
    blocks: tuple[str, ...]
    unknown: tuple[str, ...]
    source: Source | None

    def word(self, key: str, position: int = 0, default: str = "") -> str:
        """Return one word behind a line's first."""
        words = self.lines.get(key, ())
        return words[position] if position < len(words) else default

    @property
    def name(self) -> str:
        """Its name, or the last part of its file's path."""
        return self.word("NAME") or re.split(r"[\\/]", self.source.file if self.source else "")[-1]


@dataclass(frozen=True)
class Item:
    """One media item of a track; `number` counts from 1 in its track."""

    block: Block
    number: int
    guid: str
    lines: Mapping[str, tuple[str, ...]]
    takes: tuple[Take, ...]

    def word(self, key: str, position: int = 0, default: str = "") -> str:
        """Return one word behind the first of one of the item's own lines."""
        words = self.lines.get(key, ())
        return words[position] if position < len(words) else default

    @property
    def active(self) -> int:
        """Index of the active take: the one whose line says ``SEL``, else the first; −1 without takes."""
        for index, take in enumerate(self.takes):
            if take.selected:
                return index
        return 0 if self.takes else -1


_ITEM_LINES = frozenset(
    {
        "POSITION", "SNAPOFFS", "LENGTH", "LOOP", "ALLTAKES", "COLOR", "BEAT", "SEL", "YPOS", "FADEIN", "FADEOUT",
        "FADEFLAG", "MUTE", "GROUP", "LOCK", "IGUID",
    }
)  # fmt: skip
"""The item's own lines wherever they stand before its second take: other programs write them in another order."""

_TAKE_LINES = frozenset(
    {
        "NAME", "VOLPAN", "TAKEVOLPAN", "SOFFS", "PLAYRATE", "CHANMODE", "GUID", "RECPASS", "TAKECOLOR",
        "TKM", "TM", "TMINFO", "IID", "COMP", "TAKE_FX_HAVE_NEW_PDC_AUTOMATION_BEHAVIOR",
        "NOTESWND", "RESOURCEFN", "IMGRESOURCEFLAGS",
    }
)  # fmt: skip
"""Lines of a take that are understood, or that don't change what is heard."""

_SILENT_BLOCKS = frozenset({"NOTES", "EXT"})
"""Blocks in an item that don't change what is heard."""


def read_item(document: Document, block: Block, number: int) -> Item:
    """Read an ``<ITEM`` block: the item's own lines come first, its takes behind them."""
    own: dict[str, tuple[str, ...]] = {}
    sections: list[_Section] = []
    current: _Section | None = None
    for word, index, child in document.entries(block):
        if word == "TAKE" and child is None:
            words = document.words(index)
            if not sections:  # the first take is an empty slot, which leaves no trace of its own
                sections.append(_Section(None, null=True))
            current = _Section(index, null="NULL" in words[1:], selected="SEL" in words[1:])
            sections.append(current)
        elif word in _ITEM_LINES and child is None and (current is None or current.line is None):
            own[word] = tuple(document.words(index)[1:])
        elif current is not None:
            current.add(document, word, index, child)
        elif word in _TAKE_STARTS or (child is not None and word not in _SILENT_BLOCKS):
            current = _Section(None)
            sections.append(current)
            current.add(document, word, index, child)
        elif child is None:
            own[word] = tuple(document.words(index)[1:])
    first = sections[0] if sections else None
    if first is not None and first.line is None and first.source is None:
        if len(sections) == 1:  # an empty item: a name, perhaps, and notes
            sections = []
        else:
            first.null = True
    guid = own.get("IGUID", ("",))
    return Item(block, number, guid[0] if guid else "", own, tuple(section.take() for section in sections))


class _Section:
    """A take while it is being read."""

    def __init__(self, line: int | None, *, null: bool = False, selected: bool = False) -> None:
        self.line, self.null, self.selected = line, null, selected
        self.lines: dict[str, tuple[str, ...]] = {}
        self.blocks: list[str] = []
        self.unknown: list[str] = []
        self.source: Source | None = None

    def add(self, document: Document, word: str, index: int, child: Block | None) -> None:
        if child is None:
            self.lines[word] = tuple(document.words(index)[1:])
            if word not in _TAKE_LINES:
                self.unknown.append(word)
        elif word == "SOURCE":
            self.source = read_source(document, child)
        elif word not in _SILENT_BLOCKS and _is_heard(document, child):
            self.blocks.append(word)

    def take(self) -> Take:
        return Take(
            self.line, self.null, self.selected, self.lines, tuple(self.blocks), tuple(self.unknown), self.source
        )


def _is_heard(document: Document, block: Block) -> bool:
    """Whether a block of a take changes what is heard: not a switched-off envelope or a chain without effects."""
    if block.tag == "TAKEFX":
        return bool(block.children)
    if block.tag.endswith("ENV"):
        for word, index, _ in document.entries(block):
            if word == "ACT":
                return document.words(index)[1:2] != ["0"]
    return True


def read_source(document: Document, block: Block) -> Source:
    """Read a ``<SOURCE`` block, and the one inside it where it is a section."""
    words = document.words(block.start)
    file = ""
    options: tuple[str, ...] = ()
    others: list[str] = []
    inside: Source | None = None
    for word, index, child in document.entries(block):
        if word == "FILE" and child is None:
            given = document.words(index)[1:]
            file, options = (given[0], tuple(given[1:])) if given else ("", ())
        elif word == "SOURCE" and child is not None and inside is None:
            inside = read_source(document, child)
        else:
            others.append(word)
    return Source(words[1] if len(words) > 1 else "", file, options, tuple(others), inside)


def _shown(text: bytes) -> str:
    shown = _decode(text[:40]).encode("utf-8", "replace").decode()
    return repr(shown)


def _damaged(index: int, what: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.RPP_INVALID, f"line {index + 1}: {what}", hint)
