"""``smartdj serve``: one flag per setting of `smartdj_agent.server.settings`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _setting(help: str, metavar: str | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=help, metavar=metavar, show_default=False)
    return option


def serve(
    host: Annotated[str | None, _setting("Address to listen at, or unix:PATH; beyond this machine needs TLS.")] = None,
    port: Annotated[int | None, _setting("Port to listen at; 0 takes a free one. [50551]")] = None,
    data_dir: Annotated[Path | None, _setting("Folder of jobs and their audio.", "DIR")] = None,
    database_url: Annotated[
        str | None, _setting("PostgreSQL database of several servers; not given: jobs.db for this one.", "URL")
    ] = None,
    lease_s: Annotated[
        float | None, _setting("How long a server may be silent before others take its jobs over, seconds. [10]")
    ] = None,
    port_file: Annotated[Path | None, _setting("File that gets the port once the server listens.", "FILE")] = None,
    devices: Annotated[
        list[str] | None, typer.Option("--device", help="Device that works; may be given again. [auto]")
    ] = None,
    preset: Annotated[str | None, _setting("Preset of models. [small]")] = None,
    library: Annotated[
        list[Path] | None,
        typer.Option("--library", metavar="DIR", help="Folder of sounds to add from; may be given again."),
    ] = None,
    add_source: Annotated[
        str | None, _setting("Where added sounds come from: auto, edit, generate or library. [auto]")
    ] = None,
    relisten: Annotated[
        bool | None, typer.Option("--relisten/--no-relisten", help="Listen to the result of each step.")
    ] = None,
    planner: Annotated[str | None, _setting("Who writes plans: auto, small, paper or endpoint. [auto]")] = None,
    allowed_roots: Annotated[
        list[Path] | None,
        typer.Option("--allowed-root", metavar="DIR", help="Folder whose files clients may name; may be given again."),
    ] = None,
    token_file: Annotated[
        Path | None, _setting("File with the token that clients must give; made if missing.", "FILE")
    ] = None,
    tls_certificate: Annotated[Path | None, _setting("PEM file with the certificate chain.", "FILE")] = None,
    tls_key: Annotated[Path | None, _setting("PEM file with the private key.", "FILE")] = None,
    tls_client_ca: Annotated[
        Path | None, _setting("PEM file of the authority whose clients alone may connect.", "FILE")
    ] = None,
    max_audio_bytes: Annotated[int | None, _setting("Largest file, bytes.")] = None,
    max_audio_s: Annotated[float | None, _setting("Longest recording, seconds.")] = None,
    max_channels: Annotated[int | None, _setting("Most channels of a recording.")] = None,
    max_instruction_chars: Annotated[int | None, _setting("Longest instruction, characters.")] = None,
    max_message_bytes: Annotated[int | None, _setting("Largest message, bytes.")] = None,
    max_queue: Annotated[int | None, _setting("Most jobs that wait.")] = None,
    max_queue_per_client: Annotated[int | None, _setting("Most jobs of one client that wait.")] = None,
    max_batch: Annotated[int | None, _setting("Most jobs that one GPU works on at once.")] = None,
    keep_s: Annotated[float | None, _setting("How long ended jobs stay, seconds.")] = None,
    keep_unfetched_s: Annotated[
        float | None, _setting("How long results that nobody fetched are safe, seconds.")
    ] = None,
    review_s: Annotated[float | None, _setting("How long a plan waits for a decision, seconds.")] = None,
    max_store_bytes: Annotated[int | None, _setting("Most audio in the data folder, bytes.")] = None,
    metrics_port: Annotated[int | None, _setting("Port on loopback for Prometheus; not given: no metrics.")] = None,
    log_level: Annotated[str | None, _setting("debug, info, warning or error. [info]")] = None,
    log_format: Annotated[str | None, _setting("text or json. [text]")] = None,
    drain_s: Annotated[float | None, _setting("How long running steps may take to finish at a stop, seconds.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="TOML", help="Configuration file; SMARTDJ_SERVE_CONFIG.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show all settings and where they come from, and end.")
    ] = False,
) -> None:
    """Serve plans and edits over gRPC until Ctrl-C: to a DAW, scripts in any language, many controllers.

    A flag outranks its environment variable (SMARTDJ_SERVE_MAX_QUEUE …), that the configuration file, that the default.

    Example: smartdj serve --port 50551 --allowed-root ~/Projects
    """
    flags = {name: value for name, value in locals().items() if name not in ("config", "print_config")}
    from smartdj_agent.server import settings

    configuration = settings.load(flags, file=config)
    if print_config:
        typer.echo(settings.print_config(configuration), nl=False)
        return
    from smartdj_agent.server.serve import run

    run(configuration)
