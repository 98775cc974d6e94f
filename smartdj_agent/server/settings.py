"""What a server may be told: declared once, read from flags, environment, file and defaults, in that order.

Each setting has one name everywhere: ``max_queue`` is ``--max-queue`` on the command line, ``SMARTDJ_SERVE_MAX_QUEUE``
in the environment and ``max_queue`` in the TOML file.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from smartdj_agent.errors import ErrorCode, SmartDJError

PREFIX: Final = "SMARTDJ_SERVE_"
FILE_VARIABLE: Final = "SMARTDJ_SERVE_CONFIG"
DEFAULT: Final = "default"
_MAX_FILE_BYTES: Final = 1024 * 1024
_GIB: Final = 1024**3
_DAY_S: Final = 24 * 3600.0

_PATHS = frozenset(
    {"port_file", "data_dir", "library", "allowed_roots", "token_file", "tls_certificate", "tls_key", "tls_client_ca"}
)


def default_file() -> Path:
    """Tell where the configuration file is looked for when none is named; it need not exist."""
    return platformdirs.user_config_path("smartdj", appauthor=False) / "serve.toml"


def _default_data_dir() -> Path:
    return platformdirs.user_data_path("smartdj", appauthor=False) / "server"


class Settings(BaseModel):
    """Everything that can be set, checked.

    Sizes are in bytes, times in seconds. Paths are absolute. ``""`` stands for “not set” where None is allowed, since
    TOML has no null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address or host name to listen at, or unix:PATH of a socket")
    port: int = Field(50551, ge=0, le=65535, description="port to listen at; 0 takes a free one")
    port_file: Path | None = Field(None, description="file that gets the port once the server listens")
    data_dir: Path = Field(default_factory=_default_data_dir, description="folder of jobs and their audio")
    database_url: str | None = Field(
        None, description="PostgreSQL of several servers, postgresql://…; not set: jobs.db in data_dir, for one"
    )
    lease_s: float = Field(
        10.0, ge=1, le=3600, description="how long a server may be silent before others take its jobs over, seconds"
    )
    devices: tuple[str, ...] = Field(("auto",), min_length=1, description="devices that work, one worker each")
    preset: str = Field("small", min_length=1, description="preset of models")
    library: tuple[Path, ...] = Field(
        (), description="folders of sounds to add from; none: all that are indexed here; last the one that ships"
    )
    add_source: Literal["auto", "edit", "generate", "library"] = Field(
        "auto", description="where added sounds come from"
    )
    relisten: bool = Field(True, description="whether the result of each step is listened to, and tried once more")
    planner: Literal["auto", "small", "paper", "endpoint"] = Field("auto", description="who writes plans")
    allowed_roots: tuple[Path, ...] = Field((), description="folders whose files clients may name by path")
    token_file: Path | None = Field(None, description="file with the token that clients must give; made if missing")
    tls_certificate: Path | None = Field(None, description="PEM file with the server's certificate chain")
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key")
    tls_client_ca: Path | None = Field(None, description="PEM file of the authority whose clients alone may connect")
    max_audio_bytes: int = Field(4 * _GIB, ge=1, description="largest file, bytes")
    max_audio_s: float = Field(4 * 3600.0, gt=0, le=4 * 3600, description="longest recording, seconds")
    max_channels: int = Field(8, ge=1, le=1024, description="most channels of a recording")
    max_instruction_chars: int = Field(2000, ge=1, le=10_000, description="longest instruction, characters")
    max_message_bytes: int = Field(
        4 * 1024**2, ge=512 * 1024, le=2**31 - 1, description="largest message, bytes; audio comes in pieces of 256 KiB"
    )
    max_queue: int = Field(256, ge=1, description="most jobs that wait")
    max_queue_per_client: int = Field(64, ge=1, description="most jobs of one client that wait")
    max_batch: int = Field(1, ge=1, le=64, description="most jobs that one GPU works on at once")
    keep_s: float = Field(7 * _DAY_S, ge=0, description="how long ended jobs stay, seconds")
    keep_unfetched_s: float = Field(
        _DAY_S, ge=0, description="how long results that nobody fetched are safe even when space runs out, seconds"
    )
    review_s: float = Field(
        7 * _DAY_S, ge=0, description="how long a plan waits for somebody's decision before its job ends, seconds"
    )
    max_store_bytes: int = Field(50 * _GIB, ge=1, description="most audio in the data folder, bytes")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port on loopback for Prometheus; 0 takes a free one, not set: no metrics"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")
    log_format: Literal["text", "json"] = Field("text", description="lines for people or for programs")
    drain_s: float = Field(30.0, ge=0, description="how long running steps may take to finish at a stop, seconds")

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1, which is never meant.
        if isinstance(value, bool) and info.field_name != "relisten":
            raise ValueError("can't be true or false")
        return value

    @field_validator("host", "preset", mode="after")
    @classmethod
    def _no_blanks(cls, value: str) -> str:
        blank = " " in value and not value.startswith("unix:")
        if not value.isprintable() or not value or blank:
            raise ValueError("must not be empty or hold blanks")
        return value

    @field_validator("database_url", mode="after")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgresql+")):
            raise ValueError("must begin with postgresql://")
        if value is not None and re.search(r"://[^/@]*:[^/@]+@", value):
            raise ValueError("must not hold a password: put that into the variable PGPASSWORD")
        return value

    @field_validator(*_PATHS, mode="after")
    @classmethod
    def _usable_path(cls, value: Path | tuple[Path, ...] | None) -> Path | tuple[Path, ...] | None:
        for path in value if isinstance(value, tuple) else (value,):
            if path is None:
                continue
            if not path.is_absolute():
                raise ValueError("must be a full path")
            if "\0" in str(path) or not _is_unicode(str(path)):
                raise ValueError("must be a path in UTF-8 without NUL")
        return value

    @field_validator("devices", mode="after")
    @classmethod
    def _distinct_devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError("must be distinct names")
        return value

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.max_queue_per_client > self.max_queue:
            raise ValueError("max_queue_per_client must not be above max_queue")
        return self


