"""Sets of encoded pairs: the same bytes however they were made; an editor trains on them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from smartdj_agent.errors import SmartDJError
from smartdj_agent.models.codec import Codec
from smartdj_agent.scatter import connected
from training import latents
from training.clips import SAMPLE_RATE, ClipStore, read_manifest
from training.latents import POOL_TOKENS, read_pool, write_latents

LABELS = ("dog barking", "rain", "car horn", "wind blowing", "church bell", "sea waves", "man speaking", "piano")
COUNT = 5


class Letters:
    """Token states from letters, instead of a language model."""

    def to(self, device: str) -> Letters:
        return self

    def states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        codes = torch.tensor([[float(ord(letter)) for letter in texts[0][:12].ljust(1)]])
        return codes[..., None].repeat(1, 1, 8), torch.ones(codes.shape, dtype=torch.bool)


def tools(store: ClipStore, codec: Path, device: str) -> Any:
    """The tools of a worker, without the language model; a worker finds it by its name."""
    loaded = Codec.from_pretrained(codec).eval().requires_grad_(False)
    return latents._Tools(store, loaded, Letters(), device)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    rows = [("path", "label", "kind", "split")]
    for number, label in enumerate(LABELS):
        samples = np.random.default_rng(number).uniform(-0.4, 0.4, SAMPLE_RATE)
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE)
        rows.append((f"{number}.wav", label, "transient", "train"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("codec")
    Codec(channels=4, multiples=(1, 2), strides=(10, 48), latent_dim=4).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "_tools", tools)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with connected("local", 2):
        yield


def write(out: Path, clips: Path, codec: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"count": COUNT, "seed": 3, "duration_s": 1.0, "shard_size": 2, "workers": 2}
    return write_latents(out, codec=codec, clips=read_manifest(clips), **{**options, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, clips: Path, codec: Path) -> Path:
    folder = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "_tools", tools)
        write(folder, clips, codec)
    return folder


@pytest.mark.usefixtures("ray")
def test_ray_makes_the_same_bytes(made: Path, tmp_path: Path, clips: Path, codec: Path) -> None:
    write(tmp_path, clips, codec, ray="local")
    assert contents(tmp_path) == contents(made)


def test_what_is_there_is_left_and_the_rest_is_made(
    made: Path, tmp_path: Path, clips: Path, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in contents(made).items():
        (tmp_path / name).write_bytes(content)
    before = (tmp_path / latents.shard_name(0)).stat().st_mtime_ns
    (tmp_path / latents.shard_name(1)).unlink()
    damaged = tmp_path / latents.shard_name(2)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (tmp_path / ".latents-00001.safetensors.0.part").write_bytes(b"half")
    write(tmp_path, clips, codec, workers=1)
    assert contents(tmp_path) == contents(made)
    assert (tmp_path / latents.shard_name(0)).stat().st_mtime_ns == before
    monkeypatch.setattr(latents, "scatter", lambda *_, **__: pytest.fail("made again"))
    write(tmp_path, clips, codec)


def test_a_pair_depends_on_its_number_only(made: Path, clips: Path, codec: Path) -> None:
    pool = read_pool(made, Letters(), codec, "cpu")  # type: ignore[arg-type]
    store = ClipStore(read_manifest(clips), "train")
    settings = latents.Settings(3, "train", 1.0, 2, 1, "float32", "", "", "")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pair = latents.make_pair(tools(store, codec, "cpu"), settings, 4)
    finally:
        torch.set_num_threads(threads)
    assert len(pool.source) == COUNT
    assert pool.source.shape[1:] == (8, SAMPLE_RATE // 480)
    assert pool.states.shape == (COUNT, POOL_TOKENS, 8)
    for name, value in pair.items():
        assert torch.equal(getattr(pool, name)[4], value), name
    assert not torch.equal(pool.source[0], pool.source[1])
    assert not torch.equal(pool.source[4], pool.edited[4])


def test_another_set_or_codec_is_refused(made: Path, tmp_path: Path, clips: Path, codec: Path) -> None:
    with pytest.raises(SmartDJError, match="other settings"):
        write(made, clips, codec, seed=4)
    torch.manual_seed(1)
    Codec(channels=4, multiples=(1, 2), strides=(10, 48), latent_dim=4).save_pretrained(tmp_path / "other")
    with pytest.raises(SmartDJError, match="another codec"):
        read_pool(made, Letters(), tmp_path / "other", "cpu")  # type: ignore[arg-type]
    with pytest.raises(SmartDJError, match="no complete set"):
        read_pool(tmp_path, Letters(), codec, "cpu")  # type: ignore[arg-type]
