"""Encode training pairs once, before an editor is trained on them: shards of latents on disk.

    python -m training.latents --codec runs/codec/model --folders ../shared/bank --count 100000 --seed 0
    --out data/latents --workers 8

The codec costs more than the network that learns from it (models.md §7.1). Pair *i* of a set is a pure function of its
settings and *i*: an example of `training.synthesis`, its recording before and after encoded by the codec, its step's
text as token states. A training configuration takes a set by ``data.latents: FOLDER``.

A shard is a safetensors file with ``source`` and ``edited``, shape (pairs, 2·latent_dim, T), ``states``, shape (pairs,
POOL_TOKENS, width), all float16, and ``mask``, (pairs, POOL_TOKENS), and ``alone``, (pairs,), bool; beside it stands
its hash, which ``sha256sum -c`` reads. A second call with the same settings checks finished shards and makes the rest;
a larger ``--count`` extends the set. Its bytes don't depend on how many workers there were, on interruptions, or on
``--ray``: every worker computes with as many threads (``--threads``), and every pair is encoded by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import file_sha256, write_file
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.scatter import Work, scatter
from smartdj_agent.steps import Operation, format_step
from training.clips import SPLITS, Clip, ClipStore, read_manifest
from training.dataset import catalogue_sha256, knowledge_sha256
from training.designer import default_knowledge
from training.synthesis import ExampleKind, example_seed, make_example

FORMAT_VERSION = 2
SHARD_SIZE = 256

POOL_TOKENS = 40
"""Tokens kept of a step's text in the pool; the longest spelling with the longest name has about 30."""


@dataclass(frozen=True)
class Pool:
    """Encoded pairs on the training device.

    Attributes
    ----------
    source, edited
        Shape (P, latent_dim, T), float16.
    states, mask
        Shape (P, POOL_TOKENS, width), float16, and (P, POOL_TOKENS), bool.
    alone
        Shape (P,), bool: whether the step leaves its sound alone, and takes away whatever else sounds.
    empty, empty_mask
        The same of the empty text; the mask is not padded.
    """

    source: Tensor
    edited: Tensor
    states: Tensor
    mask: Tensor
    alone: Tensor
    empty: Tensor
    empty_mask: Tensor


@dataclass(frozen=True)
class Settings:
    """What a set is a function of, besides how many pairs it has.

    Attributes
    ----------
    seed
        Of the whole set.
    split
        Of the clips.
    duration_s
        Length of the recordings, seconds.
    shard_size
        Pairs in a shard.
    threads
        Of each worker: another number gives other last bits.
    precision
        ``float32``, or ``bfloat16`` on a GPU.
    clips_sha256, knowledge_sha256, codec_sha256
        Of the clips' catalogue, the scene knowledge and the codec's weights.
    """

    seed: int
    split: str
    duration_s: float
    shard_size: int
    threads: int
    precision: str
    clips_sha256: str
    knowledge_sha256: str
    codec_sha256: str
    version: int = FORMAT_VERSION


@dataclass(frozen=True)
class _Tools:
    store: ClipStore
    codec: Codec
    encoder: SentenceEncoder
    device: str


