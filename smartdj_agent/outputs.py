"""What a run is going to write, checked before anything is computed.

A run that would fail at its last second (the file exists, the folder is read-only, the disk is full) fails
in its first instead. The checks are advisory: writing itself is atomic and refuses to overwrite, so a file
that appears between check and write is safe as well.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import exists_error

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_agent.steps import Step

BYTES_PER_SAMPLE = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
"""Size of one sample by soundfile's subtype; compressed subtypes are counted as 16 bit, an upper bound."""

REPORT_BYTES = 48 * 2**20
"""More than the largest report takes: its players share a fixed budget (`report.PLAYERS_PCM_BYTES`)."""

SPARE_BYTES = 8 * 2**20
"""Free space that a run leaves on the disk."""

LOSSLESS_SUFFIXES = frozenset({".wav", ".flac", ".aif", ".aiff", ".caf", ".w64", ".rf64"})
_STEP_FILE = re.compile(r"^\d{2,}-.+\.(wav|flac|aif|aiff|caf|w64|rf64)$")


@dataclass(frozen=True)
class Outputs:
    """The files that one run writes; None where a kind isn't asked for.

    Attributes
    ----------
    audio
        The edited recording.
    report, plan
        The HTML page and the plan file.
    steps_dir
        Folder for the recording after every step; made when the first step is done.
    overwrite
        Whether existing files may be replaced; the source never is.
    """

    audio: Path | None = None
    report: Path | None = None
    plan: Path | None = None
    steps_dir: Path | None = None
    overwrite: bool = False

    def named(self) -> list[tuple[str, Path]]:
        """Return (option, path) of every single file that is asked for."""
        files = [("--output", self.audio), ("--report", self.report), ("--plan-out", self.plan)]
        return [(option, path) for option, path in files if path is not None]


def check_outputs(outputs: Outputs, sources: list[Path]) -> None:
    """Check everything that can be known before the plan is.

    Parameters
    ----------
    outputs
        What will be written.
    sources
        Files that are read; none of them may be written, under whatever name (symbolic or hard link).

    Raises
    ------
    SmartDJError
        USAGE (two outputs are one file), OUTPUT_IS_INPUT, OUTPUT_EXISTS, OUTPUT_UNWRITABLE,
        AUDIO_UNSUPPORTED (the output's suffix); `field` names the option where that isn't plain from the
        message.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.named():
        place = path.parent.resolve() / path.name
        if place in seen:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"{seen[place]} and {option} name the same file: {path}",
                "give each output its own name",
                field=option,
            )
        seen[place] = option
        _check_file(path, option, sources, outputs.overwrite)
    if outputs.audio is not None:
        from smartdj_agent.audio import AudioFormat, output_format

        output_format(outputs.audio, AudioFormat())
    if outputs.steps_dir is not None:
        _check_steps_dir(outputs.steps_dir, outputs.overwrite)


def step_file_name(number: int, step: Step, suffix: str = ".wav") -> str:
    """Return the name of the file that holds the recording after one step.

    Parameters
    ----------
    number
        Position among the enabled steps, from 1.
    step
        What is done; its operation and sound become part of the name.
    suffix
        Ending with its dot.

    Returns
    -------
    str
        For example ``01-remove-dog-barking.wav``; letters, digits and hyphens only, at most about 60
        characters.
    """
    slug = re.sub(r"[^\w]+", "-", step.target.lower(), flags=re.UNICODE).strip("-_")
    return f"{number:02d}-{step.operation.value}-{slug[:48].rstrip('-') or 'sound'}{suffix}"


def step_files(outputs: Outputs, steps: list[Step]) -> list[Path]:
    """Return the path of each enabled step's file, in order; empty where no folder is asked for."""
    if outputs.steps_dir is None:
        return []
    suffix = outputs.audio.suffix.lower() if outputs.audio is not None else ".wav"
    suffix = suffix if suffix in LOSSLESS_SUFFIXES else ".wav"
    return [outputs.steps_dir / step_file_name(i, step, suffix) for i, step in enumerate(steps, start=1)]


def check_step_files(outputs: Outputs, files: list[Path], sources: list[Path]) -> None:
    """Check the files of a plan's steps, whose names are known once the plan is.

    Raises
    ------
    SmartDJError
        USAGE where a step's file is another output; else as `check_outputs`.
    """
    named = {path.parent.resolve() / path.name: option for option, path in outputs.named()}
    for path in files:
        place = path.parent.resolve() / path.name
        if place in named:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"{named[place]} and a step's file have the same name: {path}",
                "give --steps-dir a folder of its own",
                field="--steps-dir",
            )
        if os.path.lexists(path):
            _check_file(path, "--steps-dir", sources, outputs.overwrite)


