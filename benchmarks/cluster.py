"""Several workers against one: equal hashes, a worker killed in the middle, throughput, and what large jobs would take.

    python -m benchmarks.cluster --workers 1 2 4 --engines local ray --out docs/cluster --markdown-into docs/cluster.md

Writes ``results.json`` into ``--out``, and the tables between ``<!-- cluster -->`` and ``<!-- /cluster -->`` of a file.
What is run: `training.dataset` (pairs of recordings), `training.latents` with the shipped codec, `training.evaluate`
(cases of two operations), and whole edits of the demo recording by the shipped networks, one thread per worker. The
figures for large jobs are computed from the costs per item that were measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from smartdj_agent.audio import Audio, audio_sha256, read_audio
from smartdj_agent.events import Finished, PlanReady
from smartdj_agent.files import write_file
from smartdj_agent.models.weights import role_folder
from smartdj_agent.scatter import Work, connected, cores, pin_threads, scatter
from training import dataset, evaluate, latents
from training.clips import ClipStore, read_manifest
from training.dataset import write_dataset
from training.evaluate import machine, replace_anchored
from training.latents import write_latents

DEMO = Path(__file__).parent.parent / "examples" / "demo.wav"
INSTRUCTION = "make this sound like a rainy harbour"
PAIRS, RECORDINGS = 1_000_000, 10_000
DAY_S = 86_400.0
EDITED_S = 10.0
CASE_TASKS = ("remove", "volume")
"""What is evaluated here: two operations say as much of workers as all."""


class Watch:
    """Times what a `scatter` yields, and kills one of its workers after the first result where asked to.

    Attributes
    ----------
    began_s, ends_s
        Seconds: when it began, and when each result came.
    """

    def __init__(self, workers: int, *, kill: bool = False) -> None:
        self.workers = workers
        self.kill = kill
        self.killed = 0
        self.began_s = 0.0
        self.ends_s: list[float] = []

    def scatter(self, *arguments: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        """As `smartdj_agent.scatter.scatter`."""
        self.began_s = time.monotonic()
        with contextlib.closing(scatter(*arguments, **{**options, "workers": self.workers})) as results:
            for index, result in results:
                self.ends_s.append(time.monotonic())
                if self.kill and not self.killed:
                    self.killed = kill_a_worker(options.get("ray"))
                yield index, result

    @property
    def seconds(self) -> float:
        """From the beginning to the last result."""
        return self.ends_s[-1] - self.began_s

    @property
    def rate(self) -> float | None:
        """Results per second once every worker has had its first, without their start; None where that is too few."""
        after = self.ends_s[self.workers - 1 :]
        return (len(after) - 1) / (after[-1] - after[0]) if len(after) > self.workers else None


def kill_a_worker(ray: str | None) -> int:
    """Kill one worker process of ours without warning; returns how many were killed: none on somebody else's Ray."""
    if ray is None:
        processes = [child.pid for child in multiprocessing.active_children() if child.pid]
    else:
        ours = psutil.Process().children(recursive=True)
        processes = [child.pid for child in ours if "".join(child.cmdline()).startswith("ray::_carry_out_remotely")]
    if processes:
        os.kill(processes[0], signal.SIGKILL)
    return min(1, len(processes))


@contextlib.contextmanager
def watched(module: Any, watch: Watch) -> Iterator[None]:
    """Let a module scatter through a `Watch`."""
    before = module.scatter
    module.scatter = watch.scatter
    try:
        yield
    finally:
        module.scatter = before


def synthesis(chosen: argparse.Namespace, ray: str | None, watch: Watch, out: Path) -> str:
    """Make recordings with their steps; returns their hash."""
    with watched(dataset, watch):
        manifest = write_dataset(
            out, kind="single", count=chosen.count, seed=0, banks=chosen.folders, shard_size=chosen.shard,
            jobs=None, ray=ray,
        )  # fmt: skip
    return str(manifest["dataset_sha256"])


def encoding(chosen: argparse.Namespace, ray: str | None, watch: Watch, out: Path) -> str:
    """Make and encode pairs; returns their hash."""
    clips = [clip for folder in chosen.folders for clip in read_manifest(folder)]
    with watched(latents, watch):
        manifest = write_latents(
            out, codec=role_folder("small", "codec"), clips=clips, count=chosen.count, seed=0,
            shard_size=chosen.shard, ray=ray,
        )  # fmt: skip
    return str(manifest["latents_sha256"])


def make_agent() -> Any:
    """The agent that edits."""
    from smartdj_agent.agent import Agent

    return Agent("small", "cpu")


