"""The same work here or on a cluster: a function over items, in processes of this machine or as tasks of Ray.

A worker first prepares what all items need (`Work.prepare`), then carries out one item after the other. Both are plain
functions of plain values, so it doesn't matter where, in which order and how often they run; and every worker computes
with as many threads as every other, since another number of threads gives other last bits.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import os
import pickle
import platform
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

from smartdj_agent.errors import ErrorCode, SmartDJError

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 4
"""How often an item is begun before it is given up: it may be what kills its workers."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Read by the libraries that compute, once, when they are loaded."""

LOCAL = "local"
"""Instead of an address: a Ray of one's own on this machine, which ends with the work."""

_PATIENCE_S = 5.0
_PACKAGES = ("numpy", "scipy", "torch", "soundfile", "soxr", "transformers")


@dataclass(frozen=True)
class Work(Generic[State, Item, Result]):
    """What there is to do.

    Attributes
    ----------
    prepare
        Called once in each worker; a function of a module, or a `functools.partial` of one.
    carry_out
        Called with what `prepare` returned and an item; the same for both must give the same result.
    """

    prepare: Callable[[], State]
    carry_out: Callable[[State, Item], Result]


def scatter(
    work: Work[State, Item, Result],
    items: Sequence[Item],
    *,
    ray: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    gpus: float = 0.0,
) -> Generator[tuple[int, Result], None, None]:
    """Carry items out and yield the results as they come.

    A worker that dies costs only what it was at: that is begun again, elsewhere, up to `ATTEMPTS` times. Closing the
    iterator, or Ctrl-C, ends the work under way within seconds.

    Parameters
    ----------
    work
        Must be picklable, as items and results.
    items
        What to do.
    ray
        None for processes of this machine; the address of a Ray cluster (``auto``, ``HOST:6379``, ``ray://…``), or
        `LOCAL`. The cluster's machines have the same packages as this one and see the same files under the same names.
    workers
        How many items at a time; by default the number of cores, here or of the cluster.
    threads
        Threads of each worker; on Ray also the cores that it takes.
    gpus
        GPUs that each worker takes on Ray.

    Yields
    ------
    int, result
        The item's index, and what came out.

    Raises
    ------
    SmartDJError
        That of `work`; WORKER_CRASHED where an item's workers keep dying; USAGE and SERVER_UNREACHABLE where Ray is not
        installed or not there, or one of its machines has other versions of what computes.
    """
    if not items:
        return
    if ray is not None:
        yield from _on_ray(work, items, ray, workers, threads, gpus)
    else:
        yield from _in_processes(work, items, workers or cores(), threads)


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that give the computing libraries so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def pin_threads(threads: int) -> None:
    """Compute with so many threads from now on, as far as the libraries allow after they are loaded.

    PyTorch allows it; numpy's linear algebra keeps the threads that it was loaded with, and so its last bits.
    """
    os.environ.update(thread_environment(threads))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    """Return the versions on which the last bits of results depend."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# --- processes of this machine --------------------------------------------------


def _in_processes(
    work: Work[State, Item, Result], items: Sequence[Item], workers: int, threads: int
) -> Generator[tuple[int, Result], None, None]:
    # Pickled by hand: a worker sets its threads before it loads what the work needs.
    packed = pickle.dumps(work, pickle.HIGHEST_PROTOCOL)
    waiting = deque(range(len(items)))
    begun = [0] * len(items)
    pool: ProcessPoolExecutor | None = None
    running: dict[Future[Result], int] = {}
    try:
        while waiting or running:
            try:
                if pool is None:
                    pool = _pool(min(workers, len(items)), packed, threads)
                while waiting and len(running) < workers:
                    begun[waiting[0]] += 1
                    with _variables(thread_environment(threads)):  # a process may start here
                        future = pool.submit(_carry_out, items[waiting[0]])
                    running[future] = waiting.popleft()
                ready, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    result = future.result()
                    yield running.pop(future), result
            except BrokenProcessPool as error:
                waiting.extendleft(sorted(running.values(), reverse=True))
                running.clear()
                if pool is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
                pool = None
                if max(begun[index] for index in waiting) >= ATTEMPTS:
                    raise _given_up(str(error)) from error
    finally:
        if pool is not None:
            _end(pool)


def _pool(workers: int, packed: bytes, threads: int) -> ProcessPoolExecutor:
    # A forked process would have the parent's libraries, with the parent's number of threads.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _begin, (packed, threads, sys.path))


def _end(pool: ProcessPoolExecutor) -> None:
    """End a pool at once; a worker leaves what it is at in order, so that no half file stays."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_local: tuple[Work[Any, Any, Any], Any] | None = None


def _begin(packed: bytes, threads: int, path: list[str]) -> None:
    """Begin a process's life: what comes with Ctrl-C is the parent's business."""
    global _local
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sys.path[:] = path
    pin_threads(threads)
    work: Work[Any, Any, Any] = pickle.loads(packed)
    pin_threads(threads)  # torch may have come with it
    _local = (work, None)