NAMES: Final = tuple(Settings.model_fields)
LIVE: Final = frozenset(
    {
        "allowed_roots",
        "drain_s",
        "keep_s",
        "keep_unfetched_s",
        "log_level",
        "max_audio_bytes",
        "max_audio_s",
        "max_channels",
        "max_instruction_chars",
        "max_queue",
        "max_queue_per_client",
        "max_store_bytes",
        "review_s",
    }
)
"""Settings that a running server can change; all others need a restart."""

_OPTIONAL = frozenset(name for name, field in Settings.model_fields.items() if field.default is None)
_LISTS: dict[str, str] = {"devices": ",", "allowed_roots": os.pathsep, "library": os.pathsep}


@dataclass(frozen=True)
class Configuration:
    """Settings, and where each of them comes from.

    Attributes
    ----------
    settings
        What holds.
    origins
        By name: ``flag``, ``environment VARIABLE``, ``file PATH`` or ``default``.
    file
        The file that was read, or would have been had it been there.
    file_named
        Whether somebody named it, so that it must be there.
    flags, environment
        What was given, for reading again.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path
    file_named: bool
    flags: Mapping[str, object]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Reloaded:
    """What reading again has brought.

    Attributes
    ----------
    configuration
        What holds now: the old one with the changes of `LIVE` settings.
    applied
        Names of settings that changed and hold now.
    restart_needed
        Names of settings that differ from what is running but can't change without a restart.
    """

    configuration: Configuration
    applied: tuple[str, ...]
    restart_needed: tuple[str, ...]


def load(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Configuration:
    """Read the settings: a flag outranks the environment, that the file, and that the default.

    Parameters
    ----------
    flags
        Values from the command line by setting; None and ``[]`` mean “not given”, ``""`` takes back what is optional.
    environment
        By default the process's. Variables are `PREFIX` and the name in upper case; empty ones count as not there.
        ``devices`` is separated by commas, ``allowed_roots`` as ``PATH`` is. Relative paths start from the working
        folder.
    file
        TOML file, which must exist; by default ``SMARTDJ_SERVE_CONFIG`` (must exist too), else `default_file` if it is
        there. Relative paths in it start from its folder.

    Returns
    -------
    Configuration
        Checked settings with their origins.

    Raises
    ------
    SmartDJError
        ``SERVER_CONFIG``: a setting that doesn't exist (with the likeliest one meant), a bad value, settings that don't
        go together, or a file that can't be read. `field` is the setting's name.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None and value not in ([], ())}
    surroundings = os.environ if environment is None else environment
    variables = {key: value for key, value in surroundings.items() if key.startswith(PREFIX) and value}
    named = file or (Path(variables[FILE_VARIABLE]) if FILE_VARIABLE in variables else None)
    path = _absolute(named or default_file(), Path.cwd())
    return _load(given, variables, path, named is not None)


