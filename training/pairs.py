"""Write the planner's text pairs: what was heard and what is asked → plan, at the paper's scale by one command.

    python -m training.pairs --out data/pairs

writes 240,000 training and 2,000 test pairs. A set is a folder of gzipped JSON lines: ``train-00000.jsonl.gz``,
…, ``test-00000.jsonl.gz``, and, when all are there, ``manifest.json`` (settings and hashes). A line holds

``index``         number of the pair in its split
``heard``         the listener's findings as the planner sees them, surest first: label, confidence, level_db,
                  azimuth_deg (negative is left, null where unclear), start_s, end_s; with the listener's mistakes
``instruction``   what the person says
``plans``         texts of plans that are right, the reference first; for a question its text and choices
``present``       what is truly there: label and azimuth_deg
``kind``, ``style``, ``traits``, ``scene``, ``constraints``   see `training.designer.Design`

A pair is a pure function of seed, split and index, so the bytes depend neither on the number of processes nor on
interruptions. The same command goes on where a killed one stopped: finished files are read and checked, the rest is
made; larger counts extend a set. Hashes are taken over the JSON lines before compression, so that they are the same
with every version of zlib. Scenes and wordings of the two splits are disjoint (`training.designer.Templates`).
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smartdj_agent.constraints import Constraint, ConstraintKind
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.planner_lm import EventToken
from smartdj_agent.plan_text import plan_text
from training.dataset import knowledge_sha256
from training.designer import ScenePresent, alternative_plans, default_knowledge
from training.planner import answer_text, heard_events, make_plan_example

FORMAT_VERSION = 1
TRAIN_COUNT, TEST_COUNT = 240_000, 2_000
"""The paper's numbers of pairs."""
SHARD_SIZE = 4_000
ALTERNATIVES = 2
"""Further plans of a pair, where its scene leaves a choice."""
SPLITS = ("train", "test")
TEST_SEED = 0
"""The 2,000 test pairs of this seed are the held-out set that planners are judged on."""
_STREAM = 240_007
"""First number of every pair's seed: keeps the pairs apart from what else draws with small seeds."""


@dataclass(frozen=True)
class Settings:
    """What a set is a function of, besides its counts.

    Attributes
    ----------
    seed
        Of the whole set.
    shard_size
        Pairs in a file.
    knowledge_sha256
        Hash of the scene knowledge, the designer and the listener's imitation.
    """

    seed: int
    shard_size: int
    knowledge_sha256: str
    version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Pair:
    """One pair as read back.

    Attributes
    ----------
    index
        Its number in its split.
    heard
        The listener's findings, surest first.
    instruction
        What the person says.
    plans
        Texts of right plans, the reference first.
    present
        What is truly there.
    kind, style, traits, scene
        See `training.designer.Design`.
    constraints
        What the instruction forbids.
    """

    index: int
    heard: tuple[EventToken, ...]
    instruction: str
    plans: tuple[str, ...]
    present: tuple[ScenePresent, ...]
    kind: str
    style: str
    traits: tuple[str, ...]
    scene: str
    constraints: tuple[Constraint, ...]


def _fail(message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint)


@cache
def _labels() -> list[str]:
    return sorted(default_knowledge().labels)


def pair_rng(seed: int, split: str, index: int, *, part: int = 0) -> np.random.Generator:
    """Source of chance of one pair; `part` 1 is for its further plans."""
    return np.random.default_rng([_STREAM, seed, SPLITS.index(split), index, part])