def edited(agent: Any, seed: int) -> str:
    """Plan and edit the demo recording's beginning; returns the hash of the result."""
    recording = read_audio(DEMO)
    audio = Audio(recording.samples[:, : round(EDITED_S * recording.sample_rate)], recording.sample_rate)
    plan = next(event.plan for event in agent.plan(audio, INSTRUCTION, seed=seed) if isinstance(event, PlanReady))
    finished = [event for event in agent.apply(audio, plan, seed=seed) if isinstance(event, Finished)]
    return audio_sha256(finished[-1].audio)


def editing(chosen: argparse.Namespace, ray: str | None, watch: Watch, out: Path) -> str:
    """Edit recordings; returns the hash of all results."""
    found = dict(watch.scatter(Work(make_agent, edited), list(range(chosen.edits)), ray=ray))
    return "".join(found[index][:8] for index in range(chosen.edits))


def evaluating(chosen: argparse.Namespace, ray: str | None, watch: Watch, out: Path) -> str:
    """Measure cases of the evaluation; returns the hash of all figures but times."""
    choice = evaluate.Choice(CASE_TASKS, {"preserve": chosen.cases // len(CASE_TASKS)}, 0)
    folders = [folder.absolute() for folder in chosen.folders]
    prepare = partial(evaluate.prepare, folders, "test", None, "small", "cpu", ("preserve",), 0, {})
    journal = evaluate.Journal(out / "cases.jsonl", {})
    with watched(evaluate, watch):
        cases = evaluate.carry_out_cases(choice, prepare, journal, ray=ray, workers=watch.workers)
    journal.close()
    results = evaluate.gathered(cases)
    for record in results["records"]:
        for key in evaluate.TIMINGS:
            record["figures"].pop(key, None)
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


JOBS: dict[str, Callable[[argparse.Namespace, str | None, Watch, Path], str]] = {
    "synthesis": synthesis,
    "encoding": encoding,
    "evaluation": evaluating,
    "editing": editing,
}


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run everything; returns the results."""
    runs: list[dict[str, Any]] = []
    before = os.getloadavg()[0]
    engines = {"local": None, "ray": chosen.ray}
    with tempfile.TemporaryDirectory(prefix="smartdj-cluster-", dir=chosen.work) as folder:
        for engine in chosen.engines:
            with connected(chosen.ray, max(chosen.workers)) if engine == "ray" else contextlib.nullcontext():
                for name in chosen.jobs:
                    plans = [(workers, False) for workers in chosen.workers]
                    for workers, kill in [*plans, (max(chosen.workers), True)]:
                        out = Path(folder) / f"{engine}-{name}-{workers}-{kill}"
                        watch = Watch(workers, kill=kill)
                        sha256 = JOBS[name](chosen, engines[engine], watch, out)
                        items = count_of(chosen, name)
                        rate = None if kill or watch.rate is None else watch.rate * items / len(watch.ends_s)
                        size = sum(path.stat().st_size for path in out.glob("*")) if out.is_dir() else 0
                        run = {
                            "job": name, "engine": engine, "workers": workers, "killed": watch.killed, "items": items,
                            "seconds": round(watch.seconds, 2), "first_s": round(watch.ends_s[0] - watch.began_s, 2),
                            "items_per_s": None if rate is None else round(rate, 3),
                            "sha256": sha256, "bytes": size,
                        }  # fmt: skip
                        print(json.dumps(run), flush=True)
                        runs.append(run)
    return {
        "machine": machine(1), "cores": cores(), "load": [before, os.getloadavg()[0]], "runs": runs,
        "item_s": {name: item_cost(chosen, name) for name in chosen.jobs if name != "evaluation"},
    }  # fmt: skip


def count_of(chosen: argparse.Namespace, name: str) -> int:
    """How many items a job has."""
    return {"editing": int(chosen.edits), "evaluation": int(chosen.cases)}.get(name, int(chosen.count))


def item_cost(chosen: argparse.Namespace, name: str) -> float:
    """Seconds that one item takes one thread, without any start: measured in this process."""
    pin_threads(1)
    if name == "editing":
        agent = make_agent()
        work: Callable[[int], Any] = partial(edited, agent)
        count = max(1, chosen.edits // 2)
    else:
        clips = [clip for folder in chosen.folders for clip in read_manifest(folder)]
        store = ClipStore(clips, "train")
        tools = latents._tools(store, role_folder("small", "codec"), "cpu")
        settings = latents.Settings(0, "train", 2.56, chosen.shard, 1, "float32", "", "", "")
        encoded = partial(latents.make_pair, tools, settings)
        work = encoded if name == "encoding" else partial(_synthesised, store)
        count = max(2, chosen.count // 4)
    work(0)
    began = time.process_time()  # what others do on this machine is not its cost
    for index in range(count):
        work(index)
    return round((time.process_time() - began) / count, 5)


def _synthesised(store: ClipStore, index: int) -> object:
    from training.designer import default_knowledge
    from training.synthesis import example_seed, make_example

    return make_example(example_seed(0, "single", "train", index), "single", store, default_knowledge(), "train")


def efficiency(results: dict[str, Any], name: str) -> float | None:
    """What share of its speed a worker keeps beside others: one per core, against one alone. None if not measured."""
    rates = {
        run["workers"]: run["items_per_s"]
        for run in results["runs"]
        if run["job"] == name and run["engine"] == results["runs"][0]["engine"] and run["items_per_s"]
    }
    both = 1 in rates and results["cores"] in rates and results["cores"] > 1
    return round(rates[results["cores"]] / (results["cores"] * rates[1]), 3) if both else None


def on_paper(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What large jobs would take: from the costs per item, the sizes and the efficiency that were measured."""
    rows = []
    for name, items, what in (
        ("synthesis", PAIRS, "1M pairs of 10 s, made"),
        ("encoding", PAIRS, "1M pairs of 2.56 s, made and encoded"),
        ("editing", RECORDINGS, f"10,000 recordings of {EDITED_S:g} s a day, planned and edited"),
    ):
        if name not in results["item_s"]:
            continue
        cost, kept = results["item_s"][name], efficiency(results, name)
        sizes = [run["bytes"] / run["items"] for run in results["runs"] if run["job"] == name and run["bytes"]]
        rows.append(
            {
                "what": what,
                "item_s": cost,
                "core_hours": round(cost * items / 3600, 1),
                "cores_for_a_day": round(cost * items / DAY_S, 2),
                "efficiency": kept,
                "busy_cores_for_a_day": None if kept is None else round(cost * items / DAY_S / min(kept, 1.0), 2),
                "gigabytes": round(sizes[0] * items / 1e9, 1) if sizes else None,
            }
        )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """The tables."""

    def shown(value: object) -> str:
        return "–" if value is None else str(value)

    lines = [
        "| job | engine | workers | killed | items | s, with start | items/s, without | hash |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        cells = (
            run["job"], run["engine"], run["workers"], run["killed"], run["items"], run["seconds"],
            run["items_per_s"], f"`{run['sha256'][:12]}`",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(shown, cells)) + " |")
    lines += [
        "",
        "| on paper | s per item and core | core hours | cores to do it in a day | efficiency | cores so | GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["on_paper"]:
        lines.append("| " + " | ".join(map(shown, row.values())) + " |")
    equal = "equal" if results["equal"] else "NOT equal"
    lines += [
        "",
        f"All hashes of a job are {equal}. `killed` workers were killed after the first result. Efficiency: the speed "
        f"that a worker keeps with one on each of the {results['cores']} cores, against one alone; *cores so* counts "
        f"it in. Made by `{results['command']}`; load before it {results['load'][0]:.1f}, after it "
        f"{results['load'][1]:.1f}, on {results['cores']} cores. {results['machine']}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; status 1 where hashes differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--jobs", nargs="+", choices=tuple(JOBS), default=list(JOBS))
    parser.add_argument("--ray", metavar="ADDRESS", default="local")
    parser.add_argument("--count", type=int, default=64, help="pairs")
    parser.add_argument("--shard", type=int, default=8, help="pairs in a shard")
    parser.add_argument("--edits", type=int, default=8, help="recordings")
    parser.add_argument("--cases", type=int, default=16, help="cases of the evaluation; an even number")
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path("../shared/bank")], help="clip folders")
    parser.add_argument("--work", type=Path, help="where the sets are written for the moment")
    parser.add_argument("--out", type=Path, default=Path("docs/cluster"))
    parser.add_argument("--markdown-into", type=Path)
    chosen = parser.parse_args(arguments)
    results = measure(chosen)
    hashes = {name: {run["sha256"] for run in results["runs"] if run["job"] == name} for name in chosen.jobs}
    results["equal"] = all(len(found) == 1 for found in hashes.values())
    results["on_paper"] = on_paper(results)
    options = f"--workers {' '.join(map(str, chosen.workers))} --engines {' '.join(chosen.engines)}"
    more = f"--jobs {' '.join(chosen.jobs)} --count {chosen.count} --shard {chosen.shard} --edits {chosen.edits} "
    more += f"--cases {chosen.cases}"
    results["command"] = f"python -m benchmarks.cluster {options} {more}"
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_file(chosen.out / "results.json", json.dumps(results, indent=1) + "\n", overwrite=True)
    print(markdown(results))
    if chosen.markdown_into is not None:
        text = chosen.markdown_into.read_text(encoding="utf-8")
        write_file(chosen.markdown_into, replace_anchored(text, "cluster", markdown(results)), overwrite=True)
    return 0 if results["equal"] else 1


if __name__ == "__main__":
    # Workers know what they run by the module's own name.
    from benchmarks.cluster import main as command

    raise SystemExit(command())