def check_holds(path: Path, audio: Audio) -> None:
    """Check that the output's container can hold this recording: its number of channels and its rate.

    Raises
    ------
    SmartDJError
        AUDIO_UNSUPPORTED, for example for eight channels in an MP3 file.
    """
    import io

    import soundfile

    from smartdj_agent.audio import output_format

    wanted = output_format(path, audio.format)
    try:
        soundfile.SoundFile(
            io.BytesIO(),
            "w",
            audio.sample_rate,
            audio.channels,
            wanted.subtype,
            wanted.endian,
            wanted.container,
        ).close()
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise SmartDJError(
            ErrorCode.AUDIO_UNSUPPORTED,
            f"{path}: {wanted.container} can't hold {audio.channels} channels at {audio.sample_rate:,} Hz",
            "use .wav",
            field="--output",
        ) from error


def check_disk_space(outputs: Outputs, audio: Audio, n_step_files: int) -> None:
    """Check that every disk has room for what will lie on it, before it is computed.

    Parameters
    ----------
    outputs
        What will be written.
    audio
        The recording; outputs have its rate, length, channels and bit depth.
    n_step_files
        How many steps will be written to the folder for steps.

    Raises
    ------
    SmartDJError
        DISK_FULL with the space needed and free, in MB.
    """
    sample_bytes = BYTES_PER_SAMPLE.get(audio.format.subtype, 2)
    audio_bytes = audio.n_samples * audio.channels * sample_bytes
    wanted: list[tuple[Path, int]] = []
    if outputs.audio is not None:
        wanted.append((outputs.audio.parent, audio_bytes))
    if outputs.report is not None:
        wanted.append((outputs.report.parent, min(REPORT_BYTES, 4 * 2**20 + 12 * audio_bytes)))
    if outputs.steps_dir is not None:
        wanted.append((_existing(outputs.steps_dir), n_step_files * audio_bytes))
    needed: dict[int, tuple[Path, int]] = {}
    for folder, size in wanted:
        device = folder.stat().st_dev
        needed[device] = (folder, needed.get(device, (folder, 0))[1] + size)
    for folder, size in needed.values():
        free = shutil.disk_usage(folder).free
        if free < size + SPARE_BYTES:
            raise SmartDJError(
                ErrorCode.DISK_FULL,
                f"too little space in {folder}: {_mb(size + SPARE_BYTES)} needed, {_mb(free)} free",
                "free some space or write to another disk",
            )


def earlier_step_files(outputs: Outputs, files: list[Path]) -> list[Path]:
    """Return step files in the folder that this run doesn't replace: leftovers of an earlier run."""
    if outputs.steps_dir is None or not outputs.steps_dir.is_dir():
        return []
    names = {path.name for path in files}
    return sorted(p for p in outputs.steps_dir.iterdir() if _STEP_FILE.match(p.name) and p.name not in names)


def _check_file(path: Path, option: str, sources: list[Path], overwrite: bool) -> None:
    for source in sources:
        if _same_file(path, source):
            raise SmartDJError(
                ErrorCode.OUTPUT_IS_INPUT,
                f"the output is the input: {path}",
                "write to another file; the input is never changed",
                field=option,
            )
    if path.is_dir():
        raise SmartDJError(ErrorCode.OUTPUT_UNWRITABLE, f"{path} is a folder", "give the name of a file", field=option)
    if os.path.lexists(path):
        if not overwrite:
            raise exists_error(path, option)
        if not path.is_symlink() and not stat.S_ISREG(path.stat().st_mode):
            raise SmartDJError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"{path} is not a regular file",
                "give another name",
                field=option,
            )
    _check_folder(Path(os.path.realpath(path)).parent, option)


def _check_folder(folder: Path, option: str) -> None:
    if not folder.is_dir():
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"the folder {folder} doesn't exist",
            f"make it (mkdir -p {folder}) or give another name",
            field=option,
        )
    # Asked of the file system itself: permission bits say nothing about read-only mounts, quotas or root.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SmartDJError(
                ErrorCode.DISK_FULL, f"no space left in {folder}", "free some space or write to another disk"
            ) from error
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"can't write in the folder {folder}: {error.strerror or error}",
            "check its permissions or write somewhere else",
            field=option,
        ) from error


def _check_steps_dir(folder: Path, overwrite: bool) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"--steps-dir needs a folder, {folder} is a file",
            "give the name of a folder; it is made where it doesn't exist",
            field="--steps-dir",
        )
    if folder.is_dir():
        _check_folder(folder, "--steps-dir")
        taken = sorted(path.name for path in folder.iterdir() if _STEP_FILE.match(path.name))
        if taken and not overwrite:
            raise SmartDJError(
                ErrorCode.OUTPUT_EXISTS,
                f"{folder} already holds the steps of a run ({taken[0]}{', …' if len(taken) > 1 else ''})",
                "give another folder or --overwrite",
                field="--steps-dir",
            )
    else:
        _check_folder(_existing(folder), "--steps-dir")


def _same_file(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except OSError:
        return path.resolve() == source.resolve()


def _existing(folder: Path) -> Path:
    """Return the nearest folder that exists: the one that a new folder will be made in."""
    for candidate in (folder, *folder.absolute().parents):
        if candidate.exists():
            return candidate
    return Path(folder.anchor or ".")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
