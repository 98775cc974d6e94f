"""SLIP (RFC 1055), which marks where an OSC packet ends in a TCP stream (OSC 1.1). Pure."""

from __future__ import annotations

_END, _ESC, _ESC_END, _ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD


class SlipError(ValueError):
    """A stream that isn't SLIP, or a packet above the limit: the connection is of no more use."""


def frame(packet: bytes) -> bytes:
    """Return the packet as it goes over the wire, with END on both sides."""
    escaped = packet.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + escaped + b"\xc0"


class SlipDecoder:
    """Cuts a stream into packets; empty ones (two ENDs in a row) are left out.

    Parameters
    ----------
    max_bytes
        Largest packet.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._packet = bytearray()
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the packets that end in these bytes.

        Raises
        ------
        SlipError
            After it, nothing more can be read from this stream.
        """
        ended: list[bytes] = []
        for byte in data:
            if self._escaped:
                if byte not in (_ESC_END, _ESC_ESC):
                    raise SlipError(f"the byte {byte:#04x} after an escape")
                self._packet.append(_END if byte == _ESC_END else _ESC)
                self._escaped = False
            elif byte == _ESC:
                self._escaped = True
            elif byte == _END:
                if self._packet:
                    ended.append(bytes(self._packet))
                    self._packet.clear()
            else:
                self._packet.append(byte)
            if len(self._packet) > self._max_bytes:
                raise SlipError(f"a packet of more than {self._max_bytes} bytes")
        return ended
