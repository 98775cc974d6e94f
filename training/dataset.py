"""Write training examples as shards on disk.

    python -m training.dataset --kind declarative --count 1000 --seed 0 --out data/declarative --bank
    data/bank

A set is a folder of plain tar files in the WebDataset layout. Example 17 is the members ``00000017.json``
(see
`training.synthesis.describe`), ``00000017.a0.flac`` (the recording) and ``00000017.a1.flac`` … (after each
step). Audio is 24-bit FLAC of samples on a 16-bit grid, divided by the power of two that ``scale`` in the
JSON names, so that nothing clips and what is read back is bit for bit what was made. Beside each shard stand
``shard-00000.jsonl`` (the JSON of its examples, one a line) and ``shard-00000.sha256``, which ``sha256sum
-c`` reads. When all shards are there,
``manifest.json`` (settings and hashes), ``figures.json`` and ``examples.png`` follow.

The bytes depend on the settings, the clips and the versions of numpy, scipy and libsndfile only: not on the
number of jobs, nor on interruptions. A second call with the same settings checks finished shards by their
hash and makes the rest; a larger ``--count`` extends the set. With ``--ray ADDRESS`` a Ray cluster does it,
whose machines see ``--out`` under the same name.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from smartdj_agent import files
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.scatter import Work, scatter
from smartdj_agent.steps import parse_step
from training.clips import SAMPLE_RATE, SPLITS, Clip, ClipStore
from training.designer import SCENES_FOLDER, SceneKnowledge, default_knowledge
from training.readers import check_disjoint, read_clips
from training.synthesis import Example, ExampleKind, Placement, describe, example_seed, make_example

FORMAT_VERSION = 1
SHARD_SIZE = 64


@dataclass(frozen=True)
class Settings:
    """What a set is a function of, besides how many examples it has.

    Attributes
    ----------
    kind, split, placement
        As in `training.synthesis.make_example`.
    seed
        Of the whole set; each example has its own (`training.synthesis.example_seed`).
    duration_s
        Length of each recording, seconds.
    shard_size
        Examples in a shard.
    stems
        Whether the stems of every moment are kept too.
    clips_sha256, knowledge_sha256
        Hashes of the catalogue of clips and of the scene knowledge.
    """

    kind: str
    seed: int
    split: str
    placement: str
    duration_s: float
    shard_size: int
    stems: bool
    clips_sha256: str
    knowledge_sha256: str
    version: int = FORMAT_VERSION


def _fail(message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint)


def catalogue_sha256(clips: Sequence[Clip]) -> str:
    """Hash of a catalogue: label, split, kind, file name and bytes of every clip."""
    digest = hashlib.sha256()
    for clip in clips:
        name = "/".join(clip.path.parts[-3:])
        digest.update(f"{name}\t{clip.label}\t{clip.kind}\t{clip.split}\t".encode())
        digest.update(hashlib.sha256(clip.path.read_bytes()).digest())
    return digest.hexdigest()


def knowledge_sha256() -> str:
    """Hash of the files that make a design what it is: the scenes and the designer itself."""
    digest = hashlib.sha256((Path(__file__).parent / "designer.py").read_bytes())
    for path in sorted(SCENES_FOLDER.glob("*.yaml")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def encode_audio(samples: np.ndarray, scale: int) -> bytes:
    """Samples (2, n) on the 16-bit grid as 24-bit FLAC, divided by `scale`."""
    buffer = io.BytesIO()
    whole = np.rint(samples.T * np.float64(2**31 / scale))
    if np.abs(whole).max(initial=0.0) > 2**31 - 256:
        raise ValueError(f"samples reach {np.abs(samples).max():.3f}, too loud for a scale of {scale}")
    soundfile.write(buffer, whole.astype(np.int32), SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return buffer.getvalue()


def decode_audio(data: bytes, scale: int) -> np.ndarray:
    """The inverse of `encode_audio`: shape (2, n), float32, the same bits."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
    return np.ascontiguousarray(samples.T * scale, dtype=np.float32)


