"""The clip bank, made from Debian packages by a committed recipe.

``python -m training.bank build --out DIR`` downloads each package, renders every clip that the recipe names
and writes
``DIR/manifest.csv``; a second call makes only what is missing. ``python -m training.bank compare DIR OTHER``
says how close two banks are. The recipe (``bank_recipe/recipe.csv.gz``) holds facts about packages and no
audio.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import scipy.signal
import soundfile
import soxr
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from smartdj_agent.errors import ErrorCode, SmartDJError
from training.archives import ArchiveError, read_member

RECIPE = Path(__file__).parent / "bank_recipe" / "recipe.csv.gz"
BANK_RATE = 32_000
PEAK_DB = -3.0
SHORTEST_S = 0.14
"""The recipe's clips have 0.15 s or more; a few milliseconds of trimming are left to the decoder."""
SILENCE_DB = -50.0
"""A clip begins and ends where a sample is above this, relative to its peak."""
KEEP_BEFORE_S, KEEP_AFTER_S = 0.010, 0.025
CUTS_S = (2.5, 5.0, 6.0, 10.0)
"""Instruments, transients, continuous sounds, and a few long ambiences."""
FADE_CONTINUOUS_S, FADE_S = 0.020, 0.250

TOOL_PACKAGES = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "ffmpeg": "ffmpeg",
    "fluidsynth": "fluidsynth",
    "espeak-ng": "espeak-ng",
    "flite": "flite",
}
_SPEECH = ("espeak-ng ", "flite ")
_SOUNDFONT = re.compile(
    r"^(?P<font>.+\.sf2)#bank(?P<bank>\d+)/prog(?P<program>\d+)/key(?P<keys>[\d+]+)/vel(?P<velocity>\d+)$"
)
_PIECE = re.compile(r"@(?P<start>[\d.]+)s$")
_LOOPED = re.compile(r"#looped-to-(?P<length>[\d.]+)s$")


@dataclass(frozen=True)
class Row:
    """One clip of the recipe; the columns of a bank's manifest, in their order.

    Attributes
    ----------
    path
        Relative to the bank's folder.
    duration_s, native_rate
        Length of the finished clip, seconds; sample rate of the source, Hz.
    package_path
        Where the sound is: a path in the package, ``!/ARCHIVE/MEMBER``, ``FONT.sf2#bankB/progP/keyK/velV``,
        or the command line of a speech synthesiser; ``@12.0s`` and ``#looped-to-4s`` at the end choose a
        piece or a loop.
    """

    path: str
    label: str
    category: str
    kind: str
    duration_s: float
    native_rate: int
    package: str
    package_version: str
    package_path: str
    licence: str
    split: str


class ClipError(Exception):
    """One clip can't be made; the others still can."""


def _rows(text: Iterable[str]) -> list[Row]:
    rows = []
    for row in csv.DictReader(text):
        texts = {name: value for name, value in row.items() if name not in ("duration_s", "native_rate")}
        rows.append(Row(duration_s=float(row["duration_s"]), native_rate=int(row["native_rate"]), **texts))
    return rows


def read_recipe(recipe: Path = RECIPE) -> list[Row]:
    """Read the recipe, in its order (by path)."""
    with gzip.open(recipe, "rt", encoding="utf-8", newline="") as file:
        return _rows(file)


def tool(name: str) -> str:
    """Path of an external program.

    Raises
    ------
    SmartDJError
        ``USAGE`` if it is not installed; the hint names the Debian package that has it.
    """
    found = shutil.which(name)
    if found is None:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"the program {name} is not installed",
            f"install it: apt-get install {TOOL_PACKAGES[name]}",
        )
    return found


def tools_needed(rows: Sequence[Row]) -> list[str]:
    """Programs without which these rows can't be made (ffmpeg is looked up only when a file needs it)."""
    needed = {"apt-get", "dpkg-deb"} if any(not row.package_path.startswith(_SPEECH) for row in rows) else set()
    needed |= {"fluidsynth" for row in rows if _SOUNDFONT.match(row.package_path)}
    needed |= {row.package_path.split()[0] for row in rows if row.package_path.startswith(_SPEECH)}
    return sorted(needed)


