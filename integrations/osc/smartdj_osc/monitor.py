"""``smartdj osc monitor``: what controllers and the server say to each other, line by line."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.packet import Message, PacketError, decode, encode

_LEASE_S = 60
_PATIENCE_S = 2.0


def lines(data: bytes, clock: str, sender: str) -> list[str]:
    """Return what to print for a packet."""
    try:
        elements = decode(data)
    except PacketError as failure:
        return [f"{clock}  {sender}  malformed: {failure}"]
    shown = []
    for element in elements:
        message = element.message
        if message.address == "/smartdj/traffic" and len(message.arguments) == 3:
            direction, peer, text = (str(argument) for argument in message.arguments)
            shown.append(f"{clock}  {peer} {'→' if direction == 'in' else '←'}  {text}")
        else:
            due = "" if element.due_s is None else f"  (due {element.due_s:.3f})"
            shown.append(f"{clock}  {sender}  {message}{due}")
    return shown


def watch(host: str, port: int, show: Callable[[str], None], *, stop: Callable[[], bool] = lambda: False) -> None:
    """Subscribe to a server as monitor, and show all traffic until stopped.

    Raises
    ------
    SmartDJError
        SERVER_UNREACHABLE where no answer comes.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.connect((host, port))
        udp.settimeout(0.25)
        renewed_s = -1e9
        began_s = time.monotonic()
        answered = False
        while not stop():
            now_s = time.monotonic()
            try:
                if now_s - renewed_s > _LEASE_S / 3:
                    udp.send(encode(Message("/smartdj/subscribe", ("monitor", 0, _LEASE_S))))
                    udp.send(encode(Message("/smartdj/monitor", ("monitor", True))))
                    renewed_s = now_s
                data = udp.recv(65_536)
            except TimeoutError:
                data = b""
            except ConnectionRefusedError:
                data = b""
                time.sleep(0.25)
            if data:
                answered = True
                for line in lines(data, time.strftime("%H:%M:%S"), "server"):
                    show(line)
            elif not answered and now_s - began_s > _PATIENCE_S:
                raise SmartDJError(
                    ErrorCode.SERVER_UNREACHABLE,
                    f"nobody answers at {host}:{port}",
                    "start `smartdj osc`, or give its --port",
                )


def listen(host: str, port: int, show: Callable[[str], None], *, stop: Callable[[], bool] = lambda: False) -> None:
    """Show every packet that comes to a port, to find out what a controller sends.

    Raises
    ------
    SmartDJError
        SERVER_CONFIG where the port is taken.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.bind((host, port))
        except OSError as failure:
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG, f"can't listen at {host}:{port}: {failure.strerror}", "give another --port"
            ) from failure
        udp.settimeout(0.25)
        while not stop():
            try:
                data, sender = udp.recvfrom(65_536)
            except TimeoutError:
                continue
            for line in lines(data, time.strftime("%H:%M:%S"), f"{sender[0]}:{sender[1]}"):
                show(line)
