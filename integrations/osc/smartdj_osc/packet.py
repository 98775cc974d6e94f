"""OSC packets as bytes, read and written strictly. Pure.

Messages are built by python-osc. They are read here, because python-osc 1.10.2 is not made for packets from strangers:
an element of negative size makes its bundle reader run for ever, deep bundles exhaust the stack, an unknown type tag
shifts all arguments after it, and cut-off floats are filled up. What both accept, both read alike (tested).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pythonosc import osc_message_builder
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.parsing import ntp

IMMEDIATELY = 1
"""The time tag that means "now"."""

_BUNDLE = b"#bundle\0"
_EPOCH_S = 2_208_988_800  # 1900 to 1970


class PacketError(ValueError):
    """Bytes that are no OSC packet; the text says why."""


@dataclass(frozen=True)
class Midi:
    """An OSC argument of type ``m``: four bytes."""

    port: int
    status: int
    data1: int
    data2: int


Argument = int | float | str | bytes | bool | None | Midi | tuple["Argument", ...]


@dataclass(frozen=True)
class Message:
    """An address (or, when received, a pattern of addresses) with its arguments.

    Lists in square brackets are tuples; ``I`` (a bang) is True.
    """

    address: str
    arguments: tuple[Argument, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.address, *(_shown(argument) for argument in self.arguments)])


@dataclass(frozen=True)
class Element:
    """One message of a packet and when it is due, seconds since 1970; None is at once."""

    message: Message
    due_s: float | None


@dataclass(frozen=True)
class PacketLimits:
    """What a packet may hold at most."""

    max_bytes: int = 8192
    max_elements: int = 64
    max_depth: int = 4
    max_arguments: int = 64
    max_address_chars: int = 256


DEFAULT_PACKET_LIMITS = PacketLimits()


def decode(data: bytes, limits: PacketLimits = DEFAULT_PACKET_LIMITS) -> list[Element]:
    """Read a packet: its messages in their order, with their time.

    Raises
    ------
    PacketError
        For anything that isn't OSC 1.0 with the usual types (``ifsb``, ``hdScrmtTFNI[]``), or is above a limit.
    """
    if len(data) > limits.max_bytes:
        raise PacketError(f"{len(data)} bytes; allowed are {limits.max_bytes}")
    elements: list[Element] = []
    _decode(data, None, 0, limits, elements)
    return elements


def encode(message: Message) -> bytes:
    """Build a message; ints beyond 32 bits go as ``h``, tuples as arrays.

    Raises
    ------
    PacketError
        For what OSC can't say: a text with NUL or half a character, an int beyond 64 bits, an empty blob.
    """
    builder = OscMessageBuilder(message.address)
    for argument in message.arguments:
        _add(builder, argument)
    try:
        return builder.build().dgram
    except (osc_message_builder.BuildError, UnicodeError) as error:
        raise PacketError(str(error)) from error


def bundle(packets: Sequence[bytes], due_s: float | None = None) -> bytes:
    """Put packets into one bundle that is due at a time, seconds since 1970."""
    tag = IMMEDIATELY if due_s is None else struct.unpack(">Q", ntp.system_time_to_ntp(due_s))[0]
    return _BUNDLE + struct.pack(">Q", tag) + b"".join(struct.pack(">i", len(data)) + data for data in packets)


def _add(builder: OscMessageBuilder, argument: Argument) -> None:
    if isinstance(argument, str) and "\0" in argument:
        raise PacketError("a text with NUL")
    if isinstance(argument, Midi):
        builder.add_arg((argument.port, argument.status, argument.data1, argument.data2), "m")
    elif isinstance(argument, tuple):
        builder.add_arg(_lists(argument))
    elif isinstance(argument, int) and not -(2**63) <= argument < 2**63:
        raise PacketError(f"{argument} needs more than 64 bits")
    else:
        builder.add_arg(argument)


def _lists(argument: Argument) -> Any:
    return [_lists(item) for item in argument] if isinstance(argument, tuple) else argument


def _decode(data: bytes, due_s: float | None, depth: int, limits: PacketLimits, out: list[Element]) -> None:
    if len(data) % 4 or not data:
        raise PacketError(f"{len(data)} bytes, not a multiple of four" if data else "no bytes")
    if not data.startswith(_BUNDLE):
        if len(out) >= limits.max_elements:
            raise PacketError(f"more than {limits.max_elements} messages")
        out.append(Element(_message(data, limits), due_s))
        return
    if depth >= limits.max_depth:
        raise PacketError(f"bundles {limits.max_depth + 1} deep")
    if len(data) < 16:
        raise PacketError("a bundle without time tag")
    own = _due(struct.unpack_from(">Q", data, 8)[0])
    # A bundle within a bundle may not be due before it (OSC 1.0).
    due_s = own if due_s is None else max(due_s, own or 0.0)
    at = 16
    while at < len(data):
        size = struct.unpack_from(">i", data, at)[0] if at + 4 <= len(data) else -1
        at += 4
        if size < 4 or at + size > len(data):
            raise PacketError(f"an element of {size} bytes where {max(len(data) - at, 0)} are left")
        _decode(data[at : at + size], due_s, depth + 1, limits, out)
        at += size


def _due(tag: int) -> float | None:
    return None if tag == IMMEDIATELY else tag / 2**32 - _EPOCH_S


def _message(data: bytes, limits: PacketLimits) -> Message:
    reader = _Reader(data)
    address = reader.text()
    if not address.startswith("/"):
        raise PacketError("an address without slash")
    if len(address) > limits.max_address_chars:
        raise PacketError(f"an address of {len(address)} characters")
    if not address.isprintable():
        raise PacketError("an address with control characters")
    if reader.at == len(data):  # very old senders leave the type tags out where there is no argument
        return Message(address)
    tags = reader.text()
    if not tags.startswith(","):
        raise PacketError("type tags without comma")
    if len(tags) - 1 > limits.max_arguments:
        raise PacketError(f"{len(tags) - 1} arguments; allowed are {limits.max_arguments}")
    stack: list[list[Argument]] = [[]]
    for tag in tags[1:]:
        if tag == "[":
            stack.append([])
        elif tag == "]":
            if len(stack) == 1:
                raise PacketError("a ] without [")
            ended = tuple(stack.pop())
            stack[-1].append(ended)
        else:
            stack[-1].append(reader.value(tag))
    if len(stack) > 1:
        raise PacketError("a [ without ]")
    if reader.at != len(data):
        raise PacketError(f"{len(data) - reader.at} bytes too many")
    return Message(address, tuple(stack[0]))


_FIXED = {"i": ">i", "f": ">f", "h": ">q", "d": ">d", "t": ">Q", "c": ">I", "r": ">I", "m": ">4B"}
_CONSTANT: dict[str, bool | None] = {"T": True, "F": False, "N": None, "I": True}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise PacketError("a text without end")
        raw = self.data[self.at : end]
        self.at = (end // 4 + 1) * 4
        if self.at > len(self.data):
            raise PacketError("a text that is cut off")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")  # OSC 1.0 says ASCII; older apps send their own code page

    def value(self, tag: str) -> Argument:
        if tag in _CONSTANT:
            return _CONSTANT[tag]
        if tag in "sS":
            return self.text()
        if tag == "b":
            size = int(self._unpack(">i")[0])
            end = self.at + size
            if size < 0 or end > len(self.data):
                raise PacketError(f"a blob of {size} bytes where {len(self.data) - self.at} are left")
            blob = self.data[self.at : end]
            self.at = (end + 3) // 4 * 4
            return blob
        if tag not in _FIXED:
            raise PacketError(f"the type tag {tag!r}")
        values = self._unpack(_FIXED[tag])
        if tag == "m":
            return Midi(*values)
        if tag == "c":
            return chr(values[0]) if values[0] < 0x110000 and not 0xD800 <= values[0] < 0xE000 else "\ufffd"
        number: int | float = values[0]
        return number

    def _unpack(self, form: str) -> tuple[int, ...]:
        if self.at + struct.calcsize(form) > len(self.data):
            raise PacketError("arguments that are cut off")
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values


def _shown(argument: Argument) -> str:
    if isinstance(argument, str):
        return repr(argument)
    if isinstance(argument, float):
        return f"{argument:g}"
    if isinstance(argument, bytes):
        return f"<{len(argument)} bytes>"
    if isinstance(argument, tuple):
        return "[" + " ".join(_shown(item) for item in argument) + "]"
    if isinstance(argument, Midi):
        return f"midi({argument.port} {argument.status:#04x} {argument.data1} {argument.data2})"
    return str(argument)
