"""What the server asks of a device's worker, what the worker tells it, and the pipe between the two processes."""

from __future__ import annotations

import pickle
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

_HEADER = struct.Struct("<Q")


@dataclass(frozen=True)
class PlanTask:
    """Listen and write a plan.

    Attributes
    ----------
    task_id
        Unique among the worker's unfinished tasks; letters, digits, ``_``, ``-`` and ``.`` only: files are named
        by it.
    audio
        The recording.
    instruction
        The person's sentence.
    seed
        0 takes the planner's likeliest words.
    """

    task_id: str
    audio: Path
    instruction: str
    seed: int = 0


@dataclass(frozen=True)
class ApplyTask:
    """Carry out a plan.

    Attributes
    ----------
    task_id
        See `PlanTask`.
    audio
        The recording after `done` enabled steps, exactly; at first the recording itself.
    source
        The recording itself: its container, sample type and text fields are kept.
    plan
        A serialised `smartdj.v1.Plan`.
    mode
        ``preserve`` or ``generate``.
    seed
        Same seed, same result.
    done
        How many enabled steps were carried out before.
    encoding
        ``source``, or ``float`` for WAV with the editor's own samples.
    folder
        Where the produced files are written; the server takes them away from there.
    """

    task_id: str
    audio: Path
    source: Path
    plan: bytes
    mode: str
    seed: int
    done: int
    encoding: Literal["source", "float"]
    folder: Path


Task = PlanTask | ApplyTask


@dataclass(frozen=True)
class FileInfo:
    """What a produced file is; the fields of the store's `StoredAudio`, with the same meaning."""

    sha256: str
    audio_sha256: str
    size_bytes: int
    sample_rate: int
    channels: int
    frames: int
    container: str
    subtype: str


@dataclass(frozen=True)
class Produced:
    """A file that the worker has written, whole and on disk.

    Attributes
    ----------
    path
        In the task's folder. The same file may be both delivered and resumed from: then two `Produced` name it.
    info
        What it is. `audio_sha256` is empty for files that are only resumed from.
    role
        ``delivered``: in the encoding that was asked for; ``resume``: the exact samples, float WAV.
    """

    path: Path
    info: FileInfo
    role: Literal["delivered", "resume"]


@dataclass(frozen=True)
class Report:
    """What a worker tells about a task: events, then one ``done`` or ``failed``.

    Attributes
    ----------
    task_id
        The task.
    kind
        ``event``, ``done`` or ``failed``. After the last two the device is free and the task's memory released.
    event
        A serialised `smartdj.v1.JobEvent` without sequence number and job id.
    progress
        Whether the event is one of which only the newest counts.
    produced
        With the event of a finished step: its files. With the summary: the result, where no step of this task made it.
    error
        Of a failed task: code, message, hint and field of a `SmartDJError`.
    source_audio_sha256
        What the recording sounds like (`smartdj_agent.audio.audio_sha256`), as soon as it is known; with ``done``
        always, except for a task that went on after a step of a plan that does not name its recording.
    """

    task_id: str
    kind: Literal["event", "done", "failed"]
    event: bytes = b""
    progress: bool = False
    produced: tuple[Produced, ...] = field(default=())
    error: tuple[str, str, str, str] | None = None
    source_audio_sha256: str = ""


class Pipe:
    """Objects over two byte streams, each with its length in front. Any thread may send; one receives.

    Only for the two ends of one program: what is received is unpickled.
    """

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        """Send one object; blocks while the other end doesn't read.

        Raises
        ------
        OSError
            The other end is gone.
        """
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._sending:
            self._outgoing.write(_HEADER.pack(len(body)) + body)
            self._outgoing.flush()

    def receive(self) -> Any:
        """Wait for one object.

        Raises
        ------
        EOFError
            The other end is gone, in the middle of an object too.
        """
        header = self._incoming.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise EOFError
        (length,) = _HEADER.unpack(header)
        body = self._incoming.read(length)
        if len(body) < length:
            raise EOFError
        return pickle.loads(body)