def make_pair(seed: int, split: str, index: int) -> dict[str, Any]:
    """Make one pair as plain JSON values: a pure function of its arguments and the scene knowledge.

    Parameters
    ----------
    seed
        Of the set, from 0.
    split
        ``train`` or ``test``.
    index
        Number of the pair, from 0.
    """
    knowledge, labels = default_knowledge(), _labels()
    example = make_plan_example(pair_rng(seed, split, index), knowledge, labels, split)
    made = example.design
    further = alternative_plans(
        pair_rng(seed, split, index, part=1), made, example.present, labels, knowledge, ALTERNATIVES
    )
    return {
        "index": index,
        "heard": [asdict(event) for event in example.events],
        "instruction": made.instruction,
        "plans": [answer_text(made), *(plan_text(plan) for plan in further)],
        "present": [asdict(sound) for sound in example.present],
        "kind": made.kind,
        "style": made.style,
        "traits": list(made.traits),
        "scene": made.scene,
        "constraints": [
            {"kind": constraint.kind.value, "labels": list(constraint.labels), "side": constraint.side}
            for constraint in made.constraints
        ],
    }


def read_pair(line: str) -> Pair:
    """Read one line of a set."""
    values = json.loads(line)
    return Pair(
        index=values["index"],
        heard=tuple(EventToken(**event) for event in values["heard"]),
        instruction=values["instruction"],
        plans=tuple(values["plans"]),
        present=tuple(ScenePresent(**sound) for sound in values["present"]),
        kind=values["kind"],
        style=values["style"],
        traits=tuple(values["traits"]),
        scene=values["scene"],
        constraints=tuple(
            Constraint(ConstraintKind(item["kind"]), tuple(item["labels"]), item["side"])
            for item in values["constraints"]
        ),
    )


def shard_path(out: Path, split: str, number: int) -> Path:
    """Where a file of a set lies."""
    return out / f"{split}-{number:05d}.jsonl.gz"


def read_pairs(out: Path, split: str) -> Iterator[Pair]:
    """Read a finished set in order.

    Raises
    ------
    SmartDJError
        ``USAGE`` if the folder holds no finished set.
    """
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _fail(f"{out} holds no finished set of pairs", f"Run python -m training.pairs --out {out}") from None
    for shard in manifest["shards"]:
        if shard["split"] == split:
            with gzip.open(out / shard["name"], "rt", encoding="utf-8") as lines:
                yield from map(read_pair, lines)


# --- writing -------------------------------------------------------------------------------------------------


def code_sha256() -> str:
    """Hash of what makes a pair what it is: scene knowledge, designer, imitation of the listener."""
    digest = hashlib.sha256(knowledge_sha256().encode())
    for function in (make_plan_example, heard_events, answer_text, make_pair):
        digest.update(inspect.getsource(function).encode())
    return digest.hexdigest()


def _lines(settings: Settings, split: str, indices: range) -> bytes:
    made = (make_pair(settings.seed, split, index) for index in indices)
    return "".join(json.dumps(pair, separators=(",", ":")) + "\n" for pair in made).encode()


def write_shard(out: Path, settings: Settings, split: str, number: int, indices: range) -> int:
    """Make and write one file; it appears only when it is whole. Returns the number of its pairs."""
    path = shard_path(out, split, number)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(gzip.compress(_lines(settings, split, indices), compresslevel=6, mtime=0))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return len(indices)


def held_sha256(path: Path, indices: range) -> str | None:
    """Hash of a file's lines; None if it is not there, broken, or holds other pairs than these."""
    try:
        content = gzip.decompress(path.read_bytes())
        held = [json.loads(line)["index"] for line in content.splitlines()]
    except (OSError, EOFError, ValueError, KeyError):
        return None
    return hashlib.sha256(content).hexdigest() if held == list(indices) else None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker() -> None:
    # Ctrl-C reaches all; the parent lets workers end their file. Who is killed outright takes the workers along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _plan_of_work(counts: dict[str, int], shard_size: int) -> list[tuple[str, int, range]]:
    return [
        (split, number, range(start, min(start + shard_size, counts[split])))
        for split in SPLITS
        for number, start in enumerate(range(0, counts[split], shard_size))
    ]


