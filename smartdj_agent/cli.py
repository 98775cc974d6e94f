"""The command line: ``smartdj edit IN "make this sound like …" -o OUT`` and its relatives.

Everything heavy (numpy, torch, matplotlib) is imported inside the commands, so that ``smartdj --help``
answers at once. Standard output carries results only (a plan, JSON lines); progress, tables and messages go
to standard error. Every failure ends with two lines and the exit status of its code in
`smartdj_agent.errors.ERROR_TABLE`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from smartdj_agent import __version__
from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.instruction import check_instruction
from smartdj_agent.reaper.cli import reaper_app
from smartdj_agent.server.cli import serve

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_agent.client import RemoteAgent
    from smartdj_agent.console import Screen
    from smartdj_agent.events import Event, Finished, Question
    from smartdj_agent.outputs import Outputs
    from smartdj_agent.plan import Plan
    from smartdj_agent.report import RunCollector

MAX_PLANS = 9
SEEDS_PER_PLAN = 4
"""Seeds that are tried for each plan beside the first."""
MAX_QUESTIONS = 5
"""Questions of the planner in a row before the command gives up."""

_ClickError = typer.BadParameter.__mro__[2]  # ClickException, which typer brings along under changing names


class Mode(StrEnum):
    """How a step is carried out."""

    PRESERVE = "preserve"
    GENERATE = "generate"


class Device(StrEnum):
    """Where the networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Preset(StrEnum):
    """Which networks are used."""

    SMALL = "small"
    PAPER = "paper"


class AddSource(StrEnum):
    """Where added sounds come from."""

    AUTO = "auto"
    EDIT = "edit"
    GENERATE = "generate"
    LIBRARY = "library"


class PlannerName(StrEnum):
    """Who writes plans."""

    AUTO = "auto"
    SMALL = "small"
    PAPER = "paper"
    ENDPOINT = "endpoint"


