"""``smartdj ui``: the page, with a server of its own or a running one. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smartdj_agent.cli import (
    AddSource,
    AddSourceOption,
    Device,
    DeviceOption,
    LibraryOption,
    Preset,
    PresetOption,
    agent_options,
)
from smartdj_agent.errors import ErrorCode, SmartDJError


def ui(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", envvar="SMARTDJ_SERVER", help="Let this server work; else the page starts its own."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SMARTDJ_TOKEN_FILE", help="The server's token.")
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(metavar="PEM", help="Authority of the server's certificate.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of the page on this machine; 0 takes a free one. [8551, or a free one]"
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only say where the page is.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the own server's jobs and their audio.")
    ] = None,
    device: DeviceOption = Device.AUTO,
    preset: PresetOption = Preset.SMALL,
    add_source: AddSourceOption = AddSource.AUTO,
    library: LibraryOption = None,
) -> None:
    """Open a page in the browser: drop a recording, say what it should become, look at the plan, run, compare.

    The page answers only on this machine. It works with `smartdj serve`: its own, which ends with it, or --server.

    Example: smartdj ui --server localhost:50551
    """
    own_only = ("data_dir", "device", "preset", "add_source", "library")
    if server is not None:
        for name in own_only:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                flag = f"--{name.replace('_', '-')}"
                raise SmartDJError(
                    ErrorCode.USAGE,
                    f"{flag} is about the page's own server, but {server} works",
                    f"leave {flag} out, or --server",
                    field=flag,
                )
    elif tls_ca is not None:
        raise SmartDJError(
            ErrorCode.USAGE, "--tls-ca says how to reach a server", "add --server HOST:PORT", field="--tls-ca"
        )
    try:
        from smartdj_agent.ui import web
    except ImportError as error:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"the page needs packages that are not installed ({error.name})",
            "install them: pip install 'smartdj-agent[ui]'",
        ) from error
    from smartdj_agent.ui.desk import Reach
    from smartdj_agent.ui.own_server import OwnServer

    reach: Reach | None = None
    own: OwnServer | None = None
    if server is not None:
        from smartdj_agent.client import read_token

        reach = Reach(server, read_token(token_file) if token_file is not None else None, tls_ca)
    else:
        sounds = agent_options(add_source, library)
        flags = ["--device", device.value, "--preset", preset.value, "--add-source", add_source.value]
        for folder in sounds.get("library", ()):
            flags += ["--library", str(folder.expanduser().absolute())]
        own = OwnServer((data_dir or default_data_dir()).absolute(), flags)
    web.run(reach, port=port, open_browser=not no_browser, say=lambda text: typer.echo(text, err=True), own=own)


def default_data_dir() -> Path:
    """Return where the own server keeps its jobs: a folder apart from that of ``smartdj serve``, which may run too."""
    import platformdirs

    return platformdirs.user_data_path("smartdj", appauthor=False) / "ui"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ui)