def _check_settings(out: Path, settings: Settings) -> None:
    path, wanted = out / "settings.json", asdict(settings)
    if not path.exists():
        _write(path, wanted)
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    other = sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))
    if other:
        raise _fail(
            f"{out} holds a set of other settings: {', '.join(other)} differ",
            "Choose another --out, or give the settings of settings.json there.",
        )


def _write(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_pairs(
    out: Path,
    *,
    train: int = TRAIN_COUNT,
    test: int = TEST_COUNT,
    seed: int = TEST_SEED,
    shard_size: int = SHARD_SIZE,
    jobs: int = 1,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a set of pairs, or what is missing of it.

    Parameters
    ----------
    out
        Folder of the set.
    train, test
        How many pairs of each split.
    seed
        Of the set.
    shard_size
        Pairs in a file.
    jobs
        Processes.
    console
        Where the progress bar goes; by default standard error.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    SmartDJError
        ``USAGE`` if the folder holds a set of other settings or a larger one.
    """
    settings = Settings(seed, shard_size, code_sha256())
    out.mkdir(parents=True, exist_ok=True)
    _check_settings(out, settings)
    for leftover in out.glob(".*.partial"):
        leftover.unlink(missing_ok=True)
    work = _plan_of_work({"train": train, "test": test}, shard_size)
    names = {shard_path(out, split, number) for split, number, _ in work}
    surplus = sorted(path.name for path in out.glob("*.jsonl.gz") if path not in names)
    if surplus:
        raise _fail(f"{out} holds a larger set: {surplus[0]} is too much", "Give larger counts or another --out.")
    hashes = {(split, number): held_sha256(shard_path(out, split, number), part) for split, number, part in work}
    missing = [item for item in work if hashes[item[:2]] is None]
    if missing:
        # An old manifest must not vouch for files that are made anew.
        (out / "manifest.json").unlink(missing_ok=True)
        _make(out, settings, missing, train + test, jobs, console or Console(stderr=True))
    shards = []
    for split, number, part in work:
        path = shard_path(out, split, number)
        digest = hashes[split, number] or held_sha256(path, part)
        shards.append({"name": path.name, "split": split, "pairs": len(part), "sha256": digest})
    manifest = {"settings": asdict(settings), "train": train, "test": test, "shards": shards}
    for split in SPLITS:
        whole = hashlib.sha256()
        for shard in shards:
            if shard["split"] == split:
                whole.update(str(shard["sha256"]).encode())
        manifest[f"{split}_sha256"] = whole.hexdigest()
    _write(out / "manifest.json", manifest)
    return manifest


def _make(
    out: Path, settings: Settings, missing: Sequence[tuple[str, int, range]], total: int, jobs: int, console: Console
) -> None:
    columns = (
        TextColumn("pairs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    done = total - sum(len(part) for _, _, part in missing)
    default_knowledge()  # before the fork, so that workers share it
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context(method), _start_worker)
    try:
        running: set[Future[int]] = {pool.submit(write_shard, out, settings, *item) for item in missing}
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=total, completed=done)
            while running:
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    progress.advance(task, future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the set.")],
    train: Annotated[int, typer.Option(min=0, help="Training pairs.")] = TRAIN_COUNT,
    test: Annotated[int, typer.Option(min=0, help="Test pairs.")] = TEST_COUNT,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pairs.")] = TEST_SEED,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs in a file.")] = SHARD_SIZE,
) -> None:
    """Write the planner's text pairs."""
    console = Console(stderr=True)
    try:
        manifest = write_pairs(
            out, train=train, test=test, seed=seed, shard_size=shard_size, jobs=jobs, console=console
        )
    except SmartDJError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.row.exit_code) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    size = sum((out / shard["name"]).stat().st_size for shard in manifest["shards"])
    console.print(f"{out}: {train:,} training and {test:,} test pairs, {size / 1e6:.1f} MB")
    for split in SPLITS:
        print(f"{split} {manifest[f'{split}_sha256']}")


if __name__ == "__main__":
    typer.run(main)