class AgentLike(Protocol):
    """What the commands need of `smartdj_agent.agent.Agent`."""

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Yield `Listened`, `StepPlanned` …, then `PlanReady` or `Question`."""

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """Yield the events of each enabled step after the first `done`, then `Finished`."""


def make_agent(preset: str, device: str, **sounds: Any) -> AgentLike:
    """Make the agent that the commands work with; tests put a fake in its place.

    Parameters
    ----------
    sounds
        `library`, `add_source`, `relisten` and `planner` of the agent, where they are told.
    """
    # The libraries below report their own progress on standard error, across ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from smartdj_agent.agent import Agent

    return Agent(preset=preset, device=device, **sounds)


def make_remote_agent(
    address: str, token_file: Path | None, tls_ca: Path | None, stack: contextlib.ExitStack
) -> AgentLike:
    """Make an agent that lets a server work; the stack ends the connection.

    Raises
    ------
    SmartDJError
        SERVER_UNREACHABLE, UNAUTHENTICATED; USAGE for a token file that can't be used.
    """
    from smartdj_agent.client import Client, RemoteAgent, read_token

    token = read_token(token_file) if token_file is not None else None
    agent = RemoteAgent(stack.enter_context(Client(address, token=token, tls_ca=tls_ca)))
    assert agent.capabilities  # asks the server now, rather than in the middle of the first item
    return agent


app = typer.Typer(
    name="smartdj",
    help="Say what a recording should become: a plan of atomic audio edits, carried out one by one.",
    epilog="Exit status 0 is success; every error has its own. SMARTDJ_DEBUG=1 shows tracebacks.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="List, fetch, import and verify models.", pretty_exceptions_enable=False)
app.add_typer(models_app, name="models")
app.add_typer(reaper_app, name="reaper")
app.command()(serve)

SourceArgument = Annotated[Path, typer.Argument(metavar="IN", help="The recording; it is never changed.")]
InstructionArgument = Annotated[
    str,
    typer.Argument(metavar="INSTRUCTION", help='What it should become, e.g. "make this sound like a rainy morning".'),
]
OutputOption = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="OUT", help="Where the edited recording goes; the ending names the format."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same result.")]
ModeOption = Annotated[
    Mode,
    typer.Option("--mode", help="preserve: change only the named sound; generate: the whole recording is made anew."),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where the networks run.")]
PresetOption = Annotated[
    Preset, typer.Option("--preset", help="Which networks: ours (small) or the published ones (paper).")
]
StepsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--steps-dir",
        metavar="DIR",
        help="Also write the recording after every step: 01-remove-dog-barking.wav …",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="HTML", help="Also write one page with pictures, players and timings."),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Events as JSON lines on standard output; the rest stays on standard error."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs (never the recording).")]
AddSourceOption = Annotated[
    AddSource,
    typer.Option(
        "--add-source",
        help="Where added sounds come from: edit (the editor on the recording), generate (a network, from the name), "
        "library, or auto: whichever is best.",
    ),
]
RelistenOption = Annotated[
    bool,
    typer.Option(
        "--relisten/--no-relisten",
        help="Listen to the result of each step; what can't be heard is tried once more, or told.",
    ),
]
PlannerOption = Annotated[
    PlannerName,
    typer.Option(
        "--planner",
        envvar="SMARTDJ_PLANNER",
        help="Who writes plans: ours (small), an audio language model (paper), a chat endpoint that is told what was "
        "heard (SMARTDJ_ENDPOINT_URL, …_MODEL, …_KEY), or auto: the preset's own, else ours.",
    ),
]
LibraryOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--library",
        metavar="DIR",
        help="Folder of sounds to add from; may be given again. Else SMARTDJ_LIBRARY, else all that are indexed.",
    ),
]
PlanOutOption = Annotated[
    Path | None, typer.Option("--plan-out", metavar="YAML", help="Also write the plan that was carried out.")
]


@dataclass(frozen=True)
class ServerOptions:
    """Which server does the work, and how to reach it."""

    address: str
    token_file: Path | None
    tls_ca: Path | None


class Remote:
    """The server of a run, in place of the agent; connected to when it is first needed.

    Parameters
    ----------
    options
        Which.
    preset, device
        What was asked for in the command, or None.
    context
        Of the command, whose end ends the connection.
    """

    def __init__(
        self, options: ServerOptions, preset: Preset | None, device: Device | None, context: typer.Context
    ) -> None:
        self.address = options.address
        self._options, self._preset, self._device, self._context = options, preset, device, context
        self._agent: RemoteAgent | None = None

    def agent(self, screen: Screen) -> RemoteAgent:
        """Connect, and check that the server has what was asked for.

        Raises
        ------
        SmartDJError
            SERVER_UNREACHABLE, UNAUTHENTICATED; USAGE for a preset or device that isn't the server's.
        """
        if self._agent is not None:
            return self._agent
        from smartdj_agent.client import Client, RemoteAgent, read_token

        screen.status(f"connecting to {self.address}")
        token = read_token(self._options.token_file) if self._options.token_file is not None else None
        client = Client(self.address, token=token, tls_ca=self._options.tls_ca)
        self._context.call_on_close(client.close)
        agent = RemoteAgent(client, status=screen.status)
        found = agent.capabilities
        if self._preset is not None and self._preset.value != found.preset:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"the server at {self.address} works with the preset {found.preset}, not {self._preset.value}",
                f"leave --preset out, or start a server with --preset {self._preset.value}",
                field="--preset",
            )
        kinds = {device.device.partition(":")[0] for device in found.devices}
        if self._device not in (None, Device.AUTO) and self._device.value not in kinds:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"the server at {self.address} works on {agent.device or 'no device'}, not on {self._device.value}",
                f"leave --device out, or start a server with --device {self._device.value}",
                field="--device",
            )
        self._agent = agent
        return agent


@dataclass(frozen=True)
class Settings:
    """Options that every run has; `remote` is the server that works, None where this machine does.

    `sounds` are those of `make_agent`.
    """

    command: str
    seed: int
    device: Device
    preset: Preset
    mode: Mode = Mode.PRESERVE
    remote: Remote | None = None
    sounds: dict[str, Any] = field(default_factory=dict)

    def agent(self, screen: Screen) -> AgentLike:
        """Make the agent for these settings."""
        if self.remote is not None:
            return self.remote.agent(screen)
        return make_agent(self.preset.value, self.device.value, **self.sounds)

    def preset_name(self, screen: Screen) -> str:
        """Return the preset that the work is done with."""
        return self.remote.agent(screen).preset if self.remote is not None else self.preset.value


def _settings(
    context: typer.Context,
    seed: int,
    device: Device,
    preset: Preset,
    mode: Mode = Mode.PRESERVE,
    add_source: AddSource = AddSource.AUTO,
    library: list[Path] | None = None,
    relisten: bool = True,
    planner: PlannerName = PlannerName.AUTO,
) -> Settings:
    """Gather the options of a command and those before it."""
    remote: Remote | None = None
    options = context.find_root().obj
    if isinstance(options, ServerOptions):
        for name in ("add_source", "library", "relisten", "planner"):
            if _on_command_line(context, name):
                flag = f"--{name.replace('_', '-')}"
                raise SmartDJError(
                    ErrorCode.USAGE,
                    f"{flag} is the server's to say: the work is done there",
                    f"leave {flag} out, or start the server with it",
                    field=flag,
                )
    if isinstance(options, ServerOptions):
        remote = Remote(
            options,
            preset if _on_command_line(context, "preset") else None,
            device if _on_command_line(context, "device") else None,
            context,
        )
    sounds = {} if remote is not None else agent_options(add_source, library, relisten, planner)
    return Settings(str(context.info_name), seed, device, preset, mode, remote, sounds)


def agent_options(
    add_source: AddSource,
    library: list[Path] | None,
    relisten: bool = True,
    planner: PlannerName = PlannerName.AUTO,
) -> dict[str, Any]:
    """Return what the options and the environment say about the agent, as `make_agent` takes it; empty for nothing.

    Raises
    ------
    SmartDJError
        AUDIO_NOT_FOUND where a library that was named is no folder.
    """
    told: dict[str, Any] = {}
    folders = tuple(library or [Path(part) for part in os.environ.get("SMARTDJ_LIBRARY", "").split(os.pathsep) if part])
    for folder in folders:
        if not folder.expanduser().is_dir():
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND,
                f"the sound library {folder} is not a folder",
                "give the folder that holds the sounds" + ("" if library else ", or set SMARTDJ_LIBRARY anew"),
                field="--library",
            )
    if folders:
        told["library"] = folders
    if add_source is not AddSource.AUTO:
        told["add_source"] = add_source.value
    if not relisten:
        told["relisten"] = False
    if planner is not PlannerName.AUTO:
        told["planner"] = planner.value
    return told


def _on_command_line(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


@app.callback()
def _root(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="SMARTDJ_SERVER",
            help="Let a server do the work of edit, plan, apply and step; files stay here.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SMARTDJ_TOKEN_FILE", help="The server's token."),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Authority that signed the server's certificate; turns TLS on.")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=lambda value: _show_version(value), help="Show the version."),
    ] = False,
) -> None:
    if server is None:
        for name, option in (("token_file", "--token-file"), ("tls_ca", "--tls-ca")):
            if _on_command_line(context, name):
                raise SmartDJError(
                    ErrorCode.USAGE, f"{option} says how to reach a server", "add --server HOST:PORT", field=option
                )
        return
    if context.invoked_subcommand not in ("edit", "plan", "apply", "step"):
        if _on_command_line(context, "server"):
            raise SmartDJError(
                ErrorCode.USAGE,
                f"`smartdj {context.invoked_subcommand}` is about this machine, not about a server",
                "leave --server out",
                field="--server",
            )
        return
    context.obj = ServerOptions(server, token_file, tls_ca)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smartdj {__version__}")
        raise typer.Exit


@app.command()
def edit(
    context: typer.Context,
    source: SourceArgument,
    instruction: InstructionArgument,
    output: OutputOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Carry the plan out without asking.")] = False,
    plan_out: PlanOutOption = None,
    steps_dir: StepsDirOption = None,
    report: ReportOption = None,
    mode: ModeOption = Mode.PRESERVE,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    preset: PresetOption = Preset.SMALL,
    as_json: JsonOption = False,
    add_source: AddSourceOption = AddSource.AUTO,
    library: LibraryOption = None,
    relisten: RelistenOption = True,
    planner: PlannerOption = PlannerName.AUTO,
    overwrite: OverwriteOption = False,
) -> None:
    """Plan and carry out an edit: listen, plan, let you review the plan, apply it.

    Example: smartdj edit walk.wav "make this sound like a workshop by the dock" -o dock.wav
    """
    from smartdj_agent.console import Screen, can_ask
    from smartdj_agent.outputs import Outputs

    text = check_instruction(instruction)
    outputs = Outputs(output, report, plan_out, steps_dir, overwrite)
    settings = _settings(context, seed, device, preset, mode, add_source, library, relisten, planner)
    with Screen(as_json=as_json) as screen:
        audio = _open(source, outputs, screen, settings, text)
        agent = settings.agent(screen)
        collector = _collector(report, source, audio, settings, text, screen)
        plan = _make_plan(agent, audio, text, settings, screen, source, collector)
        if not yes:
            if not can_ask():
                if not as_json:
                    screen.plan(plan)
                raise SmartDJError(
                    ErrorCode.USAGE,
                    "nobody is there to review the plan; nothing was carried out",
                    "give --yes to carry it out unseen, or use `smartdj plan` and then `smartdj apply`",
                    field="--yes",
                )
            plan = _review(plan, screen)
        _carry_out(agent, audio, plan, settings, outputs, screen, [source], collector)


@app.command()
def plan(
    context: typer.Context,
    source: SourceArgument,
    instruction: InstructionArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="YAML", help="Where the plan goes; else to standard output."),
    ] = None,
    plans: Annotated[int, typer.Option("--plans", min=1, max=MAX_PLANS, help="How many different plans to make.")] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    preset: PresetOption = Preset.SMALL,
    planner: PlannerOption = PlannerName.AUTO,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Only make a plan, as a text file that you can edit and then apply.

    With --plans 3, the second and third plan go beside OUT with -2 and -3 in their names.

    Example: smartdj plan walk.wav "make this sound like a workshop by the dock" -o dock.yaml
    """
    from smartdj_agent.console import Screen, write_stdout
    from smartdj_agent.outputs import Outputs, check_outputs
    from smartdj_agent.plan import plan_to_yaml, write_plan

    text = check_instruction(instruction)
    settings = _settings(context, seed, device, preset, planner=planner)
    files = [] if output is None else [output, *(_numbered(output, number) for number in range(2, plans + 1))]
    with Screen(as_json=as_json) as screen:
        for file in files[1:]:
            check_outputs(Outputs(plan=file, overwrite=overwrite), [source])
        audio = _open(source, Outputs(plan=output, overwrite=overwrite), screen, settings, text)
        agent = settings.agent(screen)
        made = [_make_plan(agent, audio, text, settings, screen, source, None)]
        made += _other_plans(agent, audio, made[0], settings, screen, plans - 1)
        screen.rest()
        for file, each in zip(files, made, strict=False):
            write_plan(file, each, overwrite=overwrite)
            screen.emit({"event": "written", "kind": "plan", "path": str(file)})
            screen.line(f"wrote {file} ({_count(len(each.steps), 'step')})")
        if not files and not as_json:
            write_stdout("---\n".join(map(plan_to_yaml, made)))
        if len(made) < plans:
            screen.line(f"only {_count(len(made), 'plan')} found: the others came out the same", "yellow")