def _leave_with_parent() -> None:
    """A parent that was killed can't end its workers: they would go on, and write beside the next call's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_S)
    os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _carry_out(item: Any) -> Any:
    global _local
    assert _local is not None
    work, state = _local
    if state is None:
        # Not in `_begin`: a failure there would only say that the pool is broken.
        state = work.prepare()
        pin_threads(_threads())
        _local = (work, state)
    return work.carry_out(state, item)


def _threads() -> int:
    return int(os.environ.get(THREAD_VARIABLES[0], "1"))


# --- Ray ------------------------------------------------------------------------


@contextlib.contextmanager
def connected(address: str, workers: int | None = None, threads: int = 1) -> Iterator[Any]:
    """Connect to Ray inside the block; yields its module.

    Parameters
    ----------
    address
        As `scatter` takes it. A connection that is there already is used, and left.
    workers
        How many workers a Ray of one's own has room for.
    threads
        Threads of each worker.

    Raises
    ------
    SmartDJError
        USAGE where it isn't installed, SERVER_UNREACHABLE where it isn't there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SmartDJError(
            ErrorCode.USAGE, "Ray is not installed", "pip install 'smartdj-agent[ray]'", field="--ray"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    own = {
        "num_cpus": threads * workers if workers else cores(),
        "include_dashboard": False,
        # By default Ray's workers give way to everything else on the machine, and starve on a busy one.
        "_system_config": {"worker_niceness": 0},
    }
    # With this process's paths the workers find the code of a checkout, too, where it lies in the same place.
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": {**thread_environment(threads), "PYTHONPATH": paths}},
            **(own if address == LOCAL else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        raise SmartDJError(
            ErrorCode.SERVER_UNREACHABLE,
            f"there is no Ray cluster at {address}: {str(error).splitlines()[0] if str(error) else error!r}",
            "start one with `ray start --head`, or give --ray local",
            field="--ray",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def cluster_cores(ray: Any) -> int:
    """Return how many cores a connected cluster has."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _on_ray(
    work: Work[State, Item, Result], items: Sequence[Item], address: str, workers: int | None, threads: int, gpus: float
) -> Generator[tuple[int, Result], None, None]:
    with connected(address, workers, threads) as ray:
        # A lost worker's task is begun again by Ray; what the work itself raises is not.
        options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": ATTEMPTS - 1, "retry_exceptions": False}
        task = ray.remote(**options)(_carry_out_remotely)
        token = uuid.uuid4().hex
        given = ray.put((work, versions()))
        most = workers or max(1, cluster_cores(ray) // threads)
        waiting = deque(range(len(items)))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    index = waiting.popleft()
                    running[task.remote(token, [given], threads, items[index])] = index
                ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for reference in ready:
                    error, result = ray_result(ray, reference)
                    index = running.pop(reference)
                    if error is not None:
                        raise error
                    yield index, result
        finally:
            for reference in running:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)


def ray_result(ray: Any, reference: Any) -> Any:
    """Return what a task returned.

    Raises
    ------
    SmartDJError
        WORKER_CRASHED where its workers kept dying; INTERNAL where it failed otherwise.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise SmartDJError(
            ErrorCode.INTERNAL,
            f"a worker failed: {error.cause!r}",
            "do the same without --ray to see where",
        ) from error
    except ray.exceptions.RayError as error:
        raise _given_up(type(error).__name__) from error


_remote: dict[str, tuple[Work[Any, Any, Any], Any]] = {}


def _carry_out_remotely(token: str, given: list[Any], threads: int, item: Any) -> tuple[SmartDJError | None, Any]:
    """Carry out one item in a worker of Ray, which keeps what it has prepared for the items to come."""
    try:
        if token not in _remote:
            pin_threads(threads)
            import ray

            work, wanted = ray.get(given[0])
            check_versions(wanted)
            _remote.clear()
            _remote[token] = work, work.prepare()
            pin_threads(threads)
        work, state = _remote[token]
        return None, work.carry_out(state, item)
    except SmartDJError as error:
        return error, None


def check_versions(wanted: dict[str, str]) -> None:
    """Refuse to compute with other versions than those of who asks.

    Raises
    ------
    SmartDJError
        USAGE.
    """
    found = versions()
    other = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if other:
        shown = ", ".join(
            f"{name} {found.get(name, 'missing')} instead of {wanted.get(name, 'none')}" for name in other
        )
        raise SmartDJError(
            ErrorCode.USAGE,
            f"{platform.node()} in the cluster has {shown}",
            "install the same versions everywhere: others give other bytes",
            field="--ray",
        )


def _given_up(why: str) -> SmartDJError:
    return SmartDJError(
        ErrorCode.WORKER_CRASHED,
        f"the workers of one part of the work died {ATTEMPTS} times ({why})",
        "they may have run out of memory: use fewer workers; what was finished is kept",
    )
