"""REAPER projects: every byte kept, damage found, takes added and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rpp
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.batch.patch import ItemEdit, NewTake, add_takes, format_seconds, take_name
from smartdj_agent.batch.rpp import Block, Document, Item, Take, Track, quote, read_words
from smartdj_agent.batch.segment import Media, RefusedError, Segment, active_source, cut, segment_of
from smartdj_agent.batch.survey import find_media, media_folders
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.steps import parse_step
from tests.rpp_projects import EVERYTHING, REFUSED, crlf, item, project

LF = EVERYTHING.encode()
VARIANTS = {
    "LF": LF,
    "CRLF": crlf(EVERYTHING),
    "no line end at the end": LF.rstrip(b"\n"),
    "CRLF, none at the end": crlf(EVERYTHING).rstrip(b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + LF,
    "mixed ends": b"".join(line + (b"\r\n" if index % 3 else b"\n") for index, line in enumerate(LF.splitlines())),
    "no indentation": b"\n".join(line.strip() for line in LF.splitlines()) + b"\n",
    "tabs and trailing blanks": LF.replace(b"  ", b"\t").replace(b"\n", b"  \n"),
    "blank lines around": b"\n \n" + LF + b"\n\n",
    "not UTF-8": LF.replace(b"Ambience", b"Ambi\xe9nce"),
}
TAKES = (
    NewTake("SmartDJ 1/2 remove: dog", "scene-smartdj/a-1.wav"),
    NewTake("SmartDJ 2/2 add: birdsong (left)", "scene-smartdj/a-2.wav", 0.00001, 2),
)


def items_of(document: Document) -> list[tuple[Track, Item]]:
    return [(track, item) for track in document.tracks for item in track.items]


def named(document: Document, name: str) -> tuple[Track, Item]:
    return next(pair for pair in items_of(document) if pair[1].takes and pair[1].takes[pair[1].active].name == name)


# --- words


def test_words_are_split_as_reaper_writes_them() -> None:
    assert read_words('NAME \'a "b" c\' `d \'e" f` "" plain x"y') == ["NAME", 'a "b" c', "d 'e\" f", "", "plain", 'x"y']
    assert read_words('NAME "not closed ') == ["NAME", "not closed "]
    assert read_words("  \t ") == []


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain.wav", "plain.wav"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', "'say \"hi\"'"),
        ('"it\'s" here', '`"it\'s" here`'),
        ("#1", '"#1"'),
        ("'", '"\'"'),
        ("a\nb", '"a b"'),
    ],
)
def test_each_word_is_quoted_by_the_first_kind_it_does_not_hold(text: str, written: str) -> None:
    assert quote(text) == written


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30))
def test_quoted_words_read_back(text: str) -> None:
    expected = text.replace("`", "'") if all(mark in text for mark in "\"'`") and needs_quotes(text) else text
    assert read_words(f"NAME {quote(text)} 1") == ["NAME", expected, "1"]


def needs_quotes(text: str) -> bool:
    return " " in text or text[0] in "\"'`#;<>|"


# --- the tree


@pytest.mark.parametrize("data", VARIANTS.values(), ids=VARIANTS)
def test_a_project_comes_back_byte_for_byte(data: bytes) -> None:
    document = Document.parse(data)
    assert document.to_bytes() == data
    assert document.changed({}, {}) == data
    assert [len(track.items) for track in document.tracks] == [2, 12, 1]


@pytest.mark.parametrize("data", VARIANTS.values(), ids=VARIANTS)
def test_adding_nothing_changes_nothing(data: bytes) -> None:
    document = Document.parse(data)
    assert add_takes(document, [ItemEdit(item, ()) for _, item in items_of(document)]) == data


def as_oracle(document: Document, block: Block) -> Any:
    words = document.words(block.start)
    children = []
    for _, index, child in document.entries(block):
        if child is not None:
            children.append(as_oracle(document, child))
        elif document.text(index).startswith("|"):
            children.append(document.text(index))
        else:
            read = document.words(index)
            children.append(read[0] if len(read) == 1 else read)
    return rpp.Element(words[0], words[1:], children)


def oracle(data: bytes) -> Any:
    found = rpp.loads(data.decode())
    return normal(found)


def normal(element: Any) -> Any:
    return rpp.Element(
        element.tag,
        list(element.attrib),
        [normal(child) if isinstance(child, rpp.Element) else child for child in element.children],
    )


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_tree_is_what_another_parser_sees(end: bytes) -> None:
    # that parser can't read an open quote, as a stranger's extension may write
    data = LF.replace(b'      y "z\n', b"").replace(b"\n", end)
    document = Document.parse(data)
    assert as_oracle(document, document.root) == oracle(data)


BARE = st.text("abcXYZ0189./{}-_+=", min_size=1, max_size=12)
WORD = st.one_of(BARE, st.text("ab \"'<>|é", min_size=1, max_size=8).filter(lambda t: not ('"' in t and "'" in t)))


@st.composite
def blocks(draw: st.DrawFn, depth: int = 0) -> list[str]:
    words = draw(st.lists(WORD, max_size=3))
    lines = ["  " * depth + " ".join(["<" + draw(st.sampled_from(["FXCHAIN", "VST", "X1"])), *map(quote, words)])]
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.integers(0, 3 if depth < 4 else 2))
        indent = "  " * (depth + 1)
        if kind == 0:
            lines.append(indent + "|" + draw(st.text("ab <>\"'|`", max_size=10)))
        elif kind == 1:
            lines.append(indent + draw(st.text("ABCabc019+/=", min_size=4, max_size=60)))
        elif kind == 2:
            lines.append(indent + " ".join([draw(BARE), *map(quote, draw(st.lists(WORD, max_size=4)))]))
        else:
            lines += draw(blocks(depth + 1))
    return [*lines, "  " * depth + ">"]


@given(st.lists(blocks(1), max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(deadline=None)
def test_any_tree_is_kept_and_agrees_with_the_other_parser(inner: list[list[str]], end: str, ends: bool) -> None:
    lines = ["<REAPER_PROJECT 0.1", *(line for block in inner for line in block), ">"]
    data = (end.join(lines) + (end if ends else "")).encode()
    document = Document.parse(data)
    assert document.to_bytes() == data
    assert as_oracle(document, document.root) == oracle(data)


def test_deep_nesting_and_large_projects_are_read() -> None:
    depth = 5000
    deep = b"<REAPER_PROJECT\n" + b"<FXCHAIN\n" * depth + b"AAAA\n" + b">\n" * depth + b">\n"
    assert Document.parse(deep).to_bytes() == deep
    many = "".join(item(guid=number, name=f"take {number}", position=number) for number in range(1, 15_001))
    data = project(("Ambience", many)).encode()
    assert len(data) > 5 * 2**20
    document = Document.parse(data)
    (track,) = document.tracks
    assert (len(track.items), track.items[-1].takes[0].name) == (15_000, "take 15000")
    patched = add_takes(document, [ItemEdit(track.items[5000], TAKES, "x")])
    assert len(patched.splitlines()) == len(document.lines) + 20


# --- damage

CLOSING = [index for index, line in enumerate(LF.splitlines()) if line.strip() == b">"]


@pytest.mark.parametrize("index", CLOSING)
def test_a_missing_end_is_found(index: int) -> None:
    lines = LF.splitlines(keepends=True)
    del lines[index]
    with pytest.raises(SmartDJError, match=r"^line \d+: ") as caught:
        Document.parse(b"".join(lines))
    assert caught.value.code is ErrorCode.RPP_INVALID
    line = int(caught.value.message.split(":")[0].split()[1])
    assert index <= line <= len(lines)


@given(st.integers(0, len(LF.splitlines())))
def test_an_end_too_many_is_found(index: int) -> None:
    lines = LF.splitlines(keepends=True)
    lines.insert(index, b">\n")
    with pytest.raises(SmartDJError) as caught:
        Document.parse(b"".join(lines))
    assert caught.value.code is ErrorCode.RPP_INVALID


@given(st.integers(0, len(LF) - 3))
def test_a_file_cut_short_is_found(length: int) -> None:
    with pytest.raises(SmartDJError) as caught:
        Document.parse(LF[:length])
    assert caught.value.code is ErrorCode.RPP_INVALID


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"\n\n", "line 1: the file is empty"),
        (b"RIFF\x00\x00", "line 1: this is no REAPER project"),
        (b"\x00" * 100, "line 1: this is no REAPER project"),
        (b"<TRACK\n>\n", "line 1: this is no REAPER project"),
        (b"<REAPER_PROJECT\n<\n>\n>\n", "line 2: a block without a name"),
        (b"<REAPER_PROJECT\n> x\n", "line 2: text behind a '>': '> x'"),
        (b"<REAPER_PROJECT\n>\nTEMPO 120\n", "line 3: 'TEMPO 120' after the project's end"),
        (
            b"<REAPER_PROJECT\n <TRACK\n  <ITEM\n >\n <TRACK\n >\n>\n",
            "line 5: <TRACK begins inside the <TRACK of line 2",
        ),
    ],
)
def test_damage_is_told_with_its_line(data: bytes, message: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        Document.parse(data)
    assert caught.value.message == message
    assert caught.value.hint


# --- views


def test_tracks_items_and_takes_are_read() -> None:
    document = Document.parse(LF)
    assert [track.name for track in document.tracks] == ["Ambience", "Odd things", "Track 3"]
    assert document.record_paths == ("Media",)
    first, second = document.tracks[0].items
    assert [take.name for take in first.takes] == ["The first 'take'"]
    assert [take.name for take in second.takes] == ['has "double" quotes', "has \"both' kinds", "", "plain.wav"]
    assert [take.null for take in second.takes] == [False, False, True, False]
    assert (first.active, second.active) == (0, 3)
    source = second.takes[3].source
    assert source is not None
    assert (source.kind, source.file) == ("WAVE", "Media\\birds.wav")


def test_other_programs_may_write_lines_in_another_order() -> None:
    text = """    <ITEM
      NAME "made by a script"
      <SOURCE WAVE
        FILE a.wav
      >
      MUTE 0 0
      LENGTH 0.5
      LOOP 1
      POSITION 3
    >