@app.command()
def apply(
    context: typer.Context,
    source: SourceArgument,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file (YAML or JSON).")],
    output: OutputOption,
    steps_dir: StepsDirOption = None,
    report: ReportOption = None,
    mode: ModeOption = Mode.PRESERVE,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    preset: PresetOption = Preset.SMALL,
    as_json: JsonOption = False,
    add_source: AddSourceOption = AddSource.AUTO,
    library: LibraryOption = None,
    relisten: RelistenOption = True,
    overwrite: OverwriteOption = False,
) -> None:
    """Carry out a plan file, as it is.

    Example: smartdj apply walk.wav dock.yaml -o dock.wav
    """
    from smartdj_agent.audio import audio_sha256
    from smartdj_agent.console import Screen
    from smartdj_agent.outputs import Outputs
    from smartdj_agent.plan import check_source, read_plan

    settings = _settings(context, seed, device, preset, mode, add_source, library, relisten)
    outputs = Outputs(output, report, None, steps_dir, overwrite)
    with Screen(as_json=as_json) as screen:
        wanted = read_plan(plan_file)
        audio = _open(source, outputs, screen, settings, wanted.instruction, [plan_file])
        check_source(wanted, audio_sha256(audio))
        collector = _collector(report, source, audio, settings, wanted.instruction, screen)
        _carry_out(settings.agent(screen), audio, wanted, settings, outputs, screen, [source, plan_file], collector)


