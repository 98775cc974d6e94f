"""Work over items: the same results from one process, several, and Ray; lost workers; an end at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.scatter import THREAD_VARIABLES, Work, check_versions, connected, scatter, versions

ENGINES = [None, "local"]
ITEMS = list(range(6))


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """One Ray for all tests of this file."""
    with connected("local", 2):
        yield


def prepared(folder: Path) -> Path:
    with (folder / f"prepared-{os.getpid()}").open("a") as file:
        file.write("once\n")
    return folder


def computed(folder: Path, item: int) -> tuple[int, list[str], int, bytes]:
    import torch

    rng = np.random.default_rng(item)
    product = torch.from_numpy(rng.standard_normal((64, 512))) @ torch.from_numpy(rng.standard_normal((512, 64)))
    return item, [os.environ[name] for name in THREAD_VARIABLES], torch.get_num_threads(), product.numpy().tobytes()


def counted(folder: Path, item: int) -> int:
    with (folder / f"did-{item}").open("a") as file:
        file.write("x")
    return item


def deadly(folder: Path, item: int) -> int:
    """Counts, and kills its own process the first time that the third item is done."""
    counted(folder, item)
    if item == 3 and (folder / "did-3").read_text() == "x":
        while len(list(folder.glob("did-*"))) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * item


def always_deadly(folder: Path, item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def refusing(folder: Path, item: int) -> int:
    raise SmartDJError(ErrorCode.MODEL_MISSING, f"no model for {item}", "get one", "x.y")


def endless(folder: Path, item: int) -> int:
    if item == 0:
        return 0
    try:
        (folder / f"began-{item}").touch()
        time.sleep(600)
    finally:
        (folder / f"left-{item}").touch()
    return item


def counts(folder: Path) -> dict[int, int]:
    return {int(path.name[4:]): len(path.read_text()) for path in folder.glob("did-*")}


@pytest.mark.usefixtures("ray")
def test_every_engine_gives_the_same_bytes_with_one_thread_each(tmp_path: Path) -> None:
    work = Work(partial(prepared, tmp_path), computed)
    found = [dict(scatter(work, ITEMS, ray=engine, workers=2)) for engine in ENGINES]
    assert found[0] == found[1]
    assert [found[0][index][0] for index in ITEMS] == ITEMS
    assert all(item[1] == ["1"] * len(THREAD_VARIABLES) and item[2] == 1 for item in found[0].values())
    lives = [path.read_text() for path in tmp_path.glob("prepared-*")]
    assert lives
    assert set(lives) == {"once\n"}


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_lost_worker_costs_only_what_it_was_at(tmp_path: Path, engine: str | None) -> None:
    found = dict(scatter(Work(partial(prepared, tmp_path), deadly), ITEMS, ray=engine, workers=2))
    assert found == {index: 10 * index for index in ITEMS}
    did = counts(tmp_path)
    assert did[3] == 2
    # Beside it, at most the one item that the other worker was at.
    assert sum(did.values()) <= len(ITEMS) + 2


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("engine", ENGINES)
def test_what_kills_its_workers_is_given_up(tmp_path: Path, engine: str | None) -> None:
    with pytest.raises(SmartDJError) as caught:
        list(scatter(Work(partial(prepared, tmp_path), always_deadly), [1], ray=engine, workers=1))
    assert caught.value.code is ErrorCode.WORKER_CRASHED


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_comes_back_whole(tmp_path: Path, engine: str | None) -> None:
    with pytest.raises(SmartDJError) as caught:
        list(scatter(Work(partial(prepared, tmp_path), refusing), [7], ray=engine, workers=1))
    error = caught.value
    assert (error.code, error.message, error.hint, error.field) == (
        ErrorCode.MODEL_MISSING,
        "no model for 7",
        "get one",
        "x.y",
    )


def test_stopping_ends_the_work_under_way_in_order(tmp_path: Path) -> None:
    running = scatter(Work(partial(prepared, tmp_path), endless), [0, 1, 2], workers=2)
    assert next(running) == (0, 0)
    while not list(tmp_path.glob("began-*")):
        time.sleep(0.01)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 60  # not the ten minutes that the work would take
    assert len(list(tmp_path.glob("left-*"))) == len(list(tmp_path.glob("began-*")))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "from functools import partial; from pathlib import Path; from smartdj_agent.scatter import Work, scatter; "
        "from tests.test_scatter import endless, prepared; "
        f"list(scatter(Work(partial(prepared, Path({str(tmp_path)!r})), endless), [1, 2], workers=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent.parent)
    wait_for(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    parent.kill()
    parent.wait()
    wait_for(lambda: len(list(tmp_path.glob("left-*"))) == 2)  # in order: nothing half done stays
    pids = [int(path.name.split("-")[1]) for path in tmp_path.glob("prepared-*")]
    wait_for(lambda: not any(is_running(pid) for pid in pids))


def wait_for(true: Callable[[], bool], at_most_s: float = 60.0) -> None:
    end = time.monotonic() + at_most_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_no_items_need_no_workers() -> None:
    assert list(scatter(Work(lambda: None, refusing), [], ray="nowhere:1")) == []  # type: ignore[arg-type]


def test_a_machine_with_other_versions_is_refused() -> None:
    check_versions(versions())
    with pytest.raises(SmartDJError, match=r"numpy \S+ instead of 0\.0"):
        check_versions({**versions(), "numpy": "0.0"})
