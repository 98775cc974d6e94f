"""The small planner's network: what is kept of a merge is the merge."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models import planner_lm
from smartdj_agent.models.planner_lm import PlannerLM, base_folder
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import SHIPPED

SMALL = SHIPPED / "small" / "planner"
LORA = ("adapter_config.json", "adapter_model.safetensors", planner_lm.ADAPTER_FILE)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that knows the base model."""
    base = base_folder()
    folder = tmp_path / "cache" / "smartdj"
    folder.mkdir(parents=True)
    (folder / base.name).symlink_to(base)
    monkeypatch.setenv("SMARTDJ_CACHE", str(tmp_path / "cache"))
    return folder


def state(folder: Path = SMALL) -> dict[str, Tensor]:
    model = PlannerLM.load(folder, "cpu", SentenceEncoder().vectors)
    return {key: value.clone() for key, value in model.lm.state_dict().items()}


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("planner-*"))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_what_is_kept_is_the_merge(cache: Path) -> None:
    merged = state()
    (folder,) = kept(cache)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert same(state(), merged)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert not list(cache.glob(".*"))
    # What a disk has spoilt is made again.
    os.truncate(folder / "model.safetensors", 1000)
    assert same(state(), merged)
    assert kept(cache) == [folder]


def test_another_planner_replaces_it(cache: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    merged = state()
    (first,) = kept(cache)
    other = tmp_path / "other"
    other.mkdir()
    for name in LORA:
        (other / name).write_bytes((SMALL / name).read_bytes())
    tensors = load_file(other / "adapter_model.safetensors")
    save_file({key: 2 * value for key, value in tensors.items()}, other / "adapter_model.safetensors")
    assert not same(state(other), merged)
    (second,) = kept(cache)
    assert second != first


def test_it_loads_where_nothing_can_be_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(planner_lm.tempfile, "mkdtemp", full)
    assert len(state()) > 100
    assert kept(cache) == []


def test_a_damaged_planner_is_told_and_not_kept(cache: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in LORA:
        (broken / name).write_bytes((SMALL / name).read_bytes())
    os.truncate(broken / "adapter_model.safetensors", 5000)
    with pytest.raises(SmartDJError) as caught:
        state(broken)
    assert caught.value.code is ErrorCode.MODEL_CORRUPT
    assert kept(cache) == []