@app.command()
def step(
    context: typer.Context,
    source: SourceArgument,
    text: Annotated[str, typer.Argument(metavar="STEP", help='One edit, e.g. "remove the sound of dog barking".')],
    output: OutputOption,
    plan_out: PlanOutOption = None,
    steps_dir: StepsDirOption = None,
    report: ReportOption = None,
    mode: ModeOption = Mode.PRESERVE,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    preset: PresetOption = Preset.SMALL,
    as_json: JsonOption = False,
    add_source: AddSourceOption = AddSource.AUTO,
    library: LibraryOption = None,
    relisten: RelistenOption = True,
    overwrite: OverwriteOption = False,
) -> None:
    """Carry out one step, without the planner.

    Example: smartdj step walk.wav "turn down the volume of wind by 6 dB" -o calm.wav
    """
    from smartdj_agent.audio import audio_sha256
    from smartdj_agent.console import Screen
    from smartdj_agent.outputs import Outputs
    from smartdj_agent.plan import Provenance, make_plan
    from smartdj_agent.steps import parse_step

    wanted = parse_step(check_instruction(text))
    settings = _settings(context, seed, device, preset, mode, add_source, library, relisten)
    outputs = Outputs(output, report, plan_out, steps_dir, overwrite)
    with Screen(as_json=as_json) as screen:
        audio = _open(source, outputs, screen, settings, text)
        made = make_plan(
            [wanted],
            source_sha256=audio_sha256(audio),
            source_name=_name(source),
            provenance=Provenance(seed=seed, created=time.strftime("%Y-%m-%dT%H:%M:%S%z")),
        )
        collector = _collector(report, source, audio, settings, "", screen)
        _carry_out(settings.agent(screen), audio, made, settings, outputs, screen, [source], collector)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this installation: packages, device, disk, models.

    The exit status is 0 where edits can be made, else that of the first thing that stands in the way.
    """
    from smartdj_agent import doctor as examination
    from smartdj_agent.console import Screen, write_stdout

    with Screen(as_json=as_json) as screen:
        screen.status("examining")
        checks = examination.examine()
        screen.rest()
        for check in checks:
            screen.emit({"event": "check", **examination.check_to_dict(check)})
    if not as_json:
        write_stdout(examination.to_text(checks, colour=sys.stdout.isatty()))
    failure = examination.first_failure(checks)
    if failure is not None:
        raise failure


@app.command("reaper-job", hidden=True)
def reaper_job(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The job's folder, with job.json.")],
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", envvar="SMARTDJ_SERVER", help="Let a server do the work.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SMARTDJ_TOKEN_FILE", help="The server's token.")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Authority that signed the server's certificate; turns TLS on.")
    ] = None,
) -> None:
    """Plan and edit for REAPER's scripts; `smartdj_agent.reaper.job` describes the protocol."""
    from smartdj_agent.reaper.job import JobRequest, run_job

    with contextlib.ExitStack() as stack:

        def agent(request: JobRequest) -> AgentLike:
            address = server or request.server
            if not address:
                return make_agent(request.preset, request.device)
            token = token_file or (Path(request.token_file) if request.token_file else None)
            authority = tls_ca or (Path(request.tls_ca) if request.tls_ca else None)
            return make_remote_agent(address, token, authority, stack)

        run_job(folder, agent)