def _members(index: int, example: Example, stems: bool) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an example's files, the JSON first."""
    mixtures = [example.source, *(audio for _, audio in example.trajectory)]
    tracks = [track for moment in example.stems for track in moment] if stems else []
    peak = max(float(np.abs(audio).max(initial=0.0)) for audio in [*mixtures, *tracks])
    scale = 1
    while scale <= peak:
        scale *= 2
    about = {"index": index, "scale": scale, "sample_rate": SAMPLE_RATE, **describe(example)}
    yield "json", json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
    for moment, audio in enumerate(mixtures):
        yield f"a{moment}.flac", encode_audio(audio, scale)
    if stems:
        for moment, parts in enumerate(example.stems):
            for slot, part in enumerate(parts):
                before = example.stems[moment - 1][slot] if moment else None
                if part is not before:  # a stem that a step left alone is not written again
                    yield f"s{moment}-{slot}.flac", encode_audio(part, scale)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.tar"


def write_shard(
    out: Path,
    number: int,
    indices: range,
    settings: Settings,
    store: ClipStore,
    knowledge: SceneKnowledge,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Make and write a shard, its index and its hash; each file appears only when it is whole."""
    tar = out / shard_name(number)
    unfinished = files.temporary_beside(tar)
    lines: list[bytes] = []
    allowed = {clip.path for clip in store.clips}
    try:
        with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index in indices:
                example = make_example(
                    example_seed(settings.seed, settings.kind, settings.split, index),
                    settings.kind,
                    store,
                    knowledge,
                    settings.split,
                    duration_s=settings.duration_s,
                    placement=Placement(settings.placement),
                )
                assert {"/".join(path.parts[-3:]) for path in allowed} >= {e.clip for e in example.events}
                for suffix, content in _members(index, example, settings.stems):
                    # A fresh header has time, owner and group zero: the same bytes on every machine.
                    header = tarfile.TarInfo(f"{index:08d}.{suffix}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))
                    if suffix == "json":
                        lines.append(content)
                progress()
        digest = files.file_sha256(unfinished)
        files.publish(unfinished, tar, overwrite=True)
        files.write_file(tar.with_suffix(".jsonl"), b"".join(line + b"\n" for line in lines), overwrite=True)
        files.write_file(tar.with_suffix(".sha256"), f"{digest}  {tar.name}\n".encode(), overwrite=True)
    finally:
        unfinished.unlink(missing_ok=True)


def finished(out: Path, number: int, indices: range) -> bool:
    """Whether a shard is there, whole, and holds exactly these examples."""
    tar = out / shard_name(number)
    index, digest = tar.with_suffix(".jsonl"), tar.with_suffix(".sha256")
    if not (tar.exists() and index.exists() and digest.exists()):
        return False
    held = [json.loads(line)["index"] for line in index.read_text(encoding="utf-8").splitlines()]
    said = digest.read_text(encoding="utf-8").split()
    return held == list(indices) and said[:1] == [files.file_sha256(tar)]


_Tools = tuple[Settings, ClipStore, SceneKnowledge]


def _tools(*tools: Any) -> _Tools:
    return tools  # type: ignore[return-value]


def _work(out: Path, tools: _Tools, shard: tuple[int, range]) -> int:
    number, indices = shard
    if not finished(out, number, indices):  # a worker may be lost after its last write, and before it said so
        write_shard(out, number, indices, *tools)
    return len(indices)


def write_dataset(
    out: Path,
    *,
    kind: ExampleKind | str,
    count: int,
    seed: int,
    banks: Sequence[Path],
    split: str = "train",
    placement: Placement = Placement.RELEASED,
    duration_s: float = 10.0,
    shard_size: int = SHARD_SIZE,
    stems: bool = False,
    jobs: int | None = 1,
    ray: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a set of examples, or what is missing of it.

    Parameters
    ----------
    out
        Folder of the set.
    kind, split, placement, duration_s, shard_size, stems, seed
        See `Settings`.
    count
        How many examples.
    banks
        Folders of clips, in any layout that `training.readers` knows.
    jobs
        Processes; None for as many as there are cores.
    ray
        Address of a Ray cluster, as `smartdj_agent.scatter.scatter` takes it.
    console
        Where the progress bar goes; by default standard error.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    SmartDJError
        ``USAGE`` if the folder holds a set of other settings, or the clips can't be used; those of
        `smartdj_agent.scatter.scatter`.
    """
    clips = [clip for folder in banks for clip in read_clips(folder)]
    check_disjoint(clips)
    settings = Settings(
        ExampleKind(kind).value,
        seed,
        split,
        placement.value,
        duration_s,
        shard_size,
        stems,
        catalogue_sha256([clip for clip in clips if clip.split == split]),
        knowledge_sha256(),
    )
    out.mkdir(parents=True, exist_ok=True)
    _check_settings(out, settings)
    for leftover in out.glob(".*.part"):
        leftover.unlink()
    shards = {n: range(a, min(a + shard_size, count)) for n, a in enumerate(range(0, count, shard_size))}
    held = max((about["index"] + 1 for tar in _shards(out) for about in read_index(tar)), default=0)
    if held > count:
        raise _fail(
            f"{out} holds {held} examples already, more than {count}",
            "Give at least that --count, or choose another --out.",
        )
    missing = {number: indices for number, indices in shards.items() if not finished(out, number, indices)}
    if missing:
        store, knowledge = ClipStore(clips, split), default_knowledge()
        _make(out, missing, count, settings, store, knowledge, jobs, ray, console or Console(stderr=True))
    return _finish(out, shards, settings)


def _shards(out: Path) -> list[Path]:
    return [index.with_suffix(".tar") for index in sorted(out.glob("shard-*.jsonl"))]


def _check_settings(out: Path, settings: Settings) -> None:
    path = out / "settings.json"
    wanted = asdict(settings)
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))
        if other:
            raise _fail(
                f"{out} holds a set of other settings: {', '.join(other)} differ",
                "Choose another --out, or give the settings of settings.json there.",
            )
    else:
        files.write_file(path, json.dumps(wanted, indent=1, sort_keys=True).encode() + b"\n", overwrite=True)


