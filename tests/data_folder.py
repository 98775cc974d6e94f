"""A data folder of the server with its two stores and a clock that stands still, for tests."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from smartdj_agent.server.blobs import BlobStore
from smartdj_agent.server.store import JobRecord, JobStore, StoredAudio

NOW_S = 1_000_000.0


def wav(seed: int, frames: int = 2000, channels: int = 1, rate: int = 8000, container: str = "WAV") -> bytes:
    """Bytes of a file of noise; the same seed gives the same bytes."""
    samples = np.random.default_rng(seed).integers(-(2**15), 2**15, (frames, channels), dtype=np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype="PCM_16")
    return stream.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def info(data: bytes) -> StoredAudio:
    return StoredAudio(sha(data), "a" * 64, len(data), 8000, 1, 2000, "WAV", "PCM_16")


class Folder:
    """A data folder with its two stores."""

    def __init__(self, path: Path, **limits: Any) -> None:
        self.path = path
        self.now_s = NOW_S
        self.store = JobStore(f"sqlite:///{path}/jobs.db", clock=lambda: self.now_s)
        self.blobs = BlobStore(path, self.store, clock=lambda: self.now_s, **limits)

    def close(self) -> None:
        self.blobs.close()
        self.store.close()

    def upload(self, data: bytes) -> StoredAudio:
        with self.blobs.begin(sha(data), len(data)) as upload:
            upload.write(data)
            return upload.finish()

    def make(self, data: bytes) -> Path:
        path = self.blobs.temporary(".wav")
        path.write_bytes(data)
        return path

    def job(self, name: str = "job", **changes: Any) -> JobRecord:
        record = JobRecord(job_id=name, client="anna", created_s=self.now_s, **changes)
        return self.store.create(record, request_id="", digest="")[0]

    def leftovers(self) -> list[str]:
        """Every file below the folder, except the database and the lock."""
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.path)) for path in files if path.parent != self.path)