@models_app.command("list")
def models_list(as_json: JsonOption = False) -> None:
    """List the installed models with size and hash."""
    from smartdj_agent.console import write_stdout
    from smartdj_agent.models import weights

    installed = weights.list_installed()
    if as_json:
        from smartdj_agent.eventjson import fields_to_dict, to_line

        for info in installed:
            write_stdout(to_line({"event": "model", **fields_to_dict(info)}) + "\n")
        return
    if not installed:
        raise SmartDJError(
            ErrorCode.MODEL_MISSING,
            "no model is installed",
            "run `smartdj models pull small` or `make install`",
        )
    rows = [("name", "preset", "role", "parameters", "size", "sha256")]
    rows += [
        (
            m.name,
            m.preset,
            m.role,
            f"{m.parameters / 1e6:.1f} M",
            f"{m.size_bytes / 1e6:.1f} MB",
            m.sha256[:16],
        )
        for m in installed
    ]
    write_stdout(_columns(rows, right={3, 4}))


@models_app.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset or model, e.g. small.")],
) -> None:
    """Fetch a model over the network."""
    from smartdj_agent.console import Screen
    from smartdj_agent.models import released

    with Screen(as_json=False) as screen:
        screen.status(f"fetching {name}")
        released.pull(name)
        screen.rest()
        screen.line(f"installed {name}")


@models_app.command("import")
def models_import(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES…", help="Files of the published release; a folder of an audio language model, as planner."
        ),
    ],
) -> None:
    """Import the published networks from files that you have downloaded."""
    from smartdj_agent.console import Screen
    from smartdj_agent.models import released

    with Screen(as_json=False) as screen:
        screen.status(f"importing {_count(len(files), 'file')}")
        released.import_released(files)
        screen.rest()
        screen.line(f"imported {_count(len(files), 'file')}")


@models_app.command("verify")
def models_verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of vector files.")],
    as_json: JsonOption = False,
) -> None:
    """Load test vectors into our networks and print the largest absolute difference per tensor.

    The exit status is not 0 where one is above 0.0001 or not a number.
    """
    from smartdj_agent.console import write_stdout
    from smartdj_agent.models.released import TOLERANCE, verify_vectors

    differences = verify_vectors(folder)
    failed = [item for item in differences if not item.equal]
    if as_json:
        from smartdj_agent.eventjson import fields_to_dict, to_line

        for item in differences:
            write_stdout(to_line({"event": "tensor", **fields_to_dict(item), "ok": item not in failed}) + "\n")
    else:
        rows = [("file", "tensor", "max |difference|", "")]
        rows += [
            (Path(d.file).name, d.tensor, f"{d.max_abs_difference:.3g}", "FAIL" if d in failed else "ok")
            for d in differences
        ]
        write_stdout(_columns(rows, right={2}))
    if failed:
        worst = max(
            failed,
            key=lambda d: d.max_abs_difference if d.max_abs_difference == d.max_abs_difference else 1e99,
        )
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"{len(failed)} of {_count(len(differences), 'tensor')} differ by more than {TOLERANCE:g}, "
            f"most of all {worst.tensor} of {Path(worst.file).name} ({worst.max_abs_difference:.3g})",
            "the files are for other networks or damaged; compare their hashes with the published ones",
        )