def fetch_package(package: str, version: str, folder: Path) -> tuple[Path, str]:
    """Download a package and unpack it below `folder`.

    Returns
    -------
    root, warning
        The unpacked tree; a sentence if another version than the recipe's had to do, else an empty string.

    Raises
    ------
    ClipError
        If the package can't be downloaded or unpacked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    warning = ""
    for wanted in (f"{package}={version}", package):
        ran = subprocess.run([tool("apt-get"), "download", "-q", wanted], cwd=folder, capture_output=True, text=True)
        if ran.returncode == 0:
            break
        warning = f"{package} {version} is not to be had, so the available version is used: clips may differ"
    else:
        said = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise ClipError(f"can't download {package}: {said} (run apt-get update first; needs a Debian 12 source list)")
    deb = next(folder.glob(f"{package}_*.deb"))
    root = folder / "root"
    unpacked = subprocess.run([tool("dpkg-deb"), "-x", str(deb), str(root)], capture_output=True, text=True)
    deb.unlink()
    if unpacked.returncode != 0:
        raise ClipError(f"can't unpack {package}: {unpacked.stderr.strip()}")
    return root, warning


def note_times_s(
    count: int, drums: bool, effect: bool, duration_s: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """When the notes of a soundfont clip start and how long they are held, seconds.

    The recipe doesn't say, so these were measured on the bank's clips (by correlation, over a grid of 1 ms).

    Parameters
    ----------
    count
        How many notes.
    drums
        Whether they are drum hits.
    effect
        Whether the clip is a sound effect and no instrument.
    duration_s
        Length of the finished clip: it tells the two lengths apart for which a single note is held.
    """
    if drums:
        return (0.0, 0.349, 0.699)[:count], (0.3,) * count
    if count == 1 and effect:
        return (0.0,), (6.0 if duration_s > 5.9 else 5.0,)
    if count == 1:
        return (0.0,), (2.0 if duration_s >= 2.45 else 1.2,)
    if count == 2:
        return (0.0, 0.449), (0.4, 1.4)
    return tuple(0.55 * index for index in range(count)), (0.5,) * count


def midi_file(bank: int, program: int, keys: Sequence[int], velocity: int, *, effect: bool, duration_s: float) -> bytes:
    """A format 0 MIDI file at 1,000 ticks a second that plays `keys` one after another (bank 128 is drums).

    `effect` and `duration_s` are passed on to `note_times_s`.
    """
    drums = bank == 128
    channel = 9 if drums else 0
    events: list[tuple[int, int, bytes]] = [(0, 0, b"\xff\x51\x03" + (1_000_000).to_bytes(3, "big"))]
    if not drums:
        events.append((0, 1, bytes([0xB0 | channel, 0, bank])))
    events.append((0, 2, bytes([0xC0 | channel, program])))
    starts, holds = note_times_s(len(keys), drums, effect, duration_s)
    for key, start, hold in zip(keys, starts, holds, strict=True):
        events.append((round(1000 * start), 4, bytes([0x90 | channel, key, velocity])))
        events.append((round(1000 * (start + hold)), 3, bytes([0x80 | channel, key, 0])))
    last = max(tick for tick, _, _ in events)
    events.append((last + 6000, 5, b"\xff\x2f\x00"))  # silence at the end, so that the release is rendered
    track, now = b"", 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        delta = tick - now
        now = tick
        size = bytes([delta & 0x7F])
        while delta := delta >> 7:
            size = bytes([0x80 | (delta & 0x7F)]) + size
        track += size + message
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 1000) + b"MTrk" + struct.pack(">I", len(track)) + track


def _run_to_wav(command: Sequence[str], wav: Path) -> tuple[np.ndarray, int]:
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0 or not wav.exists():
        said = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise ClipError(f"{Path(command[0]).name} failed: {said}")
    samples, rate = soundfile.read(wav, dtype="float64", always_2d=True)
    return samples.T, rate


def _speech(command: str, folder: Path) -> tuple[np.ndarray, int]:
    """Run a synthesiser's command line, with its output sent to a file."""
    program, rest = command.split(" ", 1)
    options, _, text = rest.partition('"')
    wav = folder / "speech.wav"
    target = ["-w", str(wav)] if program == "espeak-ng" else ["-o", str(wav)]
    return _run_to_wav([tool(program), *target, *options.split(), text.removesuffix('"')], wav)