"""
    track = Document.parse(project(("T", text)).encode()).tracks[0]
    take, source = active_source(track, track.items[0])
    assert (source.file, take.unknown) == ("a.wav", ())
    assert segment_of(track.items[0], take, Media(12_000, 48_000, 1)) == Segment(0, 24_000, looped=True)


def test_an_empty_slot_before_the_first_take_counts() -> None:
    document = Document.parse(LF)
    _, found = named(document, "behind an empty slot")
    assert [take.null for take in found.takes] == [True, False]
    unselected = Document.parse(LF.replace(b'TAKE SEL\n      NAME "behind', b'TAKE\n      NAME "behind'))
    found = unselected.tracks[1].items[10]
    assert found.active == 0
    with pytest.raises(RefusedError, match="its active take is empty"):
        active_source(unselected.tracks[1], found)


def test_what_is_unusual_is_refused_with_its_reason() -> None:
    document = Document.parse(LF)
    reasons = {}
    for track, found in items_of(document):
        try:
            active_source(track, found)
        except RefusedError as refusal:
            reasons[found.takes[found.active].name if found.takes else ""] = str(refusal)
    assert reasons == REFUSED


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("      SPECTRAL_EDIT 0 1 0\n", "its take has the unknown entry SPECTRAL_EDIT"),
        ("      <PITCHENV\n        ACT 1\n      >\n", "its take has a pitch envelope"),
        ("      <MYSTERY\n      >\n", "its take has the unknown entry <MYSTERY"),
        ("      TAKE NULL SEL\n", "its active take is empty"),
        ("      TAKE SEL\n      NAME m\n      <SOURCE EMPTY\n      >\n", "its take is empty"),
        ('      TAKE SEL\n      NAME m\n      <SOURCE VIDEO\n        FILE "a.mp4"\n      >\n', "its media is a video"),
        (
            '      TAKE SEL\n      <SOURCE WAVE\n        FILE "a.wav" 1\n      >\n',
            "its source has the unknown option '1'",
        ),
    ],
)
def test_what_is_not_understood_is_refused(more: str, reason: str) -> None:
    document = Document.parse(project(("T", item(more=more))).encode())
    track = document.tracks[0]
    with pytest.raises(RefusedError) as caught:
        active_source(track, track.items[0])
    assert str(caught.value) == reason


# --- segments

MEDIA = Media(48_000, 48_000, 2)


def segment(
    media: Media = MEDIA,
    length: str = "0.5",
    loop: str = "0",
    offset: str = "0",
    rate: str = "1",
    mode: str = "0",
) -> Segment:
    text = item().replace("LENGTH 1.0", f"LENGTH {length}").replace("LOOP 0", f"LOOP {loop}")
    text = text.replace("SOFFS 0.0", f"SOFFS {offset}").replace("PLAYRATE 1 ", f"PLAYRATE {rate} ")
    text = text.replace("CHANMODE 0", f"CHANMODE {mode}")
    track = Document.parse(project(("T", text)).encode()).tracks[0]
    take, _ = active_source(track, track.items[0])
    return segment_of(track.items[0], take, media)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, Segment(0, 24_000)),
        ({"offset": "0.25"}, Segment(12_000, 24_000)),
        ({"rate": "2", "length": "0.25"}, Segment(0, 24_000)),
        ({"length": "0.50000000000001"}, Segment(0, 24_000)),
        ({"length": "0.50001"}, Segment(0, 24_001)),
        ({"length": "1"}, Segment(0, 48_000)),
        ({"length": "2"}, Segment(0, 48_000)),
        ({"length": "2", "loop": "1"}, Segment(0, 96_000, looped=True)),
        ({"length": "0.5", "loop": "1", "offset": "2.25"}, Segment(12_000, 24_000, looped=True)),
        ({"length": "1", "offset": "-0.25"}, Segment(0, 36_000, -0.25)),
        ({"mode": "1"}, Segment(0, 24_000, channels=(1, 0))),
        ({"mode": "2"}, Segment(0, 24_000, chanmode=2)),
        ({"mode": "3"}, Segment(0, 24_000, channels=(0,))),
        ({"mode": "4"}, Segment(0, 24_000, channels=(1,))),
        ({"mode": "67"}, Segment(0, 24_000, channels=(0, 1))),
        ({"mode": "5", "media": Media(48_000, 48_000, 3)}, Segment(0, 24_000, channels=(2,))),
        ({"mode": "3", "media": Media(48_000, 48_000, 1)}, Segment(0, 24_000)),
    ],
)
def test_items_play_these_samples(asked: dict[str, Any], expected: Segment) -> None:
    assert segment(**asked) == expected


def test_a_start_between_samples_is_kept() -> None:
    found = segment(offset="0.10001", length="0.5")  # sample 4800.48
    assert (found.start, found.frames) == (4800, 24_001)
    assert found.offset_s == pytest.approx(0.48 / 48_000, abs=1e-12)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"length": "0"}, "it has no length"),
        ({"length": "x"}, "its LENGTH is 'x'"),
        ({"length": "nan"}, "its LENGTH is 'nan'"),
        ({"rate": "0"}, "its play rate is 0"),
        ({"offset": "3"}, "it plays nothing of its media"),
        ({"offset": "-3"}, "it plays nothing of its media"),
        ({"offset": "-0.1", "loop": "1"}, "it begins before its looped source"),
        ({"length": "15000", "loop": "1"}, "it plays more than 4 h of its media"),
        ({"mode": "5"}, "its channel mode 5 asks for channel 3 of 2"),
        ({"mode": "300"}, "its channel mode 300 isn't known here"),
        ({"mode": "4", "media": Media(48_000, 48_000, 1)}, "its channel mode 4 asks for channel 2 of 1"),
    ],
)
def test_what_can_not_be_said_exactly_is_refused(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        segment(**asked)
    assert str(caught.value) == reason


def test_samples_are_cut_exactly() -> None:
    samples = np.arange(20, dtype=np.float32).reshape(2, 10)
    assert cut(samples, Segment(3, 4)).tolist() == [[3, 4, 5, 6], [13, 14, 15, 16]]
    assert cut(samples, Segment(8, 5, looped=True)).tolist() == [[8, 9, 0, 1, 2], [18, 19, 10, 11, 12]]
    assert cut(samples, Segment(0, 2, channels=(1, 0))).tolist() == [[10, 11], [0, 1]]
    whole = cut(samples, Segment(0, 10))
    whole[:] = 0
    assert samples[0, 9] == 9


# --- media


def test_media_is_found_as_reaper_would(tmp_path: Path) -> None:
    (tmp_path / "Media" / "Sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("beside.wav", "Media/kept.wav", "Media/Sub/Deep One.WAV", "elsewhere/far.wav", "Media/twin.wav"):
        (tmp_path / name).touch()
    (tmp_path / "Media" / "TWIN.wav").touch()
    head = f'  RECORD_PATH "Media" "{tmp_path / "elsewhere"}"\n'
    document = Document.parse(project(head=head).encode())
    folders = media_folders(tmp_path / "p.RPP", document)

    def found(text: str) -> str | None:
        path = find_media(text, folders)
        return None if path is None else path.relative_to(tmp_path).as_posix()

    assert found("beside.wav") == "beside.wav"
    assert found("Media\\Sub\\Deep One.WAV") == "Media/Sub/Deep One.WAV"
    assert found("media/sub/deep one.wav") == "Media/Sub/Deep One.WAV"
    assert found("kept.wav") == "Media/kept.wav"
    assert found("far.wav") == "elsewhere/far.wav"
    assert found(str(tmp_path / "beside.wav")) == "beside.wav"
    assert found("twin.WAV") is None  # two files would fit
    assert found("C:\\Audio\\beside.wav") is None
    assert found("gone.wav") is None
    assert found("") is None
    assert found("Media") is None


# --- new takes


def test_takes_come_before_the_items_end_and_nothing_else_changes() -> None:
    document = Document.parse(LF)
    _, found = named(document, "The first 'take'")
    patched = add_takes(document, [ItemEdit(found, TAKES, "seed")])
    before = b"".join(document.lines[: found.block.stop])
    after = b"".join(document.lines[found.block.stop :])
    assert patched.startswith(before)
    assert patched.endswith(after)
    text = patched[len(before) : -len(after)].decode()
    guids = [line.split()[1] for line in text.splitlines() if line.split()[0] == "GUID"]
    assert len(set(guids)) == 2
    assert not set(guids) & document.guids
    expected = """      TAKE
      NAME "SmartDJ 1/2 remove: dog"
      TAKEVOLPAN -0.25 -1.5 -1
      SOFFS 0
      PLAYRATE 1.25 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {0}
      <SOURCE WAVE
        FILE "scene-smartdj/a-1.wav"
      >
      TAKE SEL
      NAME "SmartDJ 2/2 add: birdsong (left)"
      TAKEVOLPAN -0.25 -1.5 -1
      SOFFS 0.00001
      PLAYRATE 1.25 1 0 -1 0 0.0025
      CHANMODE 2
      GUID {1}
      <SOURCE WAVE
        FILE "scene-smartdj/a-2.wav"
      >
