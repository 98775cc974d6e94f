"""What is deleted when: jobs that ended, oldest first, and the audio that no job needs.

The decision is a pure function of what is there; the doing checks every deletion again in the database, so that what
came to be needed in between stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smartdj_agent.server.blobs import BlobStore
from smartdj_agent.server.store import HeldAudio, HeldJob, JobStore


@dataclass(frozen=True)
class Policy:
    """How long what ended is kept.

    Attributes
    ----------
    keep_s
        Jobs that ended are deleted after this time, seconds.
    keep_unfetched_s
        But never one whose result nobody fetched, before this time since its end, seconds.
    max_store_bytes
        Above this size of all audio, jobs that ended are deleted before their time.
    """

    keep_s: float
    keep_unfetched_s: float
    max_store_bytes: int


@dataclass(frozen=True)
class Deletions:
    """What is to go.

    Attributes
    ----------
    jobs
        Job ids, oldest end first.
    audio
        SHA-256 of files that no job refers to then.
    kept_bytes
        Size of what stays.
    """

    jobs: tuple[str, ...]
    audio: tuple[str, ...]
    kept_bytes: int


def decide(
    jobs: Sequence[HeldJob], audio: Sequence[HeldAudio], policy: Policy, now_s: float, uploading_bytes: int = 0
) -> Deletions:
    """Decide what goes.

    Parameters
    ----------
    jobs, audio
        All that is there, of one moment.
    policy
        How long what ended is kept.
    now_s
        Seconds since the epoch.
    uploading_bytes
        What incomplete uploads take; counts towards the size, but is never deleted for it.

    Returns
    -------
    Deletions
        Never an unfinished job, nor one that was not fetched and ended less than `Policy.keep_unfetched_s` ago; of the
        others none while an older one stays. `Deletions.kept_bytes` is above the policy's size only where nothing
        more may go.
    """
    files = {file.sha256: file for file in audio}
    uses = Counter(sha256 for job in jobs for sha256 in job.audio)
    size_bytes = uploading_bytes + sum(file.size_bytes for file in audio)
    gone_audio: list[str] = []

    def drop_unused(sha256: str) -> None:
        nonlocal size_bytes
        file = files.get(sha256)
        if file is not None and not uses[sha256] and file.keep_until_s <= now_s:
            gone_audio.append(sha256)
            size_bytes -= file.size_bytes

    for sha256 in files:
        drop_unused(sha256)

    gone_jobs: list[str] = []
    ended = sorted(
        ((job.ended_s, job.job_id, job) for job in jobs if job.ended_s is not None), key=lambda item: item[:2]
    )
    for ended_s, job_id, job in ended:
        age_s = now_s - ended_s
        may_go = job.fetched or age_s >= policy.keep_unfetched_s
        if may_go and (age_s >= policy.keep_s or size_bytes > policy.max_store_bytes):
            gone_jobs.append(job_id)
            for sha256 in job.audio:
                uses[sha256] -= 1
                drop_unused(sha256)
    return Deletions(tuple(gone_jobs), tuple(gone_audio), size_bytes)


def enforce(store: JobStore, blobs: BlobStore, policy: Policy, now_s: float) -> Deletions:
    """Delete what the policy lets go, incomplete uploads that nobody continues too; returns what was decided.

    Killed in the middle, it leaves at most files that the next start's `BlobStore.sweep` takes away.
    """
    blobs.delete_old_parts()
    # Asked every minute: most of the time no job is due, and then not all of them need be read.
    unused = tuple(store.unused_audio(now_s))
    blobs.delete(unused)
    uploading_bytes = blobs.uploading_bytes()
    kept_bytes = store.audio_bytes() + uploading_bytes
    if kept_bytes <= policy.max_store_bytes and not store.any_ended_before(now_s - policy.keep_s):
        return Deletions((), unused, kept_bytes)
    jobs, audio = store.holdings()
    deletions = decide(jobs, audio, policy, now_s, uploading_bytes)
    store.delete_jobs(deletions.jobs)
    blobs.delete(deletions.audio)
    return replace(deletions, audio=(*unused, *deletions.audio))
