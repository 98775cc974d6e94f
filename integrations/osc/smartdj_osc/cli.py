"""``smartdj osc`` and its relatives. Imports nothing heavy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smartdj_agent.errors import ErrorCode, SmartDJError

if TYPE_CHECKING:
    from smartdj_osc.mapping import Mapping
    from smartdj_osc.serve import Options

DEFAULT_PORT = 9110  # smartdj_osc.serve.DEFAULT_PORT, without importing it

osc_app = typer.Typer(
    help="Play SmartDJ from the stage: Open Sound Control for pads, faders and tablets.",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    no_args_is_help=False,
)

PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="UDP port; 0 takes a free one.")]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen at; beyond this machine needs --allow.")]


@osc_app.callback()
def osc(
    context: typer.Context,
    port: PortOption = DEFAULT_PORT,
    host: HostOption = "127.0.0.1",
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="CIDR", help="Machines that may come; may be given again.")
    ] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="Also TCP with SLIP frames, at the same port.")] = False,
    server: Annotated[
        str | None, typer.Option("--server", metavar="HOST:PORT", help="Let a server compute.", envvar="SMARTDJ_SERVER")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SMARTDJ_TOKEN_FILE", help="The server's token.")
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(metavar="PEM", help="Authority of the server's certificate.")] = None,
    audio: Annotated[
        str,
        typer.Option("--audio", metavar="none|null|DEVICE", help="Where results sound: none, null (a test), default."),
    ] = "none",
    audio_input: Annotated[
        str | None, typer.Option("--input", metavar="DEVICE", help="What is kept for /smartdj/capture.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", metavar="YAML", help="Other devices' messages as ours.")
    ] = None,
    allowed_root: Annotated[
        list[Path] | None,
        typer.Option("--allowed-root", metavar="DIR", help="Folder whose files controllers may name; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Folder of results; else they stay in memory.")
    ] = None,
    oscquery: Annotated[
        int | None, typer.Option("--oscquery", metavar="PORT", min=0, max=65535, help="Describe all addresses by HTTP.")
    ] = None,
    announce: Annotated[bool, typer.Option("--advertise", help="Announce --oscquery on the network.")] = False,
    preset: Annotated[str, typer.Option("--preset", help="Preset of networks.")] = "small",
    device: Annotated[str, typer.Option("--device", help="Where the networks run: auto, cpu, cuda.")] = "auto",
) -> None:
    """Answer controllers until Ctrl-C. The networks run in a process of their own, so nothing waits for them.

    Example: smartdj osc --allowed-root ~/Music --output ~/Music/out --audio default
    """
    if context.invoked_subcommand is not None:
        return
    from smartdj_osc.mapping import read_mapping
    from smartdj_osc.serve import Options

    if announce and oscquery is None:
        raise SmartDJError(ErrorCode.USAGE, "--advertise announces OSCQuery", "add --oscquery PORT", "--advertise")
    for root in allowed_root or ():
        if not root.is_dir():
            raise SmartDJError(ErrorCode.USAGE, f"{root} is no folder", "give a folder that exists", "--allowed-root")
    options = Options(
        host=host,
        port=port,
        tcp=tcp,
        http_port=oscquery,
        announce=announce,
        allow=tuple(allow or ()),
        roots=tuple(root.resolve() for root in allowed_root or ()),
        output=output.resolve() if output is not None else None,
    )
    rules = read_mapping(mapping) if mapping is not None else None
    with _agent(server, token_file, tls_ca, preset, device) as agent:
        asyncio.run(_serve(options, agent, audio, audio_input, rules))


@osc_app.command()
def monitor(
    port: PortOption = DEFAULT_PORT,
    host: Annotated[str, typer.Option("--host", help="Where the server is.")] = "127.0.0.1",
    raw: Annotated[
        bool, typer.Option("--listen", help="Be no guest of a server: show what is sent to this port itself.")
    ] = False,
) -> None:
    """Print all traffic between controllers and a running `smartdj osc`, or what a controller sends to a port.

    Example: smartdj osc monitor --port 9000 --listen
    """
    from smartdj_osc import monitor as room

    (room.listen if raw else room.watch)(host, port, typer.echo)


@osc_app.command()
def namespace() -> None:
    """Print all addresses, as tables in Markdown."""
    from smartdj_osc.namespace import markdown

    typer.echo(markdown(), nl=False)


@contextlib.contextmanager
def _agent(server: str | None, token_file: Path | None, tls_ca: Path | None, preset: str, device: str) -> Iterator[Any]:
    if server is not None:
        from smartdj_agent.client import Client, RemoteAgent, read_token

        token = read_token(token_file) if token_file is not None else None
        with Client(server, token=token, tls_ca=tls_ca) as client:
            yield RemoteAgent(client)
        return
    from smartdj_osc.process import ProcessAgent

    agent = ProcessAgent("smartdj_osc.process:local_agent", preset, device)
    try:
        yield agent
    finally:
        agent.close()


async def _serve(options: Options, agent: Any, audio: str, audio_input: str | None, rules: Mapping | None) -> None:
    from smartdj_osc.serve import serving

    engine: Any = None
    with contextlib.ExitStack() as stack:
        if audio != "none":
            from smartdj_osc.live.device import open_device
            from smartdj_osc.live.engine import LiveEngine

            engine = LiveEngine()
            sound = open_device(audio, engine, input_device=audio_input)
            stack.enter_context(sound)
        elif audio_input is not None:
            raise SmartDJError(ErrorCode.USAGE, "--input needs a sound device", "add --audio default", "--input")
        async with serving(options, agent, engine=engine, mapping=rules) as server:
            by = "UDP and TCP" if options.tcp else "UDP"
            typer.echo(f"smartdj osc: listening at {options.host}:{server.port} ({by}), sound: {audio}", err=True)
            if server.http_port is not None:
                typer.echo(f"smartdj osc: OSCQuery at http://{options.host}:{server.http_port}/", err=True)
            await asyncio.Event().wait()
