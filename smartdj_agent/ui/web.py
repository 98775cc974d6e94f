"""Serves the page on loopback: routes for audio, a guard against other web sites, and the life of the program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import write_error
from smartdj_agent.ui.desk import Desk, Reach
from smartdj_agent.ui.own_server import OwnServer

HOST = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
_OWN_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


class LoopbackOnly:
    """Answers only this machine's own pages.

    Listening on loopback keeps other machines out, but not what other web sites make a browser here do: they may send
    forms and open web sockets across (told by ``Origin``), or give their own name this machine's address (told by
    ``Host``).

    Parameters
    ----------
    app
        What is guarded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] in ("http", "websocket") and not _is_ours(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await Response("This page answers only on this machine.\n", 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_ours(scope: Scope) -> bool:
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    name, colon, port = host.rpartition(":")
    if (name if colon and port.isdecimal() else host) not in _OWN_NAMES:
        return False
    origin = headers.get(b"origin")
    return origin is None or origin == f"http://{host}"


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_app(desk: Desk) -> FastAPI:
    """Return the program's routes besides the page itself: static files, uploads and previews."""
    app = FastAPI(title="SmartDJ", openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.mount("/preview", StaticFiles(directory=desk.previews), name="preview")

    @app.post("/upload")
    async def upload(request: Request, name: str, at: str, convertible: bool = False) -> JSONResponse:
        """Take a recording; with `convertible`, one that can't be read is said to the browser only, which may help."""
        session = desk.find(at)
        try:
            if session is None:
                raise SmartDJError(ErrorCode.JOB_NOT_FOUND, "this page is of an earlier start", "load the page again")
            path = desk.place(name)
            await _receive(request, path, desk)
            await desk.take_recording(session, path)
        except SmartDJError as error:
            unread = error.code in (ErrorCode.AUDIO_UNREADABLE, ErrorCode.AUDIO_UNSUPPORTED)
            if session is not None and not (convertible and unread):
                session.refuse(error)
            body = {"code": error.code.value, "message": error.message, "hint": error.hint}
            return JSONResponse({"error": body, "unread": unread}, 422)
        return JSONResponse({"name": path.name})

    @app.get("/healthz")
    async def healthz() -> Response:
        """Say that the page is there."""
        return Response("ok\n", media_type="text/plain")

    return app


async def _receive(request: Request, path: Path, desk: Desk) -> None:
    limit = desk.capabilities.limits.max_audio_bytes if desk.capabilities is not None else 0
    size = 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if limit and size > limit:
                    raise SmartDJError(
                        ErrorCode.AUDIO_TOO_LONG,
                        f"the file is larger than the server takes ({limit // 2**20} MB)",
                        "cut it into shorter parts",
                    )
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise write_error(path, error) from error


def run(
    reach: Reach | None,
    *,
    port: int | None,
    open_browser: bool,
    say: Callable[[str], None],
    own: OwnServer | None = None,
) -> None:
    """Show the page until Ctrl-C.

    Parameters
    ----------
    reach
        The server that works; None to start `own`.
    port
        Port of the page on loopback; 0 takes a free one; None takes the usual one, or a free one where that is taken.
    open_browser
        Show the page in the browser of this desktop.
    say
        Gets one line for the person.
    own
        The server to start and end.

    Raises
    ------
    SmartDJError
        SERVER_CONFIG where the port is taken; SERVER_UNREACHABLE, UNAUTHENTICATED; why `own` doesn't start.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(port))
        temporary = tempfile.TemporaryDirectory(prefix="smartdj-ui-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        if reach is None:
            assert own is not None
            say("smartdj ui: starting the server …")
            stack.callback(own.stop)
            own.start()
            reach = Reach(own.address)
        asyncio.run(_serve(reach, own, folder, listening, open_browser, say))


DEFAULT_PORT = 8551


def _listen(port: int | None) -> socket.socket:
    wishes = [DEFAULT_PORT, 0] if port is None else [port]
    for wish in wishes:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name != "nt":  # there it would let two programs share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, wish))
            listening.listen(128)
            return listening
        except OSError:
            listening.close()
    raise SmartDJError(
        ErrorCode.SERVER_CONFIG,
        f"the page can't use port {port}",
        "another program has it, perhaps another `smartdj ui`: give another --port, or 0 for any",
        "--port",
    )


async def _serve(
    reach: Reach,
    own: OwnServer | None,
    folder: Path,
    listening: socket.socket,
    open_browser: bool,
    say: Callable[[str], None],
) -> None:
    # NiceGUI would make a folder for its users' data where the program was started.
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(folder / "nicegui"))
    from smartdj_agent.ui.page import add_page

    desk = Desk(reach, folder, own)
    await desk.start()
    try:
        app = make_app(desk)
        add_page(app, desk)
        config = uvicorn.Config(
            LoopbackOnly(app), log_level="error", access_log=False, timeout_graceful_shutdown=2, ws="auto"
        )
        server = _Server(config)
        stop = _stop_on_signals(server)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        if not serving.done():
            say(f"smartdj ui: {address} (server {reach.address}); Ctrl-C stops it")
            if open_browser:
                await asyncio.to_thread(webbrowser.open, address)
        await serving
        stop()
    finally:
        await desk.close()


def _stop_on_signals(server: uvicorn.Server) -> Callable[[], None]:
    """End the server at SIGINT and SIGTERM; returns what takes that back."""
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}

    def stop(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            before[number] = signal.signal(number, stop)

    def restore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if number in before:
                signal.signal(number, before[number])
            else:
                loop.remove_signal_handler(number)

    return restore
