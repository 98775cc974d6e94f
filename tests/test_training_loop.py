"""The training loop: resuming changes nothing, checkpoints are whole, settings are checked, averages are shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training import loop as loop_module
from training.loop import LoopConfig, learning_rate_factor, parameter_groups, read_config, train

KNOWN = {"data", "distil", "model", "loss", "start_from", "centre", "tagger", "stage", "augment", "discriminator"}
CONFIG = LoopConfig(
    steps=12,
    batch_size=4,
    learning_rate=0.05,
    warmup_steps=3,
    ema_decay=0.9,
    evaluate_every=5,
    save_every=4,
    log_every=2,
    seed=7,
    bf16=False,
)


class Line:
    """Fit a small network with dropout to a line; losses and seen data are kept."""

    def __init__(self, stop_after: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
        self.stop_after = stop_after
        self.losses: list[float] = []
        self.batches: list[np.ndarray] = []
        self.evaluated: list[list[Tensor]] = []
        self.modes: list[bool] = []

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        drawn = rng.standard_normal((size, 2)).astype(np.float32)
        self.batches.append(drawn)
        return torch.from_numpy(drawn)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        assert self.model.training
        # A second source of chance, as the codec's posterior is.
        wanted = batch.sum(1, keepdim=True) + 0.1 * torch.randn(len(batch), 1)
        loss = (self.model(batch) - wanted).square().mean()
        self.losses.append(float(loss.detach()))
        return loss, {"double": 2 * self.losses[-1]}

    def evaluate(self) -> dict[str, float]:
        self.evaluated.append(self.weights())
        self.modes.append(self.model.training)
        torch.rand(3)  # an evaluation that draws numbers must not change the training
        return {"figure": 1.23456}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.weights(), folder / "weights.pt")


class Stopping(Line):
    """Stops as a person would: by SIGTERM, in the middle of a step."""

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        if len(self.losses) + 1 == self.stop_after:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return super().loss(batch)


@pytest.fixture(autouse=True)
def _keep_signal_handler():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def state_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("stop_after", [1, 3, 5, 8, 11])
def test_resuming_changes_nothing(tmp_path: Path, stop_after: int) -> None:
    whole = Line()
    assert train(whole, CONFIG, tmp_path / "whole") == 12
    first = Stopping(stop_after)
    assert train(first, CONFIG, tmp_path / "parts") == stop_after
    second = Line()
    torch.manual_seed(99)
    with torch.no_grad():  # another initialisation must be overwritten by the checkpoint
        for parameter in second.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert train(second, CONFIG, tmp_path / "parts") == 12
    assert first.losses + second.losses == whole.losses
    assert np.array_equal(np.stack(first.batches + second.batches), np.stack(whole.batches))
    for ours, theirs in zip(second.weights(), whole.weights(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(second.evaluated[-1], whole.evaluated[-1], strict=True):
        assert torch.equal(ours, theirs)
    own, other = state_of(tmp_path / "parts"), state_of(tmp_path / "whole")
    assert own["step"] == other["step"] == 12
    for key in ("exp_avg", "exp_avg_sq", "step"):
        for index, entry in own["optimiser"]["state"].items():
            assert torch.equal(entry[key], other["optimiser"]["state"][index][key])


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path)
    before = state_of(tmp_path)
    again = Line()
    assert train(again, CONFIG, tmp_path) == 12
    assert again.losses == []
    assert all(torch.equal(a, b) for a, b in zip(state_of(tmp_path)["parameters"], before["parameters"], strict=True))


def test_a_time_limit_stops_resumably(tmp_path: Path) -> None:
    task = Line()
    assert train(task, CONFIG, tmp_path, stop_after_s=0.0) == 0
    assert task.losses == []
    assert state_of(tmp_path)["step"] == 0
    whole, resumed = Line(), Line()
    train(whole, CONFIG, tmp_path / "whole")
    assert train(resumed, CONFIG, tmp_path) == 12
    assert resumed.losses == whole.losses


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class Dying(Line):
        def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
            if len(self.losses) == 7:
                raise KeyboardInterrupt
            return super().loss(batch)

    with pytest.raises(KeyboardInterrupt):
        train(Dying(), CONFIG, tmp_path / "killed")
    assert state_of(tmp_path / "killed")["step"] == 4
    whole, resumed = Line(), Line()
    train(whole, CONFIG, tmp_path / "whole")
    train(resumed, CONFIG, tmp_path / "killed")
    assert resumed.losses == whole.losses[4:]


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.save
    saved = []

    def failing(state: object, path: Path) -> None:
        if Path(path).parent.name == "model":
            return real(state, path)
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        return real(state, path)

    monkeypatch.setattr(loop_module.torch, "save", failing)
    with pytest.raises(OSError, match="No space"):
        train(Line(), CONFIG, tmp_path)
    assert (tmp_path / "checkpoint.pt") not in saved
    assert state_of(tmp_path)["step"] == 4
    monkeypatch.undo()
    assert train(Line(), CONFIG, tmp_path) == 12
    assert state_of(tmp_path)["step"] == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl", "model"]


def test_averages_are_evaluated_and_saved(tmp_path: Path) -> None:
    class Recording(Line):
        def __init__(self) -> None:
            super().__init__()
            self.path: list[list[Tensor]] = []

        def batch(self, rng: np.random.Generator, size: int) -> Tensor:
            self.path.append(self.weights())
            return super().batch(rng, size)

    task = Recording()
    train(task, CONFIG, tmp_path)
    path = [*task.path[1:], task.weights()]
    assert task.modes == [False] * 3
    average = [weight.clone() for weight in task.path[0]]
    for index, weights in enumerate(path):
        # Karras-style warm-up of the decay as diffusers documents it: 1 − (1 + step)^−0.75 from the second update on.
        decay = 0.0 if index == 0 else min(1 - (1 + index) ** -0.75, CONFIG.ema_decay)
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
        if index in (4, 9, 11):
            for ours, expected in zip(task.evaluated[(4, 9, 11).index(index)], average, strict=True):
                torch.testing.assert_close(ours, expected)
    shipped = torch.load(tmp_path / "model" / "weights.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(shipped, task.evaluated[-1], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(shipped, task.weights(), strict=True))
    # The training itself goes on with its own weights.
    assert all(torch.equal(a, b) for a, b in zip(state_of(tmp_path)["parameters"], task.weights(), strict=True))


def test_without_averaging_the_weights_themselves_are_saved(tmp_path: Path) -> None:
    config = replace(CONFIG, ema_decay=0.0)
    task, resumed = Line(), Line()
    train(task, config, tmp_path / "whole")
    shipped = torch.load(tmp_path / "whole" / "model" / "weights.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(shipped, task.weights(), strict=True))
    train(Stopping(5), config, tmp_path / "parts")
    train(resumed, config, tmp_path / "parts")
    assert resumed.losses == task.losses[5:]


def test_log(tmp_path: Path) -> None:
    task = Line()
    train(task, CONFIG, tmp_path)
    lines = log_of(tmp_path)
    training = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "valid_figure" in line]
    assert [line["step"] for line in training] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in held_out] == [5, 10, 12]
    assert all(line["samples"] == 4 * line["step"] for line in lines)
    assert all(line["seconds"] >= 0 for line in lines)
    for index, line in enumerate(training):
        mean = np.mean(task.losses[2 * index : 2 * index + 2])
        assert line["loss"] == pytest.approx(mean, abs=1e-5)
        assert line["double"] == pytest.approx(2 * mean, abs=2e-5)
        assert line["norm"] > 0
    assert held_out[0]["valid_figure"] == 1.2346


def test_resumed_log_goes_on(tmp_path: Path) -> None:
    train(Stopping(6), CONFIG, tmp_path)
    train(Line(), CONFIG, tmp_path)
    assert [line["step"] for line in log_of(tmp_path) if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in log_of(tmp_path) if "valid_figure" in line] == [5, 6, 10, 12]
    seconds = [line["seconds"] for line in log_of(tmp_path)]
    assert seconds == sorted(seconds)


def test_a_gradient_that_is_no_number_is_skipped(tmp_path: Path) -> None:
    class Spoiled(Line):
        def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
            loss, extra = super().loss(batch)
            return (loss * float("nan"), {}) if len(self.losses) == 3 else (loss, extra)

    task = Spoiled()
    train(task, CONFIG, tmp_path)
    assert all(weight.isfinite().all() for weight in task.weights())
    assert all(weight.isfinite().all() for weight in task.evaluated[-1])
    assert len(task.losses) == 12


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    task = Line()
    task.model[0].requires_grad_(False)
    before = task.weights()
    train(task, CONFIG, tmp_path)
    after = task.weights()
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[2], after[2])
    assert len(state_of(tmp_path)["parameters"]) == 2


def test_learning_rate() -> None:
    config = replace(CONFIG, steps=103, warmup_steps=3, final_fraction=0.1)
    factors = [learning_rate_factor(step, config) for step in range(104)]
    assert factors[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert factors[53] == pytest.approx(0.55)
    assert factors[103] == pytest.approx(0.1)
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert learning_rate_factor(500, config) == pytest.approx(0.1)
    assert learning_rate_factor(0, replace(config, warmup_steps=0)) == 1.0


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(4, 2, 3))
    model[2].bias.requires_grad_(False)
    decayed, rest = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3), (2, 4, 3)]
    assert [tuple(p.shape) for p in rest["params"]] == [(4,), (4,), (4,)]


def test_unknown_settings_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("loop: {steps: 3, batch_size: 2, learning_rate: 1.0e-3, betas: [0.8, 0.9]}\nmodel: {width: 3}\n")
    config, rest = read_config(path)
    assert config == LoopConfig(steps=3, batch_size=2, learning_rate=1e-3, betas=(0.8, 0.9))
    assert rest == {"model": {"width": 3}}
    path.write_text("loop: {steps: 3, batch_size: 2, learning_rate: 1.0e-3, learnig_rate: 2}\n")
    with pytest.raises(ValueError, match="learnig_rate"):
        read_config(path)


def test_numbers_must_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    # YAML 1.1 reads 1e-3, without a point, as text.
    path.write_text("loop: {steps: 3, batch_size: 2, learning_rate: 1e-3}\n")
    with pytest.raises(ValueError, match="learning_rate"):
        read_config(path)


@pytest.mark.parametrize("path", sorted(Path("training/configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_settings(path: Path) -> None:
    config, rest = read_config(path)
    assert config.steps > config.warmup_steps
    assert isinstance(config.learning_rate, float)
    assert {"data", "model"} <= rest.keys() <= KNOWN


# --- what a GPU needs ---------------------------------------------------------------------------------------


def test_accumulated_batches_are_resumed_exactly(tmp_path: Path) -> None:
    config = replace(CONFIG, accumulate=3)
    whole = Line()
    train(whole, config, tmp_path / "whole")
    first, second = Stopping(8), Line()
    assert train(first, config, tmp_path / "parts") == 3
    train(second, config, tmp_path / "parts")
    assert first.losses + second.losses == whole.losses
    assert len(whole.losses) == 36
    assert log_of(tmp_path / "whole")[-1]["samples"] == 12 * 3 * 4


def test_batches_made_in_advance_are_the_same(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    class Ahead(Line):
        def __init__(self) -> None:
            super().__init__()
            self.workers = ThreadPoolExecutor(2)

        @staticmethod
        def prepare(seed: list[int], size: int) -> np.ndarray:
            return np.random.default_rng(seed).standard_normal((size, 2)).astype(np.float32)

        def batch(self, rng: np.random.Generator, size: int, prepared: np.ndarray | None = None) -> Tensor:
            assert prepared is not None
            self.batches.append(prepared)
            return torch.from_numpy(prepared)

    plain, ahead = Line(), Ahead()
    train(plain, CONFIG, tmp_path / "plain")
    train(ahead, replace(CONFIG, ahead=5), tmp_path / "ahead")
    assert ahead.losses == plain.losses


def test_a_companion_is_resumed_too(tmp_path: Path) -> None:
    class Companion(Line):
        count = 0

        def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
            self.count += 1
            return super().loss(batch)

        def extra_state(self) -> dict:
            return {"count": torch.tensor(self.count)}

        def load_extra_state(self, state: dict) -> None:
            self.count = int(state["count"])

    class Stopped(Companion):
        def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
            if self.count == 4:
                import signal

                signal.raise_signal(signal.SIGTERM)
            return super().loss(batch)

    assert train(Stopped(), CONFIG, tmp_path) == 5
    again = Companion()
    train(again, CONFIG, tmp_path)
    assert again.count == 12


def test_the_number_of_steps_fits_the_time(tmp_path: Path) -> None:
    import time

    class Slow(Line):
        def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
            time.sleep(0.004)
            return super().loss(batch)

    config = replace(CONFIG, steps=100_000, evaluate_every=100_000, save_every=100_000, log_every=50)
    started = time.monotonic()
    done = train(Slow(), config, tmp_path, fit_s=1.5, stop_after_s=10)
    assert time.monotonic() - started < 5
    assert state_of(tmp_path)["fitted_steps"] == done
    assert done > 80
    resumed = Line()
    assert train(resumed, config, tmp_path) == done
    assert resumed.losses == []
    assert train(Slow(), config, tmp_path, fit_s=1.0, stop_after_s=10) > done  # a finished run, told to fit again


def test_a_fused_optimiser_skips_what_is_not_finite() -> None:
    model = nn.Linear(2, 1)
    optimiser = loop_module.make_optimiser(model, CONFIG, fused=True)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for value, changed in ((float("nan"), False), (1.0, True)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimiser.found_inf = torch.tensor(float(not np.isfinite(value)))
        optimiser.step()
        now = list(model.parameters())
        assert all(torch.isfinite(parameter).all() for parameter in now)
        assert any(not torch.equal(ours, old) for ours, old in zip(now, before, strict=True)) == changed
