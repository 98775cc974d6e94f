"""Members of the archives that games keep their sounds in, read without unpacking the whole archive to disk.

Known formats: zip (also ``.pk3`` and ``.wz``), Qt resource files (``.rcc``), OpenClonk groups (``.ocg``,
``.ocd``) and OpenTTD sample catalogues (``.cat``).
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

_RCC_COMPRESSED, _RCC_FOLDER, _RCC_ZSTD = 1, 2, 4
_GROUP_HEADER, _GROUP_ENTRY = 204, 316


class ArchiveError(Exception):
    """An archive or a member of it can't be read; the message says which and why."""


@lru_cache(maxsize=2)
def _group_bytes(path: Path) -> bytes:
    """An OpenClonk group file unpacked; kept, since one archive is asked for many members in a row."""
    data = path.read_bytes()
    return gzip.decompress(b"\x1f\x8b" + data[2:]) if data[:2] == b"\x1e\x8c" else data


def read_member(archive: Path, member: str) -> bytes:
    """Return the bytes of one member.

    Parameters
    ----------
    archive
        The archive file; its format is told by its first bytes, a catalogue by its suffix.
    member
        Path inside the archive, parts separated by ``/``. In a catalogue, which has no paths, the decimal
        index before the first ``__`` counts.

    Raises
    ------
    ArchiveError
        If the format is unknown, the archive is damaged, or it has no such member.
    """
    with archive.open("rb") as file:
        magic = file.read(4)
    try:
        if magic[:2] == b"PK":
            with zipfile.ZipFile(archive) as opened:
                return opened.read(member)
        if magic == b"qres":
            return _rcc_member(archive.read_bytes(), member)
        if magic[:2] == b"\x1e\x8c":
            return _group_member(_group_bytes(archive), member.split("/"))
        if archive.suffix == ".cat":
            return _catalogue_member(archive.read_bytes(), int(member.partition("__")[0]))
    except (
        KeyError,
        ValueError,
        IndexError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
        EOFError,
    ) as error:
        raise ArchiveError(f"{archive.name}: can't read member {member!r}: {error}") from error
    raise ArchiveError(f"{archive.name}: unknown archive format (first bytes {magic.hex()})")


def _catalogue_member(data: bytes, index: int) -> bytes:
    """Sample `index` of an OpenTTD catalogue: offsets and sizes, then a Pascal string and a WAV each."""
    offset, size = struct.unpack_from("<II", data, 8 * index)
    offset &= 0x7FFFFFFF  # the top bit marks catalogues whose samples carry names
    start = offset + 1 + data[offset]
    if data[start : start + 4] != b"RIFF":
        raise ValueError("sample is not a WAV")
    return data[start : start + size]


def _group_member(data: bytes, parts: list[str]) -> bytes:
    """Member of an OpenClonk group; a group inside a group is stored with a header of its own."""
    header = bytearray(data[:_GROUP_HEADER])
    for position in range(0, _GROUP_HEADER - 2, 3):  # the header is scrambled: swapped in threes, then XOR 237
        header[position], header[position + 2] = header[position + 2], header[position]
    header = bytearray(byte ^ 237 for byte in header)
    if not header.startswith(b"RedWolf Design GrpFolder"):
        raise ValueError("not a group")
    (count,) = struct.unpack_from("<i", header, 36)
    start = _GROUP_HEADER + count * _GROUP_ENTRY
    for slot in range(count):
        entry = _GROUP_HEADER + slot * _GROUP_ENTRY
        name = data[entry : entry + 260].split(b"\0", 1)[0].decode("latin-1")
        _, _, size, _, offset = struct.unpack_from("<5i", data, entry + 260)
        if name == parts[0]:
            content = data[start + offset : start + offset + size]
            return content if len(parts) == 1 else _group_member(content, parts[1:])
    raise KeyError(parts[0])


def _rcc_member(data: bytes, member: str) -> bytes:
    """Member of a Qt resource file, versions 1 to 3 (zlib only)."""
    version, tree, blobs, names = struct.unpack_from(">4I", data, 4)
    node_size = 14 if version == 1 else 22

    def name_of(node: int) -> str:
        (offset,) = struct.unpack_from(">I", data, tree + node * node_size)
        (length,) = struct.unpack_from(">H", data, names + offset)
        return data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")

    node = 0
    for part in member.split("/"):
        flags, count, first = struct.unpack_from(">HII", data, tree + node * node_size + 4)
        if not flags & _RCC_FOLDER:
            raise KeyError(part)
        matches = [child for child in range(first, first + count) if name_of(child) == part]
        if not matches:
            raise KeyError(part)
        node = matches[0]
    flags, _country, _language, offset = struct.unpack_from(">HHHI", data, tree + node * node_size + 4)
    (size,) = struct.unpack_from(">I", data, blobs + offset)
    content = data[blobs + offset + 4 : blobs + offset + 4 + size]
    if flags & _RCC_ZSTD:
        raise ValueError("member is packed with zstd, which is not supported")
    return zlib.decompress(content[4:]) if flags & _RCC_COMPRESSED else content
