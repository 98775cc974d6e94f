"""What travels to a GPU machine comes out as it went in, and its results come back whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smartdj_agent.render import apply_to_stem
from smartdj_agent.spatial import measure_azimuth
from smartdj_agent.steps import Operation
from training import gpu_pack
from training.clips import SAMPLE_RATE, Clip, ClipStore, open_store
from training.designer import default_knowledge
from training.gpu_mixing import DeviceClips
from training.gpu_pairs import PairMaker

ROOT = Path(__file__).parent.parent


def store_of(split: str, count: int = 7) -> ClipStore:
    clips, audio = [], []
    labels = sorted(default_knowledge().labels)[::30]
    for index in range(count):
        rng = np.random.default_rng([index, len(split)])
        time = np.arange(6000 + 2000 * index) / SAMPLE_RATE
        wave = np.sin(2 * np.pi * (200 + 150 * index) * time) * np.exp(-3 * time) + 0.02 * rng.standard_normal(
            len(time)
        )
        path = Path(f"/somewhere/esc10/{labels[index].replace(' ', '_')}/{index}.ogg")
        clips.append(Clip(path, labels[index], split, kind="continuous" if index % 2 else "transient"))
        audio.append((wave / np.abs(wave).max()).astype(np.float16))
    return ClipStore(clips, split, audio)


def test_clips_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [store_of("train"), store_of("valid", 3)]
    said = gpu_pack.pack_clips(stores, tmp_path / "packed", streams=2)
    assert said["clips"] == 10
    assert said["snr_db"] > 15
    gpu_pack.unpack_clips(tmp_path / "packed", tmp_path / "clips")
    monkeypatch.setenv("SMARTDJ_CLIPS", str(tmp_path / "clips"))
    for store in stores:
        back = open_store({}, store.clips[0].split)
        assert back.labels == store.labels
        assert [clip.kind for clip in back.clips] == [clip.kind for clip in store.clips]
        assert len(back.part("esc10")) == len(store)
        for ours, theirs in zip(back.audio, store.audio, strict=True):
            assert len(ours) == len(theirs)
            assert np.corrcoef(ours.astype(float), theirs.astype(float))[0, 1] > 0.97
            assert np.abs(ours).max() == pytest.approx(1.0, abs=1e-3)


def test_a_stream_holds_each_clip_in_its_place() -> None:
    waves = [np.full(100 + 10 * i, 0.5, np.float16) * (-1) ** i for i in range(4)]
    back = gpu_pack.decode_ogg(gpu_pack.encode_ogg(waves, 0.0), [len(wave) for wave in waves])
    assert [np.sign(wave.astype(float).mean()) for wave in back] == [1, -1, 1, -1]


def test_weights_in_eight_bits() -> None:
    state = {"a.weight": torch.randn(20, 30), "a.bias": torch.randn(20), "count": torch.arange(3)}
    back = gpu_pack.restored(gpu_pack.quantised(state, {"a.weight": [0, 5]}))
    kept = torch.tensor([0, 5])
    assert torch.allclose(back["a.weight"][kept], state["a.weight"][kept], atol=0.03)
    assert not back["a.weight"][1].any()
    assert torch.allclose(back["a.bias"], state["a.bias"], atol=1e-2)
    assert torch.equal(back["count"], state["count"])


def a_run(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    save_file({"w": torch.randn(100, 100)}, folder / "model" / "diffusion_pytorch_model.safetensors")
    (folder / "model" / "config.json").write_text("{}")
    (folder / "log.jsonl").write_text('{"step": 3}\n')
    weights = [torch.randn(100, 100)]
    optimiser = torch.optim.AdamW([torch.nn.Parameter(weights[0].clone())])
    optimiser.param_groups[0]["params"][0].grad = weights[0]
    optimiser.step()
    average = {"decay": 0.9, "shadow_params": [weight.clone() for weight in weights]}
    state = {"parameters": weights, "optimiser": optimiser.state_dict(), "average": average, "step": 3, "seconds": 1.0}
    torch.save(state, folder / "checkpoint.pt")
    return folder


@pytest.mark.parametrize(("budget", "has"), [(10**9, "all"), (150_000, "bf16"), (80_000, "weights"), (30_000, "none")])
def test_runs_come_back(tmp_path: Path, budget: int, has: str) -> None:
    run = a_run(tmp_path / "there" / "listener-gpu")
    parts = gpu_pack.pack_run(run, tmp_path / "out", budget, part_bytes=40_000)
    assert all(part.stat().st_size <= 40_000 for part in parts)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {part.name for part in parts}
    (back,) = gpu_pack.collect([tmp_path / "out"], tmp_path / "here")
    assert (back / "log.jsonl").read_bytes() == (run / "log.jsonl").read_bytes()
    name = "model/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(back / name)["w"], load_file(run / name)["w"]
    assert ours.dtype == torch.float16
    assert torch.allclose(ours.float(), theirs, atol=1e-2)
    assert (back / "checkpoint.pt").exists() == (has != "none")
    if has == "none":
        return
    state = torch.load(back / "checkpoint.pt", weights_only=True)
    whole = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    assert ("optimiser" in state) == (has != "weights")
    assert torch.allclose(state["parameters"][0].float(), whole["parameters"][0], atol=3e-2)
    if has == "all":
        assert torch.equal(state["optimiser"]["state"][0]["exp_avg"], whole["optimiser"]["state"][0]["exp_avg"])


def test_a_missing_part_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    parts = gpu_pack.pack_run(run, tmp_path / "out", part_bytes=40_000)
    parts[1].unlink()
    with pytest.raises(ValueError, match="is damaged"):
        gpu_pack.collect([tmp_path / "out"], tmp_path / "here")


def test_the_script_trains_and_leaves_parts(tmp_path: Path) -> None:
    """Run on the CPU with a training that only counts: the real script, the real loop."""
    work = tmp_path / "work"
    (work / "training" / "configs").mkdir(parents=True)
    for name in ("__init__", "gpu_pack", "loop"):
        (work / "training" / f"{name}.py").write_text((ROOT / "training" / f"{name}.py").read_text())
    (work / "training" / "gpu_run.sh").write_text((ROOT / "training" / "gpu_run.sh").read_text())
    (work / "training" / "configs" / "count-gpu.yaml").write_text(
        "loop: {steps: 30, batch_size: 2, learning_rate: 0.01, evaluate_every: 10000000, "
        "save_every: 10000000, log_every: 10, bf16: false, ema_decay: 0}\n"
    )
    (work / "training" / "count.py").write_text(
        "import torch\n"
        "from training.loop import command_line\n"
        "class Task:\n"
        "    def __init__(self, settings, device): self.model = torch.nn.Linear(2, 1)\n"
        "    def batch(self, rng, size): return torch.tensor(rng.random((size, 2)), dtype=torch.float32)\n"
        "    def loss(self, batch): return self.model(batch).square().mean(), {}\n"
        "    def evaluate(self): return {'figure': 1.0}\n"
        "    def save(self, folder): folder.mkdir(exist_ok=True); (folder / 'config.json').write_text('{}')\n"
        "command_line('Count.', Task)\n"
    )
    environment = {
        **os.environ, "HOME_DIR": str(tmp_path / "home"), "OUT": str(tmp_path / "out"), "DEVICE": "cpu",
        "PYTHON": sys.executable, "PYTHONPATH": "", "RESERVE": "2", "CARRY": "nothing",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "training/gpu_run.sh", "count", "90"], cwd=work, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (back,) = gpu_pack.collect([tmp_path / "out"], tmp_path / "runs")
    state = torch.load(back / "checkpoint.pt", weights_only=True)
    assert state["step"] == 30
    assert '"valid_figure": 1.0' in (back / "log.jsonl").read_text()


# --- pairs for the editor --------------------------------------------------------------------------------------


def test_pairs_are_what_the_steps_say() -> None:
    clips = DeviceClips(store_of("train"))
    maker = PairMaker(clips, default_knowledge(), 1.0)
    pairs, again = maker.make((1,), 40), maker.make((1,), 40)
    assert torch.equal(pairs.edited, again.edited)
    assert pairs.texts == again.texts
    seen = set()
    for source, edited, step in zip(pairs.source.numpy(), pairs.edited.numpy(), pairs.steps, strict=True):
        change = edited - source
        seen.add(step.operation)
        match step.operation:
            case Operation.ADD:
                assert np.abs(change).max() == pytest.approx(0.5 * 10 ** ((step.gain_db or 0) / 20), rel=1e-3)
                assert measure_azimuth(change, SAMPLE_RATE) == pytest.approx(step.azimuth_deg, abs=3)
            case Operation.VOLUME if change.any():
                stem = change / (10 ** (step.gain_db / 20) - 1)
                assert np.abs(apply_to_stem(stem, step, SAMPLE_RATE) - stem - change).max() < 1e-5
            case Operation.EXTRACT:
                assert np.square(edited).sum() <= np.square(source).sum() * 1.5
    assert seen == set(Operation)


def test_changes_of_a_stem_are_the_renderers() -> None:
    clips = DeviceClips(store_of("train"))
    maker = PairMaker(clips, default_knowledge(), 1.0)
    pairs = maker.make((2,), 64)
    stem = np.random.default_rng(0).standard_normal((2, maker.n)).astype(np.float32) * 0.1
    stem[1] *= 0.5
    for operation in (Operation.TIMBRE, Operation.SHIFT):
        steps = [step for step in pairs.steps if step.operation is operation][:3]
        many = torch.from_numpy(stem)[None].repeat(len(steps), 1, 1)
        ours = maker._changed(operation, many, np.full(len(steps), -45.0), steps, np.random.default_rng(0))
        for mine, step in zip(ours.numpy(), steps, strict=True):
            wanted = apply_to_stem(stem, step, SAMPLE_RATE)
            assert np.abs(mine - wanted).max() <= 2e-3 * np.abs(wanted).max()
    steps = [step for step in pairs.steps if step.operation is Operation.REVERB][:3]
    many = torch.from_numpy(stem)[None].repeat(len(steps), 1, 1)
    ours = maker._changed(Operation.REVERB, many, np.full(len(steps), -45.0), steps, np.random.default_rng(0)).numpy()
    for mine, step in zip(ours, steps, strict=True):
        wanted = apply_to_stem(stem, step, SAMPLE_RATE, seed=1)
        ours_db, theirs_db = (10 * np.log10(np.square(x - stem).sum()) for x in (mine, wanted))
        assert ours_db == pytest.approx(theirs_db, abs=2)
