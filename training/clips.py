"""Labelled single-event clips: the manifest, the splits, and a store that keeps them in memory.

A clip folder holds audio files and a ``manifest.csv`` with at least the columns ``path``, ``label`` and ``split``; this
is the layout of our bank and of what the readers in `training.readers` write. Splits are by source recording and are
taken as the manifest states them: nothing here ever moves a clip from one split to another.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

SPLITS = ("train", "valid", "test")
SAMPLE_RATE = 24_000
SILENCE_DB = -60.0


@dataclass(frozen=True)
class Clip:
    """One labelled recording of one event.

    Attributes
    ----------
    path
        The audio file.
    label
        Plain words, for example ``dog barking``.
    split
        ``train``, ``valid`` or ``test``.
    category
        Coarse group such as ``animal``; empty where unknown.
    kind
        ``transient`` or ``continuous``; empty where unknown.
    licence
        As the source states it.
    """

    path: Path
    label: str
    split: str
    category: str = ""
    kind: str = ""
    licence: str = ""


def read_manifest(folder: Path) -> list[Clip]:
    """Read a clip folder's ``manifest.csv``.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    ValueError
        If a row names a split other than train, valid or test.
    """
    clips = []
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] not in SPLITS:
                raise ValueError(f"{folder / 'manifest.csv'}: split {row['split']!r} is none of {SPLITS}")
            clips.append(
                Clip(
                    path=folder / row["path"],
                    label=row["label"],
                    split=row["split"],
                    category=row.get("category", ""),
                    kind=row.get("kind", ""),
                    licence=row.get("licence", ""),
                )
            )
    return clips


def load_mono(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read a file as mono, shape (n,), float32, silence below −60 dB of its peak trimmed at both ends, peak 1."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    peak = float(np.abs(mono).max(initial=0.0))
    if peak == 0.0:
        return np.zeros(0, np.float32)
    loud = np.flatnonzero(np.abs(mono) > peak * 10 ** (SILENCE_DB / 20))
    return (mono[loud[0] : loud[-1] + 1] / peak).astype(np.float32)


class ClipStore:
    """Clips of one split in memory as float16 at 24 kHz, grouped by label.

    Parameters
    ----------
    clips
        The catalogue; clips of other splits are left out.
    split
        Which split to keep.
    audio
        One array per kept clip, where they were packed before; else the files are read.
    """

    def __init__(self, clips: Sequence[Clip], split: str, audio: Sequence[np.ndarray] | None = None) -> None:
        kept = [clip for clip in clips if clip.split == split]
        loaded = audio if audio is not None else [load_mono(clip.path).astype(np.float16) for clip in kept]
        pairs = [(clip, samples) for clip, samples in zip(kept, loaded, strict=True) if len(samples) >= 240]
        self.clips = [clip for clip, _ in pairs]
        self.audio = [samples for _, samples in pairs]
        self.labels = sorted({clip.label for clip in self.clips})
        self.by_label: dict[str, list[int]] = {label: [] for label in self.labels}
        for index, clip in enumerate(self.clips):
            self.by_label[clip.label].append(index)

    @classmethod
    def open(cls, folders: Sequence[Path], split: str, cache: Path | None = None) -> ClipStore:
        """Load one split of several clip folders; `cache` names a folder for the packed float16 copy.

        The copy's name holds a digest of the clips' paths and sizes, so that another order or other files make another.
        """
        clips = [clip for folder in folders for clip in read_manifest(folder)]
        if cache is None:
            return cls(clips, split)
        kept = [clip for clip in clips if clip.split == split]
        listing = "\n".join(f"{clip.path.resolve()} {clip.path.stat().st_size}" for clip in kept)
        digest = hashlib.sha256(listing.encode()).hexdigest()[:12]
        packed = cache / f"{'-'.join(folder.name for folder in folders)}-{split}-{digest}.npz"
        if not packed.exists():
            store = [load_mono(clip.path).astype(np.float16) for clip in kept]
            cache.mkdir(parents=True, exist_ok=True)
            lengths = np.array([len(samples) for samples in store], np.int64)
            temporary = packed.with_name(f".{packed.stem}-{os.getpid()}.npz")
            try:
                np.savez(temporary, samples=np.concatenate([np.zeros(0, np.float16), *store]), lengths=lengths)
                os.replace(temporary, packed)
            finally:
                temporary.unlink(missing_ok=True)
        with np.load(packed) as data:
            samples, lengths = data["samples"], data["lengths"]
        return cls(clips, split, [samples[end - n : end] for n, end in zip(lengths, np.cumsum(lengths), strict=True)])

    @classmethod
    def open_unpacked(cls, folder: Path, split: str) -> ClipStore:
        """Load one split of what `training.gpu_pack` unpacked: ``clips.json`` and ``SPLIT.npz``."""
        rows = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
        clips = [Clip(Path(row.pop("path")), **row) for row in rows]
        with np.load(folder / f"{split}.npz") as data:
            samples, lengths = data["samples"], data["lengths"]
        return cls(clips, split, [samples[end - n : end] for n, end in zip(lengths, np.cumsum(lengths), strict=True)])

    def part(self, name: str) -> ClipStore:
        """The clips whose path has a folder called `name`, as a store of their own."""
        kept = [index for index, clip in enumerate(self.clips) if name in clip.path.parts]
        split = self.clips[0].split
        return ClipStore([self.clips[index] for index in kept], split, [self.audio[index] for index in kept])

    def __len__(self) -> int:
        return len(self.clips)

    def samples(self, index: int) -> np.ndarray:
        """Return clip `index`, shape (n,), float32, peak 1."""
        return self.audio[index].astype(np.float32)


def open_store(data: Mapping[str, Any], split: str) -> ClipStore:
    """The clips that a training configuration's ``data`` section names.

    Where the variable ``SMARTDJ_CLIPS`` names a folder that `training.gpu_pack` unpacked, that is taken instead: on a
    machine that has neither the clip folders nor room for them.
    """
    if unpacked := os.environ.get("SMARTDJ_CLIPS"):
        return ClipStore.open_unpacked(Path(unpacked), split)
    return ClipStore.open([Path(folder) for folder in data["folders"]], split, Path(data["cache"]))
