"""OSCQuery: what we are and know, as JSON over HTTP, so that controllers find our addresses by themselves.

`answer` is pure; `serve` is a plain asyncio shell that only answers GET. No WebSocket: values are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from smartdj_osc.namespace import COMMANDS, REPLIES, Command, Kind
from smartdj_osc.packet import Argument
from smartdj_osc.transport import Gate

ATTRIBUTES = ("FULL_PATH", "CONTENTS", "TYPE", "ACCESS", "RANGE", "DESCRIPTION", "VALUE")
_MAX_REQUEST_BYTES = 8192
_PATIENCE_S = 10.0
_TAGS = {Kind.TEXT: "s", Kind.NAME: "s", Kind.INT: "i", Kind.NUMBER: "f", Kind.SWITCH: "T", Kind.WORD: "s"}
_REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


def host_info(name: str, osc_port: int, transport: str = "UDP") -> dict[str, Any]:
    """What ``?HOST_INFO`` says."""
    extensions = dict.fromkeys(("ACCESS", "VALUE", "RANGE", "DESCRIPTION"), True)
    return {"NAME": name, "EXTENSIONS": extensions, "OSC_PORT": osc_port, "OSC_TRANSPORT": transport}


def answer(
    target: str, values: Mapping[str, tuple[Argument, ...]], info: Mapping[str, Any]
) -> tuple[int, dict[str, Any] | None]:
    """Answer a request: status and JSON.

    Parameters
    ----------
    target
        Path and query, such as ``/smartdj/plan?TYPE``.
    values
        The shared state by address.
    info
        Of `host_info`.
    """
    path, _, query = target.partition("?")
    path = unquote(path).rstrip("/") or "/"
    if query == "HOST_INFO":
        return 200, dict(info)
    node = _tree(values)
    for part in path.split("/")[1:] if path != "/" else []:
        node = node.get("CONTENTS", {}).get(part)
        if node is None:
            return 404, None
    if not query:
        return 200, node
    if query not in ATTRIBUTES:
        return 400, None
    return (200, {query: node[query]}) if query in node else (204, None)


def _tree(values: Mapping[str, tuple[Argument, ...]]) -> dict[str, Any]:
    root: dict[str, Any] = {"FULL_PATH": "/", "ACCESS": 0, "CONTENTS": {}}
    for address in sorted({*COMMANDS, *(address for address in REPLIES if address in values)}):
        node = root
        parts = address.split("/")[1:]
        for depth, part in enumerate(parts):
            path = "/" + "/".join(parts[: depth + 1])
            node = node.setdefault("CONTENTS", {}).setdefault(part, {"FULL_PATH": path, "ACCESS": 0})
        if address in COMMANDS:
            node.update(_command(COMMANDS[address]))
        else:
            node["DESCRIPTION"] = REPLIES[address].summary
        if address in values:
            shown = values[address]
            node["VALUE"] = [_plain(value) for value in shown]
            node["TYPE"] = node.get("TYPE") or "".join(_tag(value) for value in shown)
            node["ACCESS"] |= 1
    return root


def _command(command: Command) -> dict[str, Any]:
    described: dict[str, Any] = {"ACCESS": 2, "DESCRIPTION": f"{command.summary} Arguments: {command.signature}"}
    # A value may be of any type, and no tag says so: such an address has none.
    if all(parameter.kind in _TAGS for parameter in command.parameters):
        described["TYPE"] = "".join(_TAGS[parameter.kind] for parameter in command.parameters)
        described["RANGE"] = [
            {
                **({"MIN": parameter.minimum} if parameter.minimum is not None else {}),
                **({"MAX": parameter.maximum} if parameter.maximum is not None else {}),
                **({"VALS": list(parameter.words)} if parameter.words else {}),
            }
            for parameter in command.parameters
        ]
    return described


def _tag(value: Argument) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return "i" if isinstance(value, int) else "f" if isinstance(value, float) else "s"


def _plain(value: Argument) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class OscQueryServer:
    """The HTTP shell.

    Parameters
    ----------
    gate
        Who is let in.
    state
        Gives the shared state by address.
    info
        Of `host_info`.
    """

    def __init__(self, gate: Gate, state: Any, info: Mapping[str, Any]) -> None:
        self._gate = gate
        self._state = state
        self._info = info

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                if self._gate.admits(writer.get_extra_info("peername")[0]):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self.response(head[:_MAX_REQUEST_BYTES]))
                    await writer.drain()
        writer.close()

    def response(self, head: bytes) -> bytes:
        """Return the whole HTTP response to a request's head."""
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            status, body = 400, None
        elif words[0] != "GET":
            status, body = 405, None
        else:
            status, body = answer(words[1], self._state(), self._info)
        content = b"" if body is None else json.dumps(body, allow_nan=False).encode()
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + content


def advertise(name: str, host: str, port: int) -> Any:
    """Announce ``_oscjson._tcp`` on the network; returns what has a ``close`` method.

    Raises
    ------
    SmartDJError
        DEVICE_UNAVAILABLE where the extra isn't installed.
    """
    try:
        from zeroconf import ServiceInfo, Zeroconf
    except ImportError as missing:
        from smartdj_agent.errors import ErrorCode, SmartDJError

        raise SmartDJError(
            ErrorCode.DEVICE_UNAVAILABLE,
            "zeroconf is not installed",
            "pip install 'smartdj-agent[oscquery]'",
            "--advertise",
        ) from missing
    kind = "_oscjson._tcp.local."
    service = ServiceInfo(kind, f"{name}.{kind}", parsed_addresses=[host], port=port, properties={"txtvers": "1"})
    announcer = Zeroconf(interfaces=[host])
    announcer.register_service(service)
    return announcer