def reload(running: Configuration) -> Reloaded:
    """Read the file again, with the flags and the environment that the server was started with.

    Parameters
    ----------
    running
        What holds now. It stays as it is, also when the file has become wrong.

    Returns
    -------
    Reloaded
        What holds now, what was applied, and what needs a restart.

    Raises
    ------
    SmartDJError
        As `load` does.
    """
    fresh = _load(running.flags, running.environment, running.file, running.file_named)
    changed = [name for name in NAMES if getattr(fresh.settings, name) != getattr(running.settings, name)]
    applied = tuple(name for name in changed if name in LIVE)
    waiting = tuple(name for name in changed if name not in LIVE)
    merged = {name: getattr(running.settings if name in waiting else fresh.settings, name) for name in NAMES}
    origins = {name: (running if name in waiting else fresh).origins[name] for name in NAMES}
    configuration = replace(fresh, settings=_checked(merged, origins), origins=origins)
    return Reloaded(configuration, applied, waiting)


def print_config(configuration: Configuration) -> str:
    """Write the settings as a TOML file that reads back to the same settings, each line with its origin.

    Parameters
    ----------
    configuration
        What `load` gave.

    Returns
    -------
    str
        One line per setting, ``name = value  # origin``.
    """
    lines = []
    for name in NAMES:
        origin = "".join(character if character.isprintable() else "?" for character in configuration.origins[name])
        lines.append(f"{name} = {_toml(getattr(configuration.settings, name))}  # {origin}\n")
    return "".join(lines)


def _load(flags: Mapping[str, object], variables: Mapping[str, str], path: Path, file_named: bool) -> Configuration:
    entries = _read_file(path, must_exist=file_named)
    values: dict[str, Any] = {}
    origins: dict[str, str] = dict.fromkeys(NAMES, DEFAULT)
    for name, value in entries.items():
        _check_name(name, name, f" in {path}", NAMES)
        values[name], origins[name] = _prepared(name, value, path.parent), f"file {path}"
    for variable, text in variables.items():
        if variable == FILE_VARIABLE:
            continue
        name = variable.removeprefix(PREFIX).lower()
        _check_name(name, variable, " in the environment", [PREFIX + known.upper() for known in NAMES])
        listed = [part for part in text.split(_LISTS[name]) if part] if name in _LISTS else text
        values[name], origins[name] = _prepared(name, listed, Path.cwd()), f"environment {variable}"
    for name, value in flags.items():
        _check_name(name, name, " as a flag", NAMES)
        values[name], origins[name] = _prepared(name, value, Path.cwd()), "flag"
    return Configuration(_checked(values, origins), origins, path, file_named, flags, variables)


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    hint = "Write NAME = VALUE lines; `smartdj serve --print-config` shows all settings."
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if not must_exist:
            return {}
        raise _wrong(f"the configuration file {path} is not there", "Check the path.") from None
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise _wrong(f"the configuration file {path} can't be read: {reason}", "Check the path.") from None
    if len(data) > _MAX_FILE_BYTES:
        raise _wrong(f"the configuration file {path} is larger than 1 MiB", hint)
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as failure:
        raise _wrong(f"the configuration file {path} is not valid TOML: {failure}", hint) from None


def _check_name(name: str, shown: str, where: str, candidates: Iterable[str]) -> None:
    if name in NAMES:
        return
    close = difflib.get_close_matches(shown, list(candidates), n=1)
    hint = f"Did you mean {close[0]}?" if close else "`smartdj serve --print-config` shows all settings."
    raise _wrong(f"there is no setting {shown}{where}", hint, name)


def _prepared(name: str, value: Any, folder: Path) -> Any:
    if name in _OPTIONAL and value == "":
        return None
    if name in _LISTS and isinstance(value, str):
        value = [value] if value else []
    if name in _PATHS:
        if isinstance(value, (list, tuple)):
            return [_absolute(item, folder) if isinstance(item, (str, Path)) and item else item for item in value]
        if isinstance(value, (str, Path)) and value:
            return _absolute(value, folder)
    return value


def _absolute(path: str | Path, folder: Path) -> Path:
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # ~nobody
        expanded = Path(path)
    return Path(os.path.abspath(folder / expanded))


def _checked(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as failure:
        faults = failure.errors(include_url=False, include_context=False, include_input=False)
    first = faults[0]
    text = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        raise _wrong(text, "Correct the settings; `smartdj serve --print-config` shows where they come from.")
    name = str(first["loc"][0])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    what = Settings.model_fields[name].description
    origin = origins.get(name, DEFAULT)
    raise _wrong(f"{name} ({origin}): {text[:1].lower()}{text[1:]}{more}", f"{name}: {what}.", name)


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # JSON's escapes are TOML's, but for DEL, which JSON leaves bare.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(message: str, hint: str, field: str = "") -> SmartDJError:
    return SmartDJError(ErrorCode.SERVER_CONFIG, message, hint, field)