def make_pair(tools: _Tools, settings: Settings, index: int) -> dict[str, Tensor]:
    """Make and encode one pair: shapes as in a shard, without the first axis."""
    seed = example_seed(settings.seed, ExampleKind.SINGLE.value, settings.split, index)
    example = make_example(
        seed,
        ExampleKind.SINGLE,
        tools.store,
        default_knowledge(),
        settings.split,
        duration_s=settings.duration_s,
    )
    spelled = np.random.default_rng([994, seed]).random() < 0.5
    text = example.instruction if spelled else format_step(example.steps[0])
    wave = torch.from_numpy(np.stack([example.source, example.final])).to(tools.device)
    kind = tools.device.split(":")[0]
    with (
        torch.inference_mode(),
        torch.autocast(kind, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"),
    ):
        source, edited = tools.codec.encode_stereo(wave).half().cpu()
    states, mask = padded(*tools.encoder.states([text]))
    alone = torch.tensor(example.steps[0].operation is Operation.EXTRACT)
    return {"source": source, "edited": edited, "states": states[0], "mask": mask[0], "alone": alone}


def padded(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Token states and mask as they are kept: of `POOL_TOKENS` tokens, half precision."""
    missing = POOL_TOKENS - states.shape[1]
    kept = functional.pad(states, (0, 0, 0, missing))[:, :POOL_TOKENS].half().cpu()
    return kept, functional.pad(mask, (0, missing))[:, :POOL_TOKENS].cpu()


def codec_sha256(folder: Path) -> str:
    """Hashes of a codec's weights."""
    return " ".join(file_sha256(path) for path in sorted(folder.glob("*.safetensors")))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"latents-{number:05d}.safetensors"


def write_shard(out: Path, settings: Settings, tools: _Tools, shard: tuple[int, range]) -> int:
    """Make and write a shard and its hash, unless it is there; returns how many pairs it has."""
    number, indices = shard
    if not finished(out, number, indices):
        pairs = [make_pair(tools, settings, index) for index in indices]
        columns = {name: torch.stack([pair[name] for pair in pairs]).contiguous() for name in pairs[0]}
        # One entry: of several, safetensors writes any one first.
        content = save(columns, metadata={"pairs": str(len(indices))})
        path = out / shard_name(number)
        write_file(path, content, overwrite=True)
        line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
        write_file(path.with_suffix(".sha256"), line.encode(), overwrite=True)
    return len(indices)


def finished(out: Path, number: int, indices: range) -> bool:
    """Whether a shard is there, whole, and holds exactly these pairs."""
    path = out / shard_name(number)
    digest = path.with_suffix(".sha256")
    if not (path.exists() and digest.exists()):
        return False
    if digest.read_text(encoding="utf-8").split()[:1] != [file_sha256(path)]:
        return False
    return int(_metadata(path)["pairs"]) == len(indices)


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def _tools(store: ClipStore, codec: Path, device: str) -> _Tools:
    return _Tools(
        store,
        Codec.from_pretrained(codec).eval().requires_grad_(False).to(device),
        SentenceEncoder().to(device),
        device,
    )


def write_latents(
    out: Path,
    *,
    codec: Path,
    clips: Sequence[Clip],
    count: int,
    seed: int,
    store: ClipStore | None = None,
    split: str = "train",
    duration_s: float = 2.56,
    shard_size: int = SHARD_SIZE,
    device: str = "cpu",
    workers: int | None = None,
    threads: int = 1,
    ray: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a set of encoded pairs, or what is missing of it.

    Parameters
    ----------
    out
        Folder of the set.
    codec
        Folder of the codec's weights.
    clips, store
        The catalogue, and the clips of `split` where they are loaded already.
    count
        How many pairs.
    seed, split, duration_s, shard_size
        See `Settings`.
    device
        Where the codec runs.
    workers, threads, ray
        See `smartdj_agent.scatter.scatter`.
    console
        Where the progress bar goes; by default standard error.

    Returns
    -------
    dict
        The manifest: settings, shards with their hashes, ``latents_sha256`` of all.

    Raises
    ------
    SmartDJError
        ``USAGE`` if the folder holds a set of other settings; those of `smartdj_agent.scatter.scatter`.
    """
    settings = Settings(
        seed,
        split,
        duration_s,
        shard_size,
        threads,
        "bfloat16" if device.startswith("cuda") else "float32",
        catalogue_sha256([clip for clip in clips if clip.split == split]),
        knowledge_sha256(),
        codec_sha256(codec),
    )
    out.mkdir(parents=True, exist_ok=True)
    known, wanted = out / "settings.json", json.dumps(asdict(settings), indent=1, sort_keys=True).encode() + b"\n"
    if known.exists() and known.read_bytes() != wanted:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{out} holds a set of other settings",
            "choose another --out, or give the settings of settings.json there",
        )
    write_file(known, wanted, overwrite=True)
    for leftover in out.glob(".*.part"):
        leftover.unlink()
    shards = {n: range(a, min(a + shard_size, count)) for n, a in enumerate(range(0, count, shard_size))}
    missing = [(number, indices) for number, indices in shards.items() if not finished(out, number, indices)]
    columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        done = count - sum(len(indices) for _, indices in missing)
        task = progress.add_task("", total=count, completed=done)
        if missing:
            loaded = store or ClipStore(clips, split)
            prepare = partial(_tools, loaded, codec.absolute(), device)
            work = Work(prepare, partial(write_shard, out.absolute(), settings))
            gpus = 1.0 if device.startswith("cuda") else 0.0
            with closing(scatter(work, missing, ray=ray, workers=workers, threads=threads, gpus=gpus)) as finishing:
                for _, pairs in finishing:
                    progress.advance(task, pairs)
    rows = [
        {"name": shard_name(n), "sha256": file_sha256(out / shard_name(n)), "pairs": len(i)} for n, i in shards.items()
    ]
    total = hashlib.sha256(wanted + "".join(str(row["sha256"]) for row in rows).encode()).hexdigest()
    manifest = {"settings": asdict(settings), "pairs": count, "latents_sha256": total, "shards": rows}
    write_file(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n", overwrite=True)
    return manifest


def read_pool(folder: Path, encoder: SentenceEncoder, codec: Path, device: str) -> Pool:
    """Load a whole set for training.

    Raises
    ------
    SmartDJError
        ``USAGE`` where the set isn't complete, or was made with another codec.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SmartDJError(
            ErrorCode.USAGE, f"{folder} holds no complete set of latents", "run training.latents to its end first"
        ) from error
    if manifest["settings"]["codec_sha256"] != codec_sha256(codec):
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{folder} was made with another codec than {codec}",
            "make it again, or train with that one",
        )
    shards = [load_file(folder / row["name"]) for row in manifest["shards"]]
    whole = {name: torch.cat([shard[name] for shard in shards]).to(device) for name in shards[0]}
    states, mask = encoder.states([""])
    empty = functional.pad(states, (0, 0, 0, POOL_TOKENS - states.shape[1])).half()
    return Pool(**whole, empty=empty[0], empty_mask=mask[0])


def main(
    codec: Annotated[Path, typer.Option(help="Folder of the codec's weights.")],
    folders: Annotated[list[Path], typer.Option(help="Folder of labelled clips with a manifest.csv; may be repeated.")],
    count: Annotated[int, typer.Option(min=1, help="How many pairs.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")],
    out: Annotated[Path, typer.Option(help="Folder of the set.")],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "train",
    cache: Annotated[Path | None, typer.Option(help="Folder for the packed clips, as in training.")] = None,
    duration: Annotated[float, typer.Option(min=1.0, max=60.0, help="Length of each recording, seconds.")] = 2.56,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs in a shard.")] = SHARD_SIZE,
    device: Annotated[str, typer.Option(help="Where the codec runs: cpu, cuda, cuda:1 …")] = "cpu",
    workers: Annotated[int | None, typer.Option(min=1, help="Pairs at a time; by default one per core.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker; another number, other last bits.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Let a Ray cluster do it; local: a Ray of one's own.")
    ] = None,
) -> None:
    """Encode training pairs."""
    console = Console(stderr=True)
    try:
        if split not in SPLITS:
            raise SmartDJError(ErrorCode.USAGE, f"split {split!r} is unknown", f"give one of {', '.join(SPLITS)}")
        manifest = write_latents(
            out,
            codec=codec,
            clips=[clip for folder in folders for clip in read_manifest(folder)],
            store=ClipStore.open(folders, split, cache),
            count=count,
            seed=seed,
            split=split,
            duration_s=duration,
            shard_size=shard_size,
            device=device,
            workers=workers,
            threads=threads,
            ray=ray,
            console=console,
        )
    except SmartDJError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.row.exit_code) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    console.print(f"{out}: {manifest['pairs']} pairs, {len(manifest['shards'])} shards")
    print(manifest["latents_sha256"])


if __name__ == "__main__":
    # Workers know what they run by the module's own name.
    from training.latents import main as command

    typer.run(command)