def _open(
    source: Path,
    outputs: Outputs,
    screen: Screen,
    settings: Settings,
    instruction: str,
    more_sources: list[Path] | None = None,
) -> Audio:
    """Check all outputs, then read the recording, then check what depends on it."""
    from smartdj_agent.audio import read_audio
    from smartdj_agent.outputs import check_disk_space, check_holds, check_outputs

    check_outputs(outputs, [source, *(more_sources or [])])
    audio = read_audio(source)
    if outputs.audio is not None:
        check_holds(outputs.audio, audio)
    check_disk_space(outputs, audio, 1)
    from smartdj_agent.eventjson import SCHEMA_VERSION

    screen.emit(
        {
            "event": "started",
            "schema": SCHEMA_VERSION,
            "version": __version__,
            "command": settings.command,
            "input": str(source),
            "instruction": instruction,
            "seed": settings.seed,
            "preset": settings.preset_name(screen),
            "audio": audio,
        }
    )
    return audio


def _collector(
    report: Path | None, source: Path, audio: Audio, settings: Settings, instruction: str, screen: Screen
) -> RunCollector | None:
    if report is None:
        return None
    from smartdj_agent.report import ModelFacts, RunCollector

    machine: str | None = None
    models: tuple[ModelFacts, ...] | None = None
    if settings.remote is not None:
        found = settings.remote.agent(screen).capabilities
        machine = f"server {settings.remote.address}, smartdj {found.version}"
        models = tuple(ModelFacts(model.name, model.role, model.parameters, model.sha256) for model in found.models)
    return RunCollector(
        audio,
        source_name=_name(source),
        command=settings.command,
        instruction=instruction,
        seed=settings.seed,
        mode=settings.mode.value,
        preset=settings.preset_name(screen),
        machine=machine,
        models=models,
    )


def _make_plan(
    agent: AgentLike,
    audio: Audio,
    instruction: str,
    settings: Settings,
    screen: Screen,
    source: Path,
    collector: RunCollector | None,
) -> Plan:
    """Ask the planner, and the person where the planner has a question.

    Raises
    ------
    SmartDJError
        INSTRUCTION_UNCLEAR with the choices where nobody can answer; CANCELLED where the person doesn't.
    """
    from smartdj_agent.events import PlanReady, Question

    for _ in range(MAX_QUESTIONS):
        question: Question | None = None
        screen.status("listening")
        with _closing(agent.plan(audio, instruction, seed=settings.seed)) as events:
            for event in events:
                screen.show(event)
                if collector is not None:
                    collector.add(event)
                if isinstance(event, PlanReady):
                    if not event.plan.steps:
                        raise SmartDJError(
                            ErrorCode.INSTRUCTION_UNCLEAR,
                            "the planner found nothing to change",
                            "say what should be heard, or give a step: smartdj step IN STEP -o OUT",
                        )
                    return replace(event.plan, source_name=event.plan.source_name or _name(source))
                if isinstance(event, Question):
                    question = event
        if question is None:
            raise RuntimeError("the planner ended with neither a plan nor a question")
        instruction = _answer(question, screen)
        if collector is not None:
            collector.instruction = instruction
    raise SmartDJError(
        ErrorCode.INSTRUCTION_UNCLEAR,
        "the planner still has a question",
        "say it differently, or write a plan yourself",
    )


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.stem}-{number}{file.suffix}")


def _other_plans(
    agent: AgentLike, audio: Audio, first: Plan, settings: Settings, screen: Screen, count: int
) -> list[Plan]:
    """Make more plans with the seeds that follow, each different from all before; `SEEDS_PER_PLAN` tries for each."""
    from smartdj_agent.events import PlanReady

    seen = [[step.step for step in first.steps]]
    others: list[Plan] = []
    for seed in range(settings.seed + 1, settings.seed + 1 + SEEDS_PER_PLAN * count):
        if len(others) == count:
            break
        screen.status(f"another way, seed {seed}")
        with _closing(agent.plan(audio, first.instruction, seed=seed)) as events:
            made = [event for event in events if isinstance(event, PlanReady) and event.plan.steps]
        steps = [step.step for event in made for step in event.plan.steps]
        if made and steps not in seen:
            seen.append(steps)
            others.append(replace(made[0].plan, source_name=first.source_name))
            screen.line(f"another way, seed {seed}:", "bold")
            if screen.as_json:
                screen.show(made[0])
            else:
                screen.plan(others[-1], f"Seed {seed}")
    return others


