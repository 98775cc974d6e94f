"""Retention: what may go and what never does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.server.blobs import KEEP_UPLOAD_S, BlobStore
from smartdj_agent.server.retention import Deletions, Policy, decide, enforce
from smartdj_agent.server.store import HeldAudio, HeldJob, JobRecord, JobState, JobStore, StoredAudio
from tests.data_folder import Folder, info, sha, wav

NOW_S = 1000.0
NAMES = [f"audio{number}" for number in range(8)]

ages = st.one_of(st.sampled_from([0.0, 99.0, 100.0, 101.0, 300.0, 301.0]), st.floats(-50.0, 500.0))
held_jobs = st.lists(
    st.builds(
        HeldJob,
        job_id=st.text("abcdef", min_size=1, max_size=4),
        ended_s=st.one_of(st.none(), ages.map(lambda age: NOW_S - age)),
        fetched=st.booleans(),
        audio=st.frozensets(st.sampled_from(NAMES), max_size=4),
    ),
    max_size=8,
    unique_by=lambda job: job.job_id,
)
held_audio = st.lists(
    st.builds(
        HeldAudio,
        sha256=st.sampled_from(NAMES),
        size_bytes=st.integers(0, 100),
        keep_until_s=st.sampled_from([0.0, 0.0, NOW_S, NOW_S + 1]),
    ),
    max_size=8,
    unique_by=lambda file: file.sha256,
)
policies = st.builds(
    Policy,
    keep_s=st.sampled_from([0.0, 100.0, 1e9]),
    keep_unfetched_s=st.sampled_from([0.0, 300.0, 1e9]),
    max_store_bytes=st.integers(0, 500),
)


@given(jobs=held_jobs, audio=held_audio, policy=policies, uploading=st.integers(0, 200))
@settings(max_examples=500, deadline=None)
def test_the_decision(jobs: list[HeldJob], audio: list[HeldAudio], policy: Policy, uploading: int) -> None:
    result = decide(jobs, audio, policy, NOW_S, uploading)
    gone = set(result.jobs)
    assert len(gone) == len(result.jobs)
    assert len(set(result.audio)) == len(result.audio)
    kept_jobs = [job for job in jobs if job.job_id not in gone]

    def age_s(job: HeldJob) -> float:
        return float("-inf") if job.ended_s is None else NOW_S - job.ended_s

    def may_go(job: HeldJob) -> bool:
        return job.ended_s is not None and (job.fetched or age_s(job) >= policy.keep_unfetched_s)

    assert all(may_go(job) for job in jobs if job.job_id in gone), "never unfinished, never unfetched and young"
    assert all(age_s(job) < policy.keep_s for job in kept_jobs if may_go(job)), "never longer than it should"

    oldest_kept_s = max((age_s(job) for job in kept_jobs if may_go(job)), default=float("-inf"))
    assert all(age_s(job) >= oldest_kept_s for job in jobs if job.job_id in gone), "oldest first"

    needed = {name for job in kept_jobs for name in job.audio}
    assert not needed & set(result.audio), "never audio that a kept job refers to"
    for file in audio:
        unneeded = file.sha256 not in needed and file.keep_until_s <= NOW_S
        assert (file.sha256 in result.audio) == unneeded, "all else goes, except what is to stay a while"

    kept_bytes = uploading + sum(file.size_bytes for file in audio if file.sha256 not in result.audio)
    assert result.kept_bytes == kept_bytes
    assert kept_bytes <= policy.max_store_bytes or not any(may_go(job) for job in kept_jobs), "under the cap if it may"

    if result.jobs:  # and not one job more than needed
        last = next(job for job in jobs if job.job_id == result.jobs[-1])
        fewer = [job for job in jobs if job.job_id not in gone or job is last]
        before_last = {name for job in fewer for name in job.audio}
        size = uploading + sum(
            file.size_bytes for file in audio if file.sha256 in before_last or file.keep_until_s > NOW_S
        )
        assert age_s(last) >= policy.keep_s or size > policy.max_store_bytes


def finished(folder: Folder, name: str, seed: int, *, source: str) -> None:
    data = wav(seed)
    folder.job(name, source_sha256=source, state=JobState.RUNNING)
    folder.blobs.record(
        name, [b"end"], files=[(folder.make(data), info(data))], state=JobState.SUCCEEDED,
        steps=(sha(data),), result_sha256=sha(data), ended_s=folder.now_s,
    )  # fmt: skip


def test_enforcing_deletes_jobs_with_their_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    source = folder.upload(wav(0))
    for number in range(1, 5):
        folder.now_s += 10
        finished(folder, f"job{number}", number, source=source.sha256)
    for number in (1, 3, 4):
        folder.store.mark_fetched(sha(wav(number)), folder.now_s)
    size = source.size_bytes
    policy = Policy(keep_s=1e6, keep_unfetched_s=1e5, max_store_bytes=3 * size)

    result = enforce(folder.store, folder.blobs, policy, folder.now_s)
    assert result == Deletions(("job1", "job3"), (sha(wav(1)), sha(wav(3))), 3 * size)
    assert [job.job_id for job in folder.store.page([], 10, "")[0]] == ["job4", "job2"]
    assert {Path(name).name for name in folder.leftovers()} == {sha(wav(number)) for number in (0, 2, 4)}
    assert enforce(folder.store, folder.blobs, policy, folder.now_s) == Deletions((), (), 3 * size)

    folder.now_s += 1e7
    enforce(folder.store, folder.blobs, policy, folder.now_s)
    assert folder.leftovers() == []
    assert folder.store.page([], 10, "")[0] == []
    folder.close()


def test_uploads_stay_an_hour_and_parts_go_with_them(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.upload(wav(1))
    part = wav(2)
    with folder.blobs.begin(sha(part), len(part)) as upload:
        upload.write(part[:1000])
    (path,) = folder.blobs._parts(sha(part))
    folder.now_s = path.stat().st_mtime + KEEP_UPLOAD_S - 1
    folder.store.keep_audio(sha(wav(1)), folder.now_s + 1)
    policy = Policy(keep_s=0, keep_unfetched_s=0, max_store_bytes=0)
    assert enforce(folder.store, folder.blobs, policy, folder.now_s).kept_bytes == len(wav(1)) + 1000
    folder.now_s += 2
    assert enforce(folder.store, folder.blobs, policy, folder.now_s).kept_bytes == 0
    assert folder.leftovers() == []
    folder.close()


def test_a_part_that_is_being_written_never_goes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    data = wav(1)
    upload = folder.blobs.begin(sha(data), len(data))
    upload.write(data[:1000])
    folder.now_s = upload._path.stat().st_mtime + 1e6 if upload._path else 0
    enforce(folder.store, folder.blobs, Policy(0, 0, 0), folder.now_s)
    upload.write(data[1000:])
    assert upload.finish().sha256 == sha(data)
    folder.close()


class Meddling(BlobStore):
    """A store in which a new job comes to need the audio between decision and deletion."""

    meddle: JobStore

    def delete(self, sha256s: Iterable[str]) -> list[str]:
        self.meddle.create(
            JobRecord(job_id="late", client="anna", source_sha256=sha(wav(1)), created_s=0.0),
            request_id="once",
            digest="",
        )
        return super().delete(sha256s)


def test_what_comes_to_be_needed_after_the_decision_stays(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    blobs = Meddling(tmp_path, store)
    blobs.meddle = store
    path = blobs.temporary("")
    path.write_bytes(wav(1))
    blobs._publish(path, StoredAudio(sha(wav(1)), "", len(wav(1)), 8000, 1, 2000, "WAV", "PCM_16"), 0.0)
    result = enforce(store, blobs, Policy(0, 0, 0), 1e10)
    assert store.get("late").source_sha256 == sha(wav(1))
    assert result.audio == (sha(wav(1)),), "it was decided before"
    assert blobs.path(sha(wav(1))).read_bytes() == wav(1)
    assert store.audio(sha(wav(1))) is not None
    blobs.close()
    store.close()