def _make(
    out: Path,
    missing: dict[int, range],
    count: int,
    settings: Settings,
    store: ClipStore,
    knowledge: SceneKnowledge,
    jobs: int | None,
    ray: str | None,
    console: Console,
) -> None:
    columns = (
        TextColumn("examples"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    done = count - sum(len(indices) for indices in missing.values())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=count, completed=done)
        if jobs == 1 and ray is None:
            for number, indices in missing.items():
                write_shard(out, number, indices, settings, store, knowledge, lambda: progress.advance(task))
            return
        work = Work(partial(_tools, settings, store, knowledge), partial(_work, out.absolute()))
        with closing(scatter(work, list(missing.items()), ray=ray, workers=jobs)) as finishing:
            for _, examples in finishing:
                progress.advance(task, examples)


def _finish(out: Path, shards: dict[int, range], settings: Settings) -> dict[str, Any]:
    """Write manifest, figures and picture; returns the manifest."""
    from training.gallery import draw_gallery

    rows = []
    total = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for number, indices in shards.items():
        tar = out / shard_name(number)
        digest = tar.with_suffix(".sha256").read_text(encoding="utf-8").split()[0]
        total.update(digest.encode())
        rows.append({"name": tar.name, "sha256": digest, "bytes": tar.stat().st_size, "examples": len(indices)})
    manifest = {
        "settings": asdict(settings),
        "examples": sum(len(indices) for indices in shards.values()),
        "dataset_sha256": total.hexdigest(),
        "shards": rows,
    }
    abouts = [about for number in shards for about in read_index(out / shard_name(number))]
    files.write_file(
        out / "figures.json", json.dumps(figures(abouts), indent=1, sort_keys=True).encode() + b"\n", overwrite=True
    )
    chosen = np.random.default_rng(settings.seed).choice(len(abouts), min(10, len(abouts)), replace=False)
    draw_gallery(out / "examples.png", [read_example(out, int(index), settings) for index in sorted(chosen)])
    files.write_file(
        out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n", overwrite=True
    )
    return manifest


def figures(abouts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over a set: plan lengths, operations, designs, numbers of sounds, labels, unusual cases."""
    steps = [parse_step(text) for about in abouts for text in about["steps"]]

    def counted(values: Iterator[Any]) -> dict[str, int]:
        return {str(key): count for key, count in sorted(Counter(values).items(), key=lambda kv: (-kv[1], str(kv[0])))}

    begun = [[event for event in about["events"] if event["added_by"] is None] for about in abouts]
    return {
        "examples": len(abouts),
        "steps": len(steps),
        "plan_length": counted(len(about["steps"]) for about in abouts),
        "mean_plan_length": round(len(steps) / max(1, sum(bool(about["steps"]) for about in abouts)), 3),
        "operations": counted(step.operation.value for step in steps),
        "designs": counted(about["design_kind"] for about in abouts),
        "scenes": len({about["scene"] for about in abouts} - {""}),
        "questions": sum(bool(about["question"]) for about in abouts),
        "absent": sum(about["absent"] for about in abouts),
        "sounds_at_start": counted(len(events) for events in begun),
        "azimuths_at_start_deg": counted(
            int(e["azimuth_deg"]) if e["azimuth_deg"] % 45 == 0 else "between" for events in begun for e in events
        ),
        "labels": counted(event["label"] for about in abouts for event in about["events"]),
        "clips": len({event["clip"] for about in abouts for event in about["events"]}),
        "scaled": sum(about["scale"] > 1 for about in abouts),
    }


def read_index(tar: Path) -> list[dict[str, Any]]:
    """Descriptions of a shard's examples."""
    return [json.loads(line) for line in tar.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class StoredExample:
    """An example as read back.

    Attributes
    ----------
    about
        What `training.synthesis.describe` wrote, with index, scale and sample rate.
    trajectory
        a0 … an, each (2, n) float32.
    """

    about: dict[str, Any]
    trajectory: tuple[np.ndarray, ...]


def read_shard(tar: Path) -> Iterator[StoredExample]:
    """Stream a shard's examples from the start, reading each byte once; stems, where present, are skipped."""
    about: dict[str, Any] = {}
    audio: list[np.ndarray] = []
    with tarfile.open(tar, "r|") as archive:
        for member in archive:
            _, kind = member.name.split(".", 1)
            content = archive.extractfile(member)
            assert content is not None
            if kind == "json":
                if about:
                    yield StoredExample(about, tuple(audio))
                about, audio = json.loads(content.read()), []
            elif kind.startswith("a"):
                audio.append(decode_audio(content.read(), about["scale"]))
    if about:
        yield StoredExample(about, tuple(audio))


def read_example(out: Path, index: int, settings: Settings) -> StoredExample:
    """Read one example of a set."""
    tar = out / shard_name(index // settings.shard_size)
    with tarfile.open(tar) as archive:
        names = sorted(name for name in archive.getnames() if name.startswith(f"{index:08d}."))
        parts = {name.split(".", 1)[1]: archive.extractfile(name) for name in names}
        contents = {name: part.read() for name, part in parts.items() if part is not None}
    about = json.loads(contents["json"])
    moments = range(len(about["steps"]) + 1)
    return StoredExample(about, tuple(decode_audio(contents[f"a{m}.flac"], about["scale"]) for m in moments))


def main(
    kind: Annotated[ExampleKind, typer.Option(help="For the planner, or single steps for the editor.")],
    count: Annotated[int, typer.Option(min=1, help="How many examples.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")],
    out: Annotated[Path, typer.Option(help="Folder of the set.")],
    bank: Annotated[list[Path], typer.Option(help="Folder of labelled clips; may be repeated.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "train",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default 1, or as many as the cluster has cores.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Let a Ray cluster do it; local: a Ray of one's own.")
    ] = None,
    room: Annotated[bool, typer.Option("--room", help="Simulated rooms, not the released placement rule.")] = False,
    stems: Annotated[bool, typer.Option("--stems", help="Keep every sound's stem too.")] = False,
    duration: Annotated[float, typer.Option(min=1.0, max=60.0, help="Length of each recording, seconds.")] = 10.0,
    shard_size: Annotated[int, typer.Option(min=1, help="Examples in a shard.")] = SHARD_SIZE,
) -> None:
    """Write a set of training examples."""
    console = Console(stderr=True)
    try:
        if split not in SPLITS:
            raise _fail(f"split {split!r} is unknown", f"Give one of {', '.join(SPLITS)}.")
        manifest = write_dataset(
            out,
            kind=kind,
            count=count,
            seed=seed,
            banks=bank,
            split=split,
            placement=Placement.ROOM if room else Placement.RELEASED,
            duration_s=duration,
            shard_size=shard_size,
            stems=stems,
            jobs=jobs or (1 if ray is None else None),
            ray=ray,
            console=console,
        )
    except SmartDJError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.row.exit_code) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    size = sum(shard["bytes"] for shard in manifest["shards"])
    console.print(f"{out}: {manifest['examples']} examples, {len(manifest['shards'])} shards, {size / 1e6:.1f} MB")
    print(manifest["dataset_sha256"])


if __name__ == "__main__":
    # Workers know what they run by the module's own name.
    from training.dataset import main as command

    typer.run(command)
