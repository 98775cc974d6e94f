"""Look a GPU over before its minutes are spent: is the mixing right there, how fast are mixer and training steps?

python -m training.gpu_check [--device cuda] [--stages listener-clips listener codec]
"""

from __future__ import annotations

import argparse
import importlib
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.clips import open_store
from training.gpu_mixing import DeviceClips, make_scenes
from training.loop import Task, make_optimiser, read_config
from training.mixing import NONE, Variation

TASKS = {"listener-clips": ("listener", "ListenerTask"), "listener": ("listener", "ListenerTask"),
         "codec": ("codec", "CodecTask")}  # fmt: skip


def wait(device: str) -> float:
    """Wait for the device; returns the time."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.monotonic()


def check_mixing(clips: DeviceClips, device: str, size: int = 64) -> None:
    """The device's scenes equal the host's where nothing is drawn on the device; and how many it makes a second."""
    host = DeviceClips.__new__(DeviceClips)
    host.__dict__.update(clips.__dict__)
    host.samples = clips.samples.cpu()
    variation = Variation(0.2, 9.0, 0.3, 0.0, 0.0, 0.3, 6.0)
    ours, theirs = (
        make_scenes(where, (1,), 4, duration_s=2.0, variation=variation).mixture.cpu() for where in (clips, host)
    )
    error = float((ours - theirs).norm() / theirs.norm())
    print(f"mixing: relative difference to the host {error:.1e}", "(fine)" if error < 1e-3 else "(WRONG)")
    for label, kind in (("varied", Variation()), ("plain", NONE)):
        make_scenes(clips, (2,), size, duration_s=4.0, variation=kind)
        started = wait(device)
        for index in range(5):
            make_scenes(clips, (3, index), size, duration_s=4.0, variation=kind)
        print(f"mixing: {5 * size / (wait(device) - started):.0f} {label} scenes of 4 s per second")


def check_steps(task: Task, config: Any, device: str, steps: int = 12) -> None:
    """Median time of a training step, and the memory it takes."""
    model = task.model.to(device).train()
    optimiser = make_optimiser(model, config, fused=device.startswith("cuda"))
    times = []
    for index in range(steps):
        started = wait(device)
        batch = task.batch(np.random.default_rng(index), config.batch_size)
        made = wait(device)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=config.bf16):
            loss, _ = task.loss(batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        times.append((made - started, wait(device) - made))
    batch_s, step_s = np.median(np.array(times)[steps // 3 :], axis=0)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else 0.0
    print(f"  batch {1e3 * batch_s:.1f} ms, rest {1e3 * step_s:.1f} ms, {memory:.1f} GiB, loss {float(loss):.3f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stages", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    device = arguments.device
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        print(torch.__version__, torch.cuda.get_device_name())
    first = None
    for stage in arguments.stages:
        config, settings = read_config(Path(f"training/configs/{stage}-gpu.yaml"), arguments.set)
        settings.pop("start_from", None)
        settings["data"]["validation_scenes"] = 0
        settings["data"]["validation_apart"] = []
        if first is None:
            first = DeviceClips(open_store(settings["data"], "train"), device)
            check_mixing(first, device)
        module, name = TASKS[stage]
        print(f"{stage}, batch {config.batch_size}:")
        try:
            check_steps(getattr(importlib.import_module(f"training.{module}"), name)(settings, device), config, device)
        except Exception:  # one network that fails must not hide the others' figures
            traceback.print_exc()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
