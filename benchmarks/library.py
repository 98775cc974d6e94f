"""How fast a person's sounds are indexed and searched, and in how much memory.

    python benchmarks/library.py [--files 10000] [--heard 200]

Makes a folder of short synthetic sounds with UCS names. Indexes all of it with stand-ins for the two networks, which
shows what walking, reading, hashing and the database cost; then some of it with the networks themselves, which is what
a person waits for. Prints a table and writes ``benchmarks/results/library.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RATE = 24_000
SECONDS = 1.0
WORDS = (
    "door", "creak", "slam", "knock", "wood", "metal", "glass", "gate", "hinge", "lock", "rain", "roof", "puddle",
    "drip", "thunder", "distant", "close", "heavy", "light", "wind", "leaves", "grass", "gust", "howl", "dog", "bark",
    "growl", "small", "large", "cat", "meow", "purr", "horse", "gallop", "snort", "bird", "song", "crow", "sparrow",
    "owl", "hoot", "car", "pass", "idle", "engine", "start", "horn", "siren", "train", "whistle", "rails", "brake",
    "crowd", "cheer", "murmur", "applause", "laugh", "child", "street", "footsteps", "gravel", "snow", "concrete",
    "slow", "run", "fire", "crackle", "burst", "water", "splash", "stream", "waves", "shore", "boat", "rope", "paper",
    "tear",
)  # fmt: skip
CATEGORIES = ("DOORWood", "RAINConc", "WINDGust", "ANMLDog", "BIRDSong", "VEHCar", "CRWDCheer", "FEETHmn", "WATRWave")
QUERIES = 200


def make_folder(root: Path, count: int, rng: np.random.Generator) -> None:
    """Write sounds, 500 to a folder: a tone that fades in noise, each one different."""
    time_s = np.arange(round(SECONDS * RATE)) / RATE
    for number in range(count):
        folder = root / f"Pack {number // 500:03d}"
        folder.mkdir(exist_ok=True)
        words = " ".join(rng.choice(WORDS, 3, replace=False)).title()
        hertz = float(rng.uniform(80, 8000))
        samples = 0.4 * np.sin(2 * np.pi * hertz * time_s) * np.exp(-3 * time_s) + rng.normal(0, 0.01, len(time_s))
        name = f"{rng.choice(CATEGORIES)}_{words} {number:05d}_BEN_TEST.wav"
        soundfile.write(folder / name, samples.astype(np.float32), RATE, subtype="PCM_16")


def stand_in(texts: list[str]) -> np.ndarray:
    """Sentence vectors without a network, as wide as the real ones."""
    return np.stack([np.random.default_rng(list(text.encode())).standard_normal(384) for text in texts])


def hear_nothing(mono: np.ndarray) -> np.ndarray:
    """A sound's vector without a network, as wide as the real one."""
    return np.random.default_rng(len(mono) + int(1e6 * abs(float(mono[:100].sum())))).standard_normal(256)


def peak_mb() -> float:
    """Most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def timed_index(root: Path, encode: Any, hear: Any) -> tuple[float, Any]:
    """Index a folder: seconds, and the summary."""
    from smartdj_agent.library_index import build_index

    started = time.perf_counter()
    *_, summary = build_index(root, encode, hear, listener_id="benchmark")
    return time.perf_counter() - started, summary


def search_times(root: Path, encode: Any, embed: Any, rng: np.random.Generator) -> list[float]:
    """Milliseconds of `QUERIES` searches of two words, the index being open."""
    from smartdj_agent.library_index import IndexedLibrary

    library = IndexedLibrary(root, "benchmark")
    times = []
    for _ in range(QUERIES):
        text = " ".join(rng.choice(WORDS, 2, replace=False))
        started = time.perf_counter()
        found = library.search(text, encode, embed, count=24)
        times.append(1000 * (time.perf_counter() - started))
        assert len(found) == min(24, len(library))
    return times


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="sounds that are indexed with stand-ins")
    parser.add_argument("--heard", type=int, default=200, help="sounds that are indexed with the networks; 0 for none")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SMARTDJ_INDEXES"] = str(Path(temporary) / "indexes")
        from smartdj_agent.library_index import IndexedLibrary, index_file

        root = Path(temporary) / "sounds"
        root.mkdir()
        make_folder(root, given.files, rng)
        before = peak_mb()
        rows["index, seconds"], summary = timed_index(root, stand_in, hear_nothing)
        assert summary.added == given.files, summary
        rows["index, peak memory beyond start, MB"] = peak_mb() - before
        rows["index again with nothing changed, seconds"], summary = timed_index(root, stand_in, hear_nothing)
        assert summary.kept == given.files, summary
        rows["index file, MB"] = index_file(root).stat().st_size / 1e6
        started = time.perf_counter()
        IndexedLibrary(root, "benchmark")
        rows["open, seconds"] = time.perf_counter() - started
        times = search_times(root, stand_in, lambda texts: stand_in(texts)[:, :256], rng)
        rows["search, p50 ms"] = statistics.median(times)
        rows["search, p99 ms"] = float(np.quantile(times, 0.99))
        rows["all, peak memory beyond start, MB"] = peak_mb() - before
        if given.heard:
            from smartdj_agent.editor import embed_sound
            from smartdj_agent.models.text import SentenceEncoder
            from smartdj_agent.models.weights import load_network

            listener, encoder = load_network("small", "listener"), SentenceEncoder()
            part = Path(temporary) / "part"
            part.mkdir()
            make_folder(part, given.heard, rng)
            seconds, _ = timed_index(
                part, lambda texts: encoder.vectors(texts).numpy(), lambda mono: embed_sound(listener, mono)
            )
            rows["index with the networks, ms a sound of 1 s"] = 1000 * seconds / given.heard
            noise = rng.normal(0, 0.1, 10 * RATE).astype(np.float32)
            started = time.perf_counter()
            for _ in range(5):
                embed_sound(listener, noise)
            rows["hear 10 s of sound, ms"] = 1000 * (time.perf_counter() - started) / 5
            times = search_times(part, lambda texts: encoder.vectors(texts).numpy(), None, rng)
            rows["encode the text and search few, p50 ms"] = statistics.median(times)
    table = Table("what", "value", title=f"{given.files:,} sounds")
    for what, value in rows.items():
        table.add_row(what, f"{value:,.2f}")
    Console().print(table)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    facts = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "files": given.files,
        "heard": given.heard,
        "rows": rows,
    }
    (results / "library.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
