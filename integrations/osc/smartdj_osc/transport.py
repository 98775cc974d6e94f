"""Sockets: UDP datagrams, and TCP with SLIP frames. Thin: whatever comes in goes to `Handler.take`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Protocol, cast

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.effects import Peer
from smartdj_osc.slip import SlipDecoder, SlipError, frame

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_CONNECTIONS = 64
"""Most TCP connections at once."""
MAX_UNREAD_BYTES = 1 << 20
"""A TCP peer that reads nothing is let go when so much waits for it."""
_STREAM_BYTES = 65_536


class Handler(Protocol):
    """Who gets what comes in."""

    def take(self, data: bytes, peer: Peer) -> None:
        """A packet has come."""

    def gone(self, peer: Peer) -> None:
        """A connection has ended."""


class Gate:
    """Which machines are let in: this one always, others only by ``--allow``.

    Parameters
    ----------
    host
        Address that is listened at.
    allowed
        Networks such as ``192.168.1.0/24``.

    Raises
    ------
    SmartDJError
        SERVER_CONFIG for what is no network, and for listening beyond loopback without one.
    """

    def __init__(self, host: str, allowed: Sequence[str]) -> None:
        self.networks: list[Network] = []
        for text in allowed:
            try:
                self.networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError as error:
                raise SmartDJError(
                    ErrorCode.SERVER_CONFIG, f"--allow {text}: {error}", "write it like 192.168.1.0/24", "--allow"
                ) from None
        if not self.networks and not _is_loopback(host):
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG,
                f"listening at {host} lets every machine in, and OSC knows no passwords",
                "say which may come: --allow 192.168.1.0/24",
                "--allow",
            )

    def admits(self, host: str) -> bool:
        """Whether packets from there are read at all."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped if mapped is not None else address
        return address.is_loopback or any(address in network for network in self.networks)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Datagrams(asyncio.DatagramProtocol):
    """The UDP shell."""

    def __init__(self, handler: Handler, gate: Gate) -> None:
        self._handler = handler
        self._gate = gate
        self._transport: asyncio.DatagramTransport | None = None
        self.refused = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # by its base only in later Pythons

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._gate.admits(addr[0]):
            self.refused += 1  # and no answer: the address may be forged
            return
        self._handler.take(data, Peer(addr[0], addr[1]))

    def send(self, peer: Peer, data: bytes) -> None:
        """Send a datagram; where nobody listens there, it is lost."""
        if self._transport is not None and not self._transport.is_closing() and peer.port:
            self._transport.sendto(data, (peer.host, peer.port))


class Streams:
    """The TCP shell: OSC 1.1, packets in SLIP frames."""

    def __init__(self, handler: Handler, gate: Gate, max_packet_bytes: int) -> None:
        self._handler = handler
        self._gate = gate
        self._max_packet_bytes = max_packet_bytes
        self._writers: dict[Peer, asyncio.StreamWriter] = {}
        self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a connection until it ends."""
        host, port = writer.get_extra_info("peername")[:2]
        peer = Peer(host, port, stream=True)
        if not self._gate.admits(host) or len(self._writers) >= MAX_CONNECTIONS:
            self.refused += 1
            writer.close()
            return
        self._writers[peer] = writer
        decoder = SlipDecoder(self._max_packet_bytes)
        try:
            while data := await reader.read(_STREAM_BYTES):
                for packet in decoder.feed(data):
                    self._handler.take(packet, peer)
        except (SlipError, OSError):
            pass
        finally:
            self._writers.pop(peer, None)
            self._handler.gone(peer)
            writer.close()

    def send(self, peer: Peer, data: bytes) -> None:
        """Send a packet; a peer that reads nothing is let go."""
        writer = self._writers.get(peer)
        if writer is None or writer.is_closing():
            return
        writer.write(frame(data))
        if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            writer.transport.abort()

    def close(self) -> None:
        """End all connections."""
        for writer in list(self._writers.values()):
            writer.close()
