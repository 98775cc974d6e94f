"""The one training loop: resumable, seeded by samples seen, logging to ``log.jsonl``, on CPU or CUDA.

A task supplies a model, batches and a loss; the loop owns optimiser, schedule, averaging of weights, checkpoints and
logging. Because batch *i* is a pure function of the seed and *i*, a run that was interrupted and resumed sees the same
data as one that was not.

On CUDA nothing waits for the device between two log lines: figures stay tensors until they are written, a step whose
gradient is not finite is skipped inside the fused optimiser, and weights are averaged where they lie.

Several processes, also on several machines, train one model where they are started together::

    accelerate launch --num_processes 2 --cpu -m training.planner --config … --out …
    torchrun --nnodes 2 --nproc-per-node 8 … -m training.editor --config … --out … --device cuda
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import yaml
from torch import Tensor, nn

Result = TypeVar("Result")


@dataclass(frozen=True)
class LoopConfig:
    """What the loop needs to know; read from the ``loop`` section of a YAML file.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps in all and samples in each.
    learning_rate, warmup_steps, final_fraction
        Linear warm-up, then cosine decay to `final_fraction` of the peak.
    weight_decay, betas, clip_norm
        AdamW and gradient clipping.
    ema_decay
        Decay of the averaged weights that are evaluated and shipped; 0 switches averaging off.
    evaluate_every, save_every, log_every
        In steps.
    seed
        Of data and initialisation.
    bf16
        Run the forward pass in bfloat16 autocast.
    accumulate
        Batches whose gradients make one step; `batch_size` is that of each.
    compile
        Let torch compile what the task names in its `compiled` (costs a minute at the start).
    ahead
        Batches that are prepared by other processes in advance, where the task has them.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    final_fraction: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    evaluate_every: int = 500
    save_every: int = 200
    log_every: int = 20
    seed: int = 0
    bf16: bool = True
    accumulate: int = 1
    compile: bool = False
    ahead: int = 0

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimiser step sees."""
        return self.batch_size * self.accumulate


class Task(Protocol):
    """What a training script supplies.

    Further attributes are used where a task has them: `compiled` (modules that torch may compile), `prepare` and
    `workers` (a function of a seed and a size, and the executor that runs it in advance; `batch` is then given its
    result as `prepared`), `extra_state` and `load_extra_state` (what else belongs into a checkpoint, such as a
    discriminator), `rates` (factors on the learning rate by the beginnings of parameters' names; 0 leaves them as they
    are), and `progress` (set to the share of steps done before each step).
    """

    model: nn.Module

    def batch(self, rng: np.random.Generator, size: int) -> Any:
        """Make one batch; all chance comes from `rng`."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return the loss and figures to log."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Return held-out figures of the current weights."""
        ...

    def save(self, folder: Path) -> None:
        """Write the current weights where the agent can load them."""
        ...


def read_config(path: Path, changes: Sequence[str] = ()) -> tuple[LoopConfig, dict[str, Any]]:
    """Read a YAML file into the loop's part and the rest; `changes` like ``loop.seed=3`` come on top.

    Raises
    ------
    ValueError
        If the ``loop`` section has unknown keys, or text where a number belongs.
    """
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    for change in changes:
        name, _, value = change.partition("=")
        *parents, last = name.split(".")
        section = settings
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = yaml.safe_load(value)
    loop = settings.pop("loop")
    known = {field.name for field in fields(LoopConfig)}
    if unknown := set(loop) - known:
        raise ValueError(f"{path}: unknown keys in loop: {sorted(unknown)}; known are {sorted(known)}")
    if texts := sorted(name for name, value in loop.items() if isinstance(value, str)):
        raise ValueError(f"{path}: {texts} in loop are text; YAML takes 1e-3 for text, write 1.0e-3")
    if "betas" in loop:
        loop["betas"] = tuple(loop["betas"])
    return LoopConfig(**loop), settings


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Factor on the peak learning rate: linear warm-up, cosine decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * cosine


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Decay matrices, not biases, norms or gains; `rates` are factors on the learning rate by the names' beginnings."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for name, parameter in model.named_parameters():
        rate = next((rate for start, rate in (rates or {}).items() if name.startswith(start)), 1.0)
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim >= 2, rate), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0, "rate": rate}
        for (decayed, rate), parameters in groups.items()
    ]


FIT_STEPS = (20, 60)
"""Between which steps of a run the time is taken: the first ones load and compile."""


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together, and which of them this one is.

    Each does its own parts of every step: process r those from r · accumulate on, of count · accumulate. So two
    processes see what one sees with twice the `accumulate`, and their gradients' mean is the same but for rounding.

    Attributes
    ----------
    rank
        Number of this one; only 0 logs, evaluates and saves.
    count
        How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def started(cls, device: str) -> Processes:
        """Those that ``accelerate launch`` or ``torchrun`` has started, connected (gloo on CPUs, NCCL on GPUs)."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not device.startswith("cuda"))
        return cls(state.process_index, state.num_processes)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Add the processes' gradients, each of which is divided by the number of parts already."""
        if self.count > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            torch.distributed.all_reduce(flat)
            start = 0
            for gradient in gradients:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the tensors of the first."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    def any(self, true: bool) -> bool:
        """Whether it is true in any process: all have to end after the same step."""
        return any(self.gathered(true))

    def gathered(self, value: Result) -> list[Result]:
        """Every process's value, in order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def part(self) -> None:
        """Take leave of each other, all at the same place; the object is of no use afterwards.

        Without it gloo's threads live on while the interpreter goes down, and one that then wants Python's lock has its
        process aborted ("terminate called without an active exception").
        """
        if self.count > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


class _Batches:
    """Batches in order, made in advance where the task can: each a pure function of the seed, the step and its part."""

    def __init__(self, task: Task, config: LoopConfig, step: int, processes: Processes) -> None:
        self.task, self.config, self.processes = task, config, processes
        self.workers = getattr(task, "workers", None) if config.ahead else None
        self.waiting: deque[Future[Any]] = deque()
        self.asked = step * config.accumulate

    def place(self, index: int) -> tuple[int, int, int]:
        """Step, part, and number of parts of this process's batch `index`, counted over all processes."""
        step, part = divmod(index, self.config.accumulate)
        parts = self.config.accumulate * self.processes.count
        return step, self.processes.rank * self.config.accumulate + part, parts

    def seed(self, index: int) -> list[int]:
        """Seed of this process's batch `index`."""
        step, part, parts = self.place(index)
        return [self.config.seed, step] if parts == 1 else [self.config.seed, step, part]

    def get(self, index: int) -> Any:
        """Batch `index`; called with consecutive numbers."""
        size = self.config.batch_size
        if self.workers is None:
            return self.task.batch(np.random.default_rng(self.seed(index)), size)
        last = min(index + self.config.ahead, self.config.steps * self.config.accumulate)
        while self.asked < last or not self.waiting:
            self.waiting.append(self.workers.submit(self.task.prepare, self.seed(self.asked), size))  # type: ignore[attr-defined]
            self.asked += 1
        return self.task.batch(np.random.default_rng(self.seed(index)), size, prepared=self.waiting.popleft().result())  # type: ignore[call-arg]