def _soundfont(match: re.Match[str], root: Path, row: Row, folder: Path) -> tuple[np.ndarray, int]:
    keys = [int(key) for key in match["keys"].split("+")]
    score, wav = folder / "score.mid", folder / "notes.wav"
    score.write_bytes(
        midi_file(
            int(match["bank"]),
            int(match["program"]),
            keys,
            int(match["velocity"]),
            effect=row.category != "instrument",
            duration_s=row.duration_s,
        )
    )
    font = root / match["font"].lstrip("/")
    options = ["-n", "-i", "-q", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(row.native_rate), "-O", "float"]
    return _run_to_wav([tool("fluidsynth"), *options, "-F", str(wav), str(font), str(score)], wav)


def _decode(data: bytes, name: str, folder: Path) -> tuple[np.ndarray, int]:
    """Decode a sound file's bytes: soundfile, and ffmpeg where it can't."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
        return samples.T, rate
    except soundfile.LibsndfileError:
        source, wav = folder / f"source{Path(name).suffix}", folder / "decoded.wav"
        source.write_bytes(data)
        return _run_to_wav([tool("ffmpeg"), "-v", "error", "-y", "-i", str(source), str(wav)], wav)


def read_source(row: Row, root: Path | None) -> tuple[np.ndarray, int]:
    """Read or synthesise the sound that a row is cut from.

    Parameters
    ----------
    row
        The recipe's row.
    root
        The unpacked package; None for synthesised speech.

    Returns
    -------
    samples, sample_rate
        Shape (channels, n), float64; Hz.

    Raises
    ------
    ClipError
        If the file is missing from the package or can't be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if row.package_path.startswith(_SPEECH):
            return _speech(row.package_path, folder)
        if root is None:
            raise ClipError("no package was unpacked")
        if match := _SOUNDFONT.match(row.package_path):
            return _soundfont(match, root, row, folder)
        place = _LOOPED.sub("", _PIECE.sub("", row.package_path))
        try:
            if place.startswith("!/"):
                archive_name, _, member = place[2:].partition("/")
                archive = next(iter(sorted(root.rglob(archive_name))), None)
                if archive is None:
                    raise ClipError(f"the package has no archive {archive_name}")
                data = read_member(archive, member)
            else:
                data = (root / place.lstrip("/")).read_bytes()
        except (OSError, ArchiveError) as error:
            raise ClipError(str(error)) from error
        return _decode(data, place, folder)