def _answer(question: Question, screen: Screen) -> str:
    from smartdj_agent.console import can_ask, one_line

    screen.rest()
    choices = [one_line(choice) for choice in question.choices]
    if not can_ask():
        listed = " | ".join(f'"{choice}"' for choice in choices)
        raise SmartDJError(
            ErrorCode.INSTRUCTION_UNCLEAR,
            one_line(question.text),
            f"instead say for example: {listed}" if choices else "say it differently",
            field="instruction",
        )
    screen.line(question.text, "bold")
    for number, choice in enumerate(choices, start=1):
        screen.line(f"  {number}. {choice}")
    prompt = f"A number from 1 to {len(choices)}, or say it differently: " if choices else "Say it differently: "
    for _ in range(MAX_QUESTIONS):
        try:
            answer = _ask(prompt).strip()
        except EOFError:
            break
        if answer.isdecimal():
            if 1 <= int(answer) <= len(choices):
                return choices[int(answer) - 1]
            screen.line(f"there is no choice {answer}")
            continue
        try:
            return check_instruction(answer)
        except SmartDJError as error:
            screen.line(f"{error.message}; {error.hint}")
    raise SmartDJError(ErrorCode.CANCELLED, "cancelled; nothing was written")


def _review(plan: Plan, screen: Screen) -> Plan:
    from smartdj_agent.review import Talk, open_editor, review

    screen.rest()
    accepted = review(plan, Talk(ask=_ask, say=screen.line, show=screen.plan, edit=open_editor))
    screen.emit({"event": "plan_accepted", "plan": accepted})
    return accepted


def _ask(prompt: str) -> str:
    """Ask on standard error (standard output is for results) and return the line."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise EOFError
    return answer.rstrip("\n")


def _carry_out(
    agent: AgentLike,
    audio: Audio,
    plan: Plan,
    settings: Settings,
    outputs: Outputs,
    screen: Screen,
    sources: list[Path],
    collector: RunCollector | None,
) -> None:
    """Apply a plan and write everything that was asked for, each file whole."""
    from smartdj_agent.audio import clipped_samples, output_format, write_audio
    from smartdj_agent.events import Finished, Notice, StepFinished
    from smartdj_agent.files import write_file
    from smartdj_agent.outputs import (
        check_disk_space,
        check_step_files,
        earlier_step_files,
        step_files,
    )
    from smartdj_agent.plan import write_plan

    assert outputs.audio is not None
    steps = [item.step for item in plan.enabled_steps()]
    if not steps:
        raise SmartDJError(
            ErrorCode.PLAN_INVALID,
            "the plan has no step that is switched on",
            "write 'enabled: true' at a step, or add one",
            field="plan.steps",
        )
    files = step_files(outputs, steps)
    check_step_files(outputs, files, sources)
    check_disk_space(outputs, audio, len(files))
    if collector is not None:
        collector.plan = plan
    notices: list[Notice] = []
    leftovers = earlier_step_files(outputs, files)
    if leftovers:
        notices.append(
            Notice(
                "older_steps",
                f"{outputs.steps_dir} still holds {_count(len(leftovers), 'step')} of an earlier run",
            )
        )
    finished: Finished | None = None
    screen.status("loading models" if settings.remote is None else f"waiting for {settings.remote.address}")
    with _closing(agent.apply(audio, plan, mode=settings.mode.value, seed=settings.seed)) as events:
        for event in events:
            more: dict[str, Any] = {}
            if isinstance(event, StepFinished) and files:
                assert outputs.steps_dir is not None
                _make_folder(outputs.steps_dir)
                write_audio(files[event.index], event.audio, overwrite=outputs.overwrite)
                more["path"] = str(files[event.index])
            if isinstance(event, Finished):
                finished = event  # shown when its files are written
            else:
                screen.show(event, **more)
            if collector is not None:
                collector.add(event)
    if finished is None:
        raise RuntimeError("the editor ended without a result")
    clipped = clipped_samples(finished.audio, output_format(outputs.audio, finished.audio.format).subtype)
    if clipped:
        notices.append(
            Notice(
                "clipped",
                f"{_count(clipped, 'sample')} beyond full scale were clipped",
                "add sounds more softly, or write to a .wav of a recording in 32-bit float",
            )
        )
    for notice in notices:
        screen.show(notice)
        if collector is not None:
            collector.add(notice)
    screen.status("writing")
    write_audio(outputs.audio, finished.audio, overwrite=outputs.overwrite)
    written = {"output": str(outputs.audio)}
    if outputs.plan is not None:
        write_plan(outputs.plan, replace(finished.plan, source_name=plan.source_name), overwrite=outputs.overwrite)
        written["plan_file"] = str(outputs.plan)
    if outputs.report is not None and collector is not None:
        from smartdj_agent.report import build_report

        screen.status("drawing the report")
        write_file(outputs.report, build_report(collector.record()), overwrite=outputs.overwrite)
        written["report"] = str(outputs.report)
    screen.rest()
    screen.show(finished, **written)
    screen.line(
        f"wrote {' and '.join(written.values())} ({_count(len(steps), 'step')}, "
        f"{finished.seconds:.1f} s, {finished.realtime_factor:.2f} × real time)"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"can't make the folder {folder}: {error.strerror or error}",
            "give another folder",
            field="--steps-dir",
        ) from error


@contextlib.contextmanager
def _closing(events: Iterator[Event]) -> Generator[Iterator[Event], None, None]:
    """Close the agent's generator however the loop ends: that is what cancels the work inside."""
    try:
        yield events
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