def mean_figures(figures: Mapping[str, list[float | Tensor]]) -> dict[str, float]:
    """Means of what was gathered since the last log line; the only place that waits for the device."""
    means = {}
    for name, values in figures.items():
        tensors = [value.detach().float() for value in values if isinstance(value, Tensor)]
        numbers = torch.stack(tensors).tolist() if tensors else []
        numbers += [value for value in values if not isinstance(value, Tensor)]
        means[name] = round(float(np.nanmean(numbers)), 5) if not np.all(np.isnan(numbers)) else math.nan
    return means


def make_optimiser(
    model: nn.Module, config: LoopConfig, *, fused: bool, rates: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW; fused, it is one kernel for all parameters and skips a step by itself when told that `found_inf`."""
    groups = parameter_groups(model, config.weight_decay, rates)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused or None)


def train(
    task: Task,
    config: LoopConfig,
    folder: Path,
    *,
    device: str = "cpu",
    stop_after_s: float = math.inf,
    fit_s: float | None = None,
) -> int:
    """Train until `config.steps` or for `stop_after_s` seconds; resume from `folder` if it has a checkpoint.

    Writes ``checkpoint.pt`` (atomically), ``log.jsonl`` and, through `task.save`, ``model/``.

    With `fit_s`, the number of steps (and with it the decay of the learning rate) is chosen so that training ends
    after about that many seconds: from the time that steps `FIT_STEPS` took; it is then kept in the checkpoint. A run
    that resumes with a checkpoint that knows its number of steps keeps it, unless it is told to fit again.

    Several processes that ``accelerate launch`` or ``torchrun`` has started train one model, see `Processes`. All of
    them read the checkpoint: `folder` has to be one that all see. A task that keeps more than its model, such as a
    discriminator, takes one process.

    Raises
    ------
    ValueError
        For such a task in several processes.

    Returns
    -------
    int
        Steps done in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    processes = Processes.started(device)
    if processes.count > 1 and hasattr(task, "extra_state") and task.extra_state():
        raise ValueError("this task keeps more than its model between steps: train it in one process")
    model = task.model.to(device).train()
    processes.share([*model.parameters(), *model.buffers()])
    rates: Mapping[str, float] = getattr(task, "rates", {})
    for name, parameter in model.named_parameters():
        if any(name.startswith(start) and not rate for start, rate in rates.items()):
            parameter.requires_grad_(False)
    optimiser = make_optimiser(model, config, fused=on_gpu, rates=rates)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = None
    if config.ema_decay:
        from diffusers.training_utils import EMAModel

        average = EMAModel(trained, decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=on_gpu)
    step, seconds = 0, 0.0
    fitted: int | None = None
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        for parameter, saved in zip(trained, state["parameters"], strict=True):
            parameter.data.copy_(saved)
        optimiser.load_state_dict(state["optimiser"])
        if average is not None:
            average.load_state_dict(state["average"])
            average.to(device)
        if "extra" in state:
            task.load_extra_state(state["extra"])  # type: ignore[attr-defined]
        step, seconds = state["step"], state["seconds"]
        fitted = state.get("fitted_steps")
        steps = fitted or config.steps
        if fit_s is not None:  # a finished run goes on too: far enough to measure its steps
            steps = max(steps, step + FIT_STEPS[1] + 1)
        config = replace(config, steps=steps)
    if config.compile:
        for module in getattr(task, "compiled", ()):
            module.compile()
    leads = processes.rank == 0
    log = (folder / "log.jsonl").open("a", encoding="utf-8") if leads else None

    def record(**figures: Any) -> None:
        if log is None:
            return
        samples = step * config.samples_per_step * processes.count
        line = {"step": step, "samples": samples, "seconds": round(seconds, 1), **figures}
        log.write(json.dumps(line) + "\n")
        log.flush()
        print(line, flush=True)

    def evaluate() -> None:
        if not leads:
            return
        model.eval()
        if average is not None:
            average.store(trained)
            average.copy_to(trained)
        with torch.inference_mode():
            record(**{f"valid_{name}": round(value, 4) for name, value in task.evaluate().items()})
        task.save(folder / "model")
        if average is not None:
            average.restore(trained)
        model.train()

    def save() -> None:
        if not leads:
            return
        state = {
            "parameters": [parameter.data for parameter in trained],
            "optimiser": optimiser.state_dict(),
            "average": average.state_dict() if average is not None else {},
            "step": step,
            "seconds": seconds,
            "fitted_steps": fitted,
            "config": asdict(config),
        }
        if hasattr(task, "extra_state"):
            state["extra"] = task.extra_state()
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, checkpoint)

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    batches = _Batches(task, config, step, processes)
    started = time.monotonic()
    first, marked = step, 0.0
    figures: dict[str, list[float | Tensor]] = {}
    while step < config.steps and not processes.any(stopping or time.monotonic() - started >= stop_after_s):
        before = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config) * group["rate"]
        task.progress = step / config.steps  # type: ignore[attr-defined]
        optimiser.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            index = step * config.accumulate + part
            batch = batches.get(index)
            _, place, parts = batches.place(index)
            torch.manual_seed(config.seed * 1_000_003 + step * parts + place)
            with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=config.bf16):
                loss, extra = task.loss(batch)
            (loss / parts if parts > 1 else loss).backward()
            for name, value in {"loss": loss.detach(), **extra}.items():
                figures.setdefault(name, []).append(value if on_gpu else float(value))
        if processes.count > 1:
            for parameter in trained:  # what one process didn't use, another may have
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            processes.average([parameter.grad for parameter in trained if parameter.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        if on_gpu:
            optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        if on_gpu or torch.isfinite(norm):
            optimiser.step()
            if average is not None:
                average.step(trained)
        figures.setdefault("norm", []).append(norm.detach() if on_gpu else float(norm))
        step += 1
        if fit_s is not None and step - first in FIT_STEPS:
            if on_gpu:
                torch.cuda.synchronize()
            if step - first == FIT_STEPS[0]:
                marked = time.monotonic()
            else:
                now = time.monotonic()
                each = (now - marked) / (FIT_STEPS[1] - FIT_STEPS[0])
                # Some hundredths are for looking back at held-out sounds and for saving.
                fitted = step + max(1, int(0.97 * (fit_s - (now - started)) / each))
                fitted = processes.gathered(fitted)[0]  # one number for all
                batches.config = config = replace(config, steps=fitted)
                record(planned_steps=fitted, step_s=round(each, 4))
        if step % config.log_every == 0:
            lines = processes.gathered(mean_figures(figures))
            line = {name: round(float(np.mean([own[name] for own in lines])), 5) for name in lines[0]}
            seconds += time.monotonic() - before
            record(**line)
            figures = {}
        else:
            seconds += time.monotonic() - before
        if step % config.evaluate_every == 0 or step == config.steps:
            evaluate()
        if step % config.save_every == 0:
            save()
    save()
    if step % config.evaluate_every != 0 and step < config.steps:
        evaluate()
    if log is not None:
        log.close()
    processes.part()
    return step


def command_line(description: str | None, make_task: Callable[[dict[str, Any], str], Task]) -> None:
    """Run a training script: read ``--config``, make the task on ``--device``, train into ``--out``.

    Parameters
    ----------
    description
        The script's docstring; its first line is shown by ``--help``.
    make_task
        Called with the settings outside ``loop`` and the device.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop (resumably) after this long")
    parser.add_argument("--fit-minutes", type=float, help="choose the number of steps so that it ends after this long")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change settings, as loop.seed=3")
    arguments = parser.parse_args()
    config, settings = read_config(arguments.config, arguments.set)
    torch.manual_seed(config.seed)
    device = arguments.device
    if device == "cuda" and "LOCAL_RANK" in os.environ:  # of accelerate and torchrun
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    task = make_task(settings, device)
    train(
        task,
        config,
        arguments.out,
        device=device,
        stop_after_s=60 * arguments.minutes,
        fit_s=None if arguments.fit_minutes is None else 60 * arguments.fit_minutes,
    )