"""
    assert text == expected.format(*guids)
    reread = Document.parse(patched).tracks[0].items[0]
    assert [take.name for take in reread.takes][1:] == [take.name for take in TAKES]
    assert reread.active == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_diff_is_minimal_in_every_dress(variant: str) -> None:
    data = VARIANTS[variant]
    document = Document.parse(data)
    edits = [ItemEdit(item, TAKES, "s") for track in document.tracks[:1] for item in track.items]
    patched = add_takes(document, edits)
    rest = patched
    for edit, before in zip(edits, (0, 3), strict=True):
        reread = Document.parse(rest)
        block = reread.tracks[0].items[edit.item.number - 1]
        assert len(block.takes) == len(edit.item.takes) + 2
        assert block.active == len(block.takes) - 1
        # without the new takes, and with SEL back, it is the old file
        first = block.takes[len(edit.item.takes)].line
        assert first is not None
        lines = reread.lines[:first] + reread.lines[block.block.stop :]
        old = edit.item.takes[before].line
        if old is not None:
            assert lines[old].strip() == b"TAKE"
            lines[old] = document.lines[old]
        rest = b"".join(lines)
    assert rest == data
    end = b"\r\n" if "CRLF" in variant else b"\n"
    if variant != "mixed ends":
        assert all(line.endswith(end) for line in patched.splitlines(keepends=True)[:-1])


def test_the_other_parser_sees_only_the_new_takes() -> None:
    data = LF.replace(b'      y "z\n', b"")
    document = Document.parse(data)
    _, found = named(document, "plain.wav")
    before, after = oracle(data), oracle(add_takes(document, [ItemEdit(found, TAKES, "s")]))
    old = before.findall("TRACK")[0].findall("ITEM")[1]
    new = after.findall("TRACK")[0].findall("ITEM")[1]
    added = new.children[len(old.children) :]
    assert [child for child in added if not isinstance(child, rpp.Element)][:2] == [
        "TAKE",
        ["NAME", "SmartDJ 1/2 remove: dog"],
    ]
    assert ["TAKE", "SEL"] in old.children
    assert [child if child != ["TAKE", "SEL"] else "TAKE" for child in old.children] == new.children[
        : len(old.children)
    ]
    new.children[:] = old.children
    assert before == after


def test_an_empty_slot_that_was_active_is_no_longer() -> None:
    data = project(("T", item(more="      TAKE NULL SEL\n"))).encode()
    document = Document.parse(data)
    patched = add_takes(document, [ItemEdit(document.tracks[0].items[0], TAKES[:1], "s")])
    takes = [line for line in patched.splitlines() if line.strip().startswith(b"TAKE ")]
    assert takes == [b"      TAKE NULL", b"      TAKE SEL"]


def test_guids_are_new_and_the_same_each_time() -> None:
    document = Document.parse(LF)
    _, found = named(document, "plain.wav")
    first = add_takes(document, [ItemEdit(found, TAKES, "s")])
    assert first == add_takes(document, [ItemEdit(found, TAKES, "s")])
    again = Document.parse(first)
    _, found = named(again, TAKES[1].name)
    second = add_takes(again, [ItemEdit(found, TAKES, "s")])
    guids = [line.split()[1] for line in second.splitlines() if line.strip().startswith(b"GUID")]
    assert len(guids) == len(set(guids))


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\"'`"), min_size=1, max_size=40),
)
def test_any_name_and_path_stay_on_their_line(name: str, file: str) -> None:
    document = Document.parse(LF)
    found = document.tracks[0].items[0]
    patched = Document.parse(add_takes(document, [ItemEdit(found, (NewTake(name, file),), "s")]))
    assert len(patched.lines) == len(document.lines) + 10
    take: Take = patched.tracks[0].items[0].takes[-1]
    assert take.source is not None
    assert take.source.file == file


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (-0.25, "-0.25"), (1e-5, "0.00001"), (1e-20, "0"), (12.5, "12.5"), (-1e-20, "0")]
)
def test_seconds_are_written_as_reaper_does(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("add the sound of birdsong at the left", "SmartDJ 2/4 add: birdsong (left)"),
        (
            "add the sound of seagulls at 30 degrees right with 3 dB",
            "SmartDJ 2/4 add: seagulls (30 degrees right, +3 dB)",
        ),
        ("remove the sound of dog barking", "SmartDJ 2/4 remove: dog barking"),
        ("turn down the volume of engine by 2 dB", "SmartDJ 2/4 volume: engine (-2 dB)"),
        ("change the sound of man speaking to the right", "SmartDJ 2/4 direction: man speaking (to right)"),
    ],
)
def test_takes_are_named_after_their_step(step: str, name: str) -> None:
    assert take_name(1, 4, parse_step(step)) == name