def prepare(samples: np.ndarray, sample_rate: int, row: Row) -> np.ndarray:
    """Turn a source into a clip: mono, trimmed, cut, faded, peak −3 dBFS.

    Parameters
    ----------
    samples
        Shape (channels, n).
    sample_rate
        Hz.
    row
        Its `package_path` names the piece, its kind and duration choose the cut.

    Returns
    -------
    np.ndarray
        Shape (n,), float32, at 32 kHz.

    Raises
    ------
    ClipError
        If less than `SHORTEST_S` is audible.
    """
    mono = samples.mean(axis=0)
    if np.sum(mono**2) < 0.05 * np.mean(np.sum(samples**2, axis=1)):
        mono = samples[0]  # the channels cancel
    mono = mono - mono.mean()
    if sample_rate != BANK_RATE:
        mono = soxr.resample(mono, sample_rate, BANK_RATE, quality="HQ")
    if loop := _LOOPED.search(row.package_path):
        length = round(float(loop["length"]) * BANK_RATE)
        mono = np.tile(mono, -(-length // max(1, mono.size)))[:length]
    if piece := _PIECE.search(row.package_path):
        mono = mono[round(float(piece["start"]) * BANK_RATE) :]
    peak = float(np.abs(mono).max(initial=0.0))
    if peak == 0.0:
        raise ClipError("silent")
    loud = np.flatnonzero(np.abs(mono) > peak * 10 ** (SILENCE_DB / 20))
    first = max(0, int(loud[0]) - round(KEEP_BEFORE_S * BANK_RATE))
    mono = mono[first : int(loud[-1]) + 1 + round(KEEP_AFTER_S * BANK_RATE)].copy()
    cut = round(next((cut for cut in CUTS_S if cut >= row.duration_s - 1e-3), CUTS_S[-1]) * BANK_RATE)
    if mono.size > cut:
        mono = mono[:cut]
        fade = round((FADE_CONTINUOUS_S if row.kind == "continuous" else FADE_S) * BANK_RATE)
        mono[-fade:] *= np.linspace(1.0, 0.0, fade)
    if mono.size < SHORTEST_S * BANK_RATE:
        raise ClipError(f"only {mono.size / BANK_RATE:.3f} s are audible")
    return (mono * 10 ** (PEAK_DB / 20) / np.abs(mono).max()).astype(np.float32)


def write_clip(path: Path, samples: np.ndarray) -> None:
    """Write a clip as 16-bit FLAC; the file appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    soundfile.write(partial, samples, BANK_RATE, format="FLAC", subtype="PCM_16")
    os.replace(partial, path)


def build_package(rows: Sequence[Row], out: Path) -> tuple[int, list[str]]:
    """Make all clips of one package.

    Returns
    -------
    made, problems
        How many clips were written, and a line for each that was not (and for a version that differs).
    """
    problems: list[str] = []
    made = 0
    with tempfile.TemporaryDirectory(prefix="smartdj-bank-") as scratch:
        root: Path | None = None
        if any(not row.package_path.startswith(_SPEECH) for row in rows):
            try:
                root, warning = fetch_package(rows[0].package, rows[0].package_version, Path(scratch))
            except ClipError as error:
                return 0, [str(error)]
            problems += [warning] if warning else []
        for row in rows:
            try:
                write_clip(out / row.path, prepare(*read_source(row, root), row))
                made += 1
            except ClipError as error:
                problems.append(f"{row.path}: {error}")
    return made, problems


def write_manifest(out: Path, recipe: Sequence[Row]) -> int:
    """Write ``manifest.csv`` for those rows of the recipe whose clip is there; returns how many."""
    present = [
        replace(row, duration_s=round(soundfile.info(out / row.path).duration, 3))
        for row in recipe
        if (out / row.path).exists()
    ]
    partial = out / ".manifest.csv.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "duration_s": f"{row.duration_s:.3f}"} for row in present)
    os.replace(partial, out / "manifest.csv")
    return len(present)


def build(
    out: Path,
    *,
    labels: Sequence[str] = (),
    packages: Sequence[str] = (),
    jobs: int = 1,
    console: Console | None = None,
) -> tuple[int, list[str]]:
    """Build what is missing of the bank.

    Parameters
    ----------
    out
        The bank's folder.
    labels, packages
        Build only these; by default all.
    jobs
        Packages worked on at once.
    console
        Where the progress bar goes; by default standard error.

    Returns
    -------
    n_clips, problems
        Clips that the bank now has, and a line for each problem.

    Raises
    ------
    SmartDJError
        ``USAGE`` for an unknown label or package, or a missing program.
    """
    recipe = read_recipe()
    for wanted, known, what in (
        (labels, {row.label for row in recipe}, "label"),
        (packages, {row.package for row in recipe}, "package"),
    ):
        for name in wanted:
            if name not in known:
                raise SmartDJError(
                    ErrorCode.USAGE,
                    f"the recipe has no {what} {name!r}",
                    "python -m training.bank labels lists them",
                )
    rows = [
        row
        for row in recipe
        if (not labels or row.label in labels)
        and (not packages or row.package in packages)
        and not (out / row.path).exists()
    ]
    for name in tools_needed(rows):
        tool(name)
    out.mkdir(parents=True, exist_ok=True)
    by_package: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_package.setdefault((row.package, row.package_version), []).append(row)
    problems: list[str] = []
    columns = (
        TextColumn("clips"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with (
        Progress(*columns, console=console or Console(stderr=True)) as progress,
        ProcessPoolExecutor(jobs) as pool,
    ):
        task = progress.add_task("", total=len(rows))
        running = {pool.submit(build_package, group, out): group for group in by_package.values()}
        for done in as_completed(running):
            made, said = done.result()
            problems += said
            progress.update(task, advance=made, description=running[done][0].package)
    return write_manifest(out, recipe), problems


@dataclass(frozen=True)
class ClipComparison:
    """How one clip of a bank compares with the same clip of another.

    Attributes
    ----------
    path
        The clip.
    correlation
        Largest normalised cross-correlation of the two over all lags, 0 to 1.
    lag_s, length_difference_s
        How much later and longer the first is, seconds.
    """

    path: str
    correlation: float
    lag_s: float
    length_difference_s: float


def compare_clips(path: str, first: np.ndarray, second: np.ndarray) -> ClipComparison:
    """Compare two clips, shape (n,) each, at 32 kHz."""
    product = scipy.signal.correlate(first, second, "full", method="fft")
    best = int(np.abs(product).argmax())
    scale = float(np.sqrt(np.sum(first**2) * np.sum(second**2)))
    return ClipComparison(
        path,
        float(abs(product[best])) / max(scale, 1e-12),
        (best - (len(second) - 1)) / BANK_RATE,
        (len(first) - len(second)) / BANK_RATE,
    )


def compare(first: Path, second: Path) -> list[ClipComparison]:
    """Compare the clips that two banks have in common, by path."""
    shared = [row.path for row in read_recipe() if (first / row.path).exists() and (second / row.path).exists()]
    return [
        compare_clips(path, *(soundfile.read(folder / path, dtype="float64")[0] for folder in (first, second)))
        for path in shared
    ]


app = typer.Typer(add_completion=False, no_args_is_help=True, help="Build and compare the clip bank.")


@app.command("build")
def build_command(
    out: Annotated[Path, typer.Option(help="Folder of the bank; what is there already is kept.")],
    only: Annotated[list[str] | None, typer.Option(help="Build only this label; may be repeated.")] = None,
    package: Annotated[list[str] | None, typer.Option(help="Build only this package; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Packages worked on at once.")] = 1,
) -> None:
    """Build the bank from Debian packages."""
    console = Console(stderr=True)
    try:
        count, problems = build(out, labels=only or (), packages=package or (), jobs=jobs, console=console)
    except SmartDJError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.row.exit_code) from None
    for problem in problems:
        console.print(f"warning: {problem}", markup=False, soft_wrap=True)
    console.print(f"{out}: {count} clips, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(help="A bank.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    threshold: Annotated[float, typer.Option(help="Correlation from which two clips count as the same.")] = 0.99,
) -> None:
    """Compare the clips that two banks share, package by package."""
    found = {item.path: item for item in compare(first, second)}
    by_package: dict[str, list[ClipComparison]] = {}
    for row in read_recipe():
        if row.path in found:
            by_package.setdefault(row.package, []).append(found[row.path])
    for package, items in sorted(by_package.items()):
        values = [item.correlation for item in items]
        close = sum(value >= threshold for value in values)
        print(
            f"{package}: {len(items)} clips, {close} at {threshold} or more; "
            f"median {np.median(values):.4f}, least {min(values):.4f} ({items[int(np.argmin(values))].path})"
        )
    close = sum(item.correlation >= threshold for item in found.values())
    print(f"all: {close} of {len(found)} clips correlate at {threshold} or more")


@app.command("labels")
def labels_command() -> None:
    """List the recipe's labels, categories and how many clips each has."""
    counts: dict[tuple[str, str], int] = {}
    for row in read_recipe():
        counts[row.category, row.label] = counts.get((row.category, row.label), 0) + 1
    for (category, label), count in sorted(counts.items()):
        print(f"{category}\t{label}\t{count}")


if __name__ == "__main__":
    app()