def _name(source: Path) -> str:
    """Return the file's name as text that any plan, page or terminal can hold."""
    from smartdj_agent.console import one_line

    return one_line(source.name.encode("utf-8", "replace").decode())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _columns(rows: Sequence[tuple[str, ...]], right: set[int]) -> str:
    """Return rows as plain aligned text; result of a command, so it goes to standard output unadorned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Parameters
    ----------
    argv
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        0, or the exit status of the error's code; 141 where the reader of standard output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    _add_rooms()
    try:
        with _terminate_like_interrupt(), warnings.catch_warnings():
            if not _debugging():
                warnings.simplefilter("ignore")
            return _run(arguments, as_json)
    except KeyboardInterrupt:  # a second one, while the first was being handled
        return ERROR_TABLE[ErrorCode.CANCELLED].exit_code


@functools.cache
def _add_rooms() -> None:
    """Add the commands that have rooms of their own; these import this module's options, never the other way."""
    from smartdj_osc.cli import osc_app

    from smartdj_agent import library_cli
    from smartdj_agent.batch import cli as batch_cli
    from smartdj_agent.ui import cli as ui_cli

    batch_cli.add_to(app)
    ui_cli.add_to(app)
    library_cli.add_to(app)
    app.add_typer(osc_app, name="osc")


def _run(arguments: list[str], as_json: bool) -> int:
    from smartdj_agent.console import PipeClosedError, show_error

    try:
        try:
            status = app(args=arguments or ["--help"], prog_name="smartdj", standalone_mode=False)
            sys.stdout.flush()
            if status != ERROR_TABLE[ErrorCode.CANCELLED].exit_code:  # how typer reports Ctrl-C
                return int(status or 0)
            error = _cancelled()
        except SystemExit as stop:  # typer's own answer to a closed pipe
            raise PipeClosedError from stop
        except BrokenPipeError as closed:
            raise PipeClosedError from closed
        except PipeClosedError:
            raise
        except (KeyboardInterrupt, typer.Abort):
            error = _cancelled()
        except BaseException as failure:
            error = _explained(failure)
        show_error(error, as_json=as_json)
        return error.row.exit_code
    except PipeClosedError:
        # Python flushes standard output once more at its end, which would fail again and complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as if SIGPIPE had ended the process


def _cancelled() -> SmartDJError:
    return SmartDJError(ErrorCode.CANCELLED, "cancelled; no output was written")


def _explained(failure: BaseException) -> SmartDJError:
    """Turn whatever was raised into an error of the table."""
    if isinstance(failure, SmartDJError):
        if _debugging():
            traceback.print_exception(failure)
        return failure
    if isinstance(failure, _ClickError):
        context = getattr(failure, "ctx", None)
        command = context.command_path if context is not None else "smartdj"
        message = failure.format_message().rstrip(".")  # type: ignore[attr-defined]
        return SmartDJError(ErrorCode.USAGE, message, f"see `{command} --help`")
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return SmartDJError(
            ErrorCode.OUT_OF_MEMORY,
            "there is not enough memory for this recording",
            "close other programs, edit a shorter part, or try --device cpu",
        )
    if _debugging():
        traceback.print_exception(failure)
    return SmartDJError(
        ErrorCode.INTERNAL,
        f"internal error: {type(failure).__name__}: {failure}",
        f"the traceback is in {_write_log(failure)}; please report it",
    )


def _write_log(failure: BaseException) -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="smartdj-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"smartdj {__version__}, python {sys.version}\n")
            file.writelines(traceback.format_exception(failure))
        return name
    except OSError:
        return "no file (none could be written; run again with SMARTDJ_DEBUG=1)"


def _debugging() -> bool:
    return os.environ.get("SMARTDJ_DEBUG", "") not in ("", "0")


@contextlib.contextmanager
def _terminate_like_interrupt() -> Generator[None, None, None]:
    """Treat SIGTERM as Ctrl-C: the work is cancelled, temporary files go, nothing partial stays."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
