"""What training an editor would take, without training it: shapes, operations, memory, days and cost.

    python -m training.dry_run --config paper --markdown-into docs/training-cost.md

The networks are built without memory (torch's ``meta`` device) and run once, forwards and backwards, for their shapes,
operations and kept activations. From those and a few assumptions, all of them arguments, follows how long the whole
training lasts on some machines. Where there is a GPU, steps are also timed there at the largest batch that fits.

Writes ``dry_run.json`` and, with ``--markdown-into FILE``, the tables between ``<!-- training-cost -->`` and
``<!-- /training-cost -->`` of that file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from training.loop import LoopConfig, read_config

CONFIGS = Path(__file__).resolve().parent / "configs"
OUT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "dry_run.json"
ANCHOR = "training-cost"
GIB = 2**30
PAPER_GPU = "L40S"

TRAINING_BYTES = {
    "weights": 4,
    "gradients": 4,
    "AdamW's two moments": 8,
    "averaged weights": 4,
    "weights as bfloat16": 2,
}
"""Bytes per parameter, float32 masters with bfloat16 arithmetic (autocast)."""


# --- machines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What a training might run on.

    Attributes
    ----------
    gpu, count
        GPUs.
    peak_tflops
        Dense bfloat16 matrix operations per second and GPU, 10¹².
    memory_gib
        Of each GPU.
    price
        Of one GPU for an hour, dollars: an assumption, rents differ by more than two to one.
    """

    gpu: str
    count: int
    peak_tflops: float
    memory_gib: float
    price: float

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Read ``NAME:COUNT:PEAK_TFLOPS:MEMORY_GIB:PRICE``.

        Raises
        ------
        argparse.ArgumentTypeError
            If it is not that.
        """
        parts = text.split(":")
        try:
            name, count, *numbers = parts
            peak, memory, price = (float(number) for number in numbers)
            machine = cls(name, int(count), peak, memory, price)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME:COUNT:PEAK_TFLOPS:MEMORY_GIB:PRICE") from None
        if machine.count < 1 or min(peak, memory) <= 0 or price < 0:
            raise argparse.ArgumentTypeError(f"{text!r} has a number that is too small")
        return machine

    def __str__(self) -> str:
        return f"{self.count}× {self.gpu}"


MACHINES = ("L40S:4:362:45:1.2", "H100:1:989:79:2.5", "H100:8:989:79:2.5")
"""The paper's four L40S, one H100, and eight; peaks are the makers' dense bfloat16 figures."""


# --- networks on paper -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One part of a network: name, parameters, and the shape of what it returns for one sample."""

    name: str
    parameters: int
    output: tuple[int, ...]


@dataclass(frozen=True)
class Analysis:
    """What one network takes.

    Attributes
    ----------
    parts
        From input to output; equal neighbours (blocks) are one entry.
    parameters
        In all.
    forward_flops, training_flops
        Per sample, forwards, and forwards and backwards. A multiplication and an addition count as two.
    kept_bytes
        Activations that the backward pass needs, per sample, bfloat16 autocast and fused attention.
    kept_checkpointed_bytes
        The same if each block is computed again in the backward pass.
    """

    parts: tuple[Part, ...]
    parameters: int
    forward_flops: int
    training_flops: int
    kept_bytes: int
    kept_checkpointed_bytes: int


def count_parameters(module: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def inputs_of(model: EditDiT, batch: int, frames: int, tokens: int) -> tuple[Tensor, ...]:
    """Noisy and source latents, times and text states, of shapes only (on the default device)."""
    config = model.config
    latent = torch.zeros(batch, config.latent_dim, frames)
    return latent, latent.clone(), torch.zeros(batch), torch.zeros(batch, tokens, config.context_width)


def parts_of(model: EditDiT, frames: int, tokens: int) -> tuple[Part, ...]:
    """Run the network once and note what each part returns."""
    shapes: dict[str, tuple[int, ...]] = {}

    def noted(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            shapes[name] = tuple(output.shape)

        return note

    modules: list[tuple[str, nn.Module]] = [
        ("patch_embed", model.patch_embed),
        ("time_embed", model.time_embed),
        ("time_ada", model.time_ada),
        ("time_ada_final", model.time_ada_final),
        ("context_embed", model.context_embed),
        *((f"in_blocks.{index}", block) for index, block in enumerate(model.in_blocks)),
        ("mid_block", model.mid_block),
        *((f"out_blocks.{index}", block) for index, block in enumerate(model.out_blocks)),
        ("final_block", model.final_block),
    ]
    hooks = [module.register_forward_hook(noted(name)) for name, module in modules]
    with torch.no_grad():
        model(*inputs_of(model, 1, frames, tokens))
    for hook in hooks:
        hook.remove()
    parts: list[Part] = []
    runs: list[int] = []
    for name, module in modules:
        part = Part(name.split(".")[0], count_parameters(module), shapes[name])
        if parts and (parts[-1].name, parts[-1].output) == (part.name, part.output):
            parts[-1] = Part(part.name, parts[-1].parameters + part.parameters, part.output)
            runs[-1] += 1
        else:
            parts.append(part)
            runs.append(1)
    return tuple(
        Part(f"{part.name} × {run}" if run > 1 else part.name, part.parameters, part.output)
        for part, run in zip(parts, runs, strict=True)
    )


def kept_bytes(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `run`, other than the model's parameters.

    Call under `FakeTensorMode`: nothing is computed then, and memory that two tensors share counts once.
    """
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


def per_sample(total: Callable[[int], int]) -> int:
    """What one more sample adds: the weights' bfloat16 copies that autocast keeps are there once for all samples."""
    return total(2) - total(1)


def analyse(settings: dict[str, Any], latent_dim: int, frames: int, tokens: int) -> Analysis:
    """Build an editor without memory and run it for its shapes, operations and kept activations.

    Parameters
    ----------
    settings
        Of `EditDiT`, without `latent_dim`.
    latent_dim, frames
        Shape of a latent.
    tokens
        Of a text.
    """
    with torch.device("meta"):
        model = EditDiT(latent_dim=latent_dim, **settings)
        parts = parts_of(model, frames, tokens)
        inputs = inputs_of(model, 1, frames, tokens)
    with FlopCounterMode(display=False) as counter:
        predicted = model(*inputs)
        forward = counter.get_total_flops()
        predicted.sum().backward()
        training = counter.get_total_flops()
    # The CPU's kernels, not meta's: those would keep whole attention matrices, which no GPU does.
    with FakeTensorMode():
        model = EditDiT(latent_dim=latent_dim, **settings).train()
        block = model.mid_block
        width = model.config.width

        def whole(batch: int) -> int:
            given = inputs_of(model, batch, frames, tokens)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return kept_bytes(model, lambda: model(*given))

        def one_block(batch: int) -> int:
            x, time_ = torch.zeros(batch, frames, width), torch.zeros(batch, width)
            shared, text = torch.zeros(batch, 6 * width), torch.zeros(batch, tokens, width)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return kept_bytes(block, lambda: block(x, time_, shared, block.text_keys_values(text), None))

        kept, of_block = per_sample(whole), per_sample(one_block)
    # Each block's input stays (float32), half of them as skips too, which are the same memory; and one block at a time.
    checkpointed = len(model.blocks()) * frames * width * 4 + of_block
    return Analysis(parts, count_parameters(model), forward, training, kept, min(kept, checkpointed))


def codec_flops(codec_settings: dict[str, Any], seconds: float) -> tuple[int, int]:
    """Parameters of a codec, and operations to encode stereo of a length."""
    with torch.device("meta"):
        codec = Codec(**codec_settings)
        wave = torch.zeros(1, 2, round(seconds * codec.config.sample_rate))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        codec.encode_stereo(wave)
    return count_parameters(codec), counter.get_total_flops()


def differing_shapes(model_settings: dict[str, Any], latent_dim: int, listing: Path) -> list[str]:
    """Keys of a shape list (``editor_full_shapes.json``) that our network lacks, has too many or in another shape."""
    wanted = json.loads(listing.read_text(encoding="utf-8"))["shapes"]
    with torch.device("meta"):
        own = {
            key: list(value.shape)
            for key, value in EditDiT(latent_dim=latent_dim, **model_settings).state_dict().items()
        }
    return sorted(key for key in own.keys() | wanted.keys() if own.get(key) != wanted.get(key))


# --- projection --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Projection:
    """A whole training on one machine.

    Attributes
    ----------
    machine
        Which, in words.
    checkpointed
        Whether blocks are computed again in the backward pass, because a batch of `least_batch` does not fit otherwise.
    samples_at_once
        Largest batch per GPU that fits, at most its share of the step.
    accumulate
        Such batches per optimiser step.
    step_s, days, dollars
        Of one optimiser step, and of all.
    """

    machine: str
    checkpointed: bool
    samples_at_once: int
    accumulate: int
    step_s: float
    days: float
    dollars: float


LEAST_BATCH = 8
"""Samples per GPU at once below which blocks are rather computed again than kept."""
USABLE = 0.9
"""Share of a GPU's memory for weights and activations; the rest goes to the context, buffers and fragments."""


def project(analysis: Analysis, loop: LoopConfig, machine: Machine, mfu: float) -> Projection:
    """How long all steps take on a machine that reaches a share `mfu` of its peak.

    Each GPU holds everything that is trained (plain data parallelism).

    Raises
    ------
    SmartDJError
        USAGE if not even one sample fits beside the weights.
    """
    share = -(-loop.samples_per_step // machine.count)
    fixed = analysis.parameters * sum(TRAINING_BYTES.values())
    room = USABLE * machine.memory_gib * GIB - fixed
    fits = int(room // analysis.kept_bytes)
    checkpointed = fits < min(LEAST_BATCH, share)
    if checkpointed:
        fits = int(room // analysis.kept_checkpointed_bytes)
    if fits < 1:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"The network does not fit into a {machine.gpu} of {machine.memory_gib:g} GiB.",
            "Name a machine with more memory: --machine NAME:COUNT:PEAK_TFLOPS:MEMORY_GIB:PRICE.",
        )
    accumulate = -(-share // fits)
    flops = analysis.training_flops + (analysis.forward_flops if checkpointed else 0)
    step_s = flops * share / (machine.peak_tflops * 1e12 * mfu)
    days = step_s * loop.steps / 86_400
    dollars = days * 24 * machine.count * machine.price
    return Projection(str(machine), checkpointed, -(-share // accumulate), accumulate, step_s, days, dollars)


# --- measurement -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Steps timed on a device.

    Attributes
    ----------
    device
        Its name.
    batch
        Largest batch that fits, as a power of two.
    checkpointed
        Whether blocks were computed again.
    step_s
        Of that batch: forwards, backwards, AdamW; median.
    samples_per_s
        Samples a second.
    tflops
        Operations per second reached, 10¹², without those that checkpointing repeats.
    peak_gib
        Largest memory that torch allocated; None on a CPU.
    days
        Of the whole training on this one device.
    """

    device: str
    batch: int
    checkpointed: bool
    step_s: float
    samples_per_s: float
    tflops: float
    peak_gib: float | None
    days: float


def time_steps(model: EditDiT, batch: int, frames: int, tokens: int, device: str, count: int) -> float:
    """Median seconds of a training step on random numbers, after two that warm up."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device != "cpu")
    with torch.device(device):
        inputs = inputs_of(model, batch, frames, tokens)
    noise = torch.randn_like(inputs[0])
    times = []
    for _ in range(count + 2):
        started = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            predicted = model(noise, *inputs[1:])
        (predicted.float() - noise).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def measure(
    settings: dict[str, Any],
    latent_dim: int,
    frames: int,
    tokens: int,
    analysis: Analysis,
    loop: LoopConfig,
    device: str,
    largest: int,
    count: int = 5,
) -> Iterator[Measured]:
    """Time steps with and without checkpointing, the batch doubled until it no longer fits or is `largest`."""
    for checkpointed in (False, True):
        torch.manual_seed(loop.seed)
        model = EditDiT(latent_dim=latent_dim, **settings).train().to(device)
        model.gradient_checkpointing = checkpointed
        best: Measured | None = None
        batch = 1
        while batch <= largest:
            try:
                if device != "cpu":
                    torch.cuda.reset_peak_memory_stats()
                step_s = time_steps(model, batch, frames, tokens, device, count)
            except torch.OutOfMemoryError:
                break
            peak = None if device == "cpu" else torch.cuda.max_memory_allocated() / GIB
            name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
            rate = batch / step_s
            days = loop.steps * loop.samples_per_step / rate / 86_400
            tflops = rate * analysis.training_flops / 1e12
            best = Measured(name, batch, checkpointed, step_s, rate, tflops, peak, days)
            batch *= 2
        del model
        if device != "cpu":
            torch.cuda.empty_cache()
        if best is not None:
            yield best


# --- report ------------------------------------------------------------------------------------------------------


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = "| --- |" + " ---: |" * (len(headings) - 1)
    return "\n".join(["| " + " | ".join(headings) + " |", marks, *("| " + " | ".join(row) + " |" for row in rows)])


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(str(size) for size in shape)


def markdown(results: dict[str, Any]) -> str:
    """The tables, from what the JSON holds."""
    about, editor, loop = results["about"], results["editor"], results["loop"]
    samples = loop["steps"] * loop["samples_per_step"]
    parts = [
        f"Made by `{about['command']}` (torch {about['torch']}).",
        f"Editor of `{about['config']}`: {editor['parameters'] / 1e6:.2f} M parameters, latents of "
        f"{about['latent_dim']} × {about['frames']}, texts of {about['tokens']} tokens. "
        f"{loop['steps']:,} steps of {loop['samples_per_step']} = {samples / 1e6:.1f} M samples.",
    ]
    if about["shapes"] is not None:
        wrong = about["differing_shapes"]
        parts.append(
            f"Compared with `{about['shapes']}`: every key and shape is the same."
            if not wrong
            else f"Compared with `{about['shapes']}`: {len(wrong)} keys differ, such as `{wrong[0]}`."
        )
    rows = [[part["name"], f"{part['parameters'] / 1e6:.2f}", _shape(part["output"])] for part in editor["parts"]]
    parts.append(_table(["part", "parameters, M", "returns"], rows))
    mib = 2**20
    rows = [
        ["forwards, per sample", f"{editor['forward_flops'] / 1e12:.3f} TFLOP"],
        ["forwards and backwards, per sample", f"{editor['training_flops'] / 1e12:.3f} TFLOP"],
        ["all samples", f"{editor['training_flops'] * samples:.3g} FLOP"],
        ["activations kept, per sample", f"{editor['kept_bytes'] / mib:.1f} MiB"],
        ["the same, blocks computed again", f"{editor['kept_checkpointed_bytes'] / mib:.1f} MiB"],
        *(
            [f"{name}, per GPU", f"{editor['parameters'] * size / GIB:.2f} GiB"]
            for name, size in TRAINING_BYTES.items()
        ),
    ]
    parts.append(_table(["what", "takes"], rows))
    codec, pairs = results["codec"], about["pairs"]
    parts.append(
        f"Latents are encoded once: {codec['encode_flops'] / 1e12:.2f} TFLOP per recording by the codec "
        f"({codec['parameters'] / 1e6:.1f} M parameters), {2 * codec['encode_flops'] * pairs:.3g} FLOP for "
        f"{pairs / 1e6:g} M pairs, which are {codec['latent_bytes'] * 2 * pairs / 1e9:.0f} GB as float16."
    )
    rows = [
        [
            row["machine"] + (" (the paper's)" if row["machine"] == about["paper_machine"] else ""),
            f"{row['samples_at_once']} × {row['accumulate']}" + (", blocks again" if row["checkpointed"] else ""),
            f"{row['step_s']:.2f}",
            f"{row['days']:.1f}",
            f"{row['dollars']:,.0f}",
        ]
        for row in results["projections"]
    ]
    parts.append(_table(["machine", "batch per GPU × accumulated", "s per step", "days", "dollars"], rows))
    kinds = {machine["gpu"]: machine for machine in results["machines"]}
    prices = ", ".join(
        f"{gpu} {kind['peak_tflops']:g} TFLOP/s, {kind['memory_gib']:g} GiB, ${kind['price']:g} an hour"
        for gpu, kind in kinds.items()
    )
    parts.append(
        f"Assumed: {about['mfu']:.0%} of the peak is reached; {prices}; each GPU holds all weights. The network's "
        "arithmetic only: waiting for data and for other GPUs comes on top. The paper names four L40S and no time."
    )
    if results["measured"]:
        rows = [
            [
                row["device"] + (", blocks again" if row["checkpointed"] else ""),
                str(row["batch"]),
                f"{row['step_s']:.3f}",
                f"{row['samples_per_s']:.1f}",
                f"{row['tflops']:.1f}",
                "–" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}",
                f"{row['days']:.1f}",
            ]
            for row in results["measured"]
        ]
        parts.append("Measured on this machine, at the largest batch that fits (powers of two):")
        headings = ["device", "batch", "s per batch", "samples/s", "TFLOP/s", "GiB", "days for all, this one alone"]
        parts.append(_table(headings, rows))
    else:
        parts.append("No step was timed: there was no GPU.")
    return "\n\n".join(parts)


# --- command line ------------------------------------------------------------------------------------------------


def config_path(name: str, network: str = "editor") -> Path:
    """A configuration by its name (``paper``) or path.

    Raises
    ------
    SmartDJError
        USAGE if there is none.
    """
    for path in (Path(name), CONFIGS / f"{network}-{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem.removeprefix(f"{network}-") for path in CONFIGS.glob(f"{network}-*.yaml"))
    raise SmartDJError(
        ErrorCode.USAGE, f"There is no configuration {name!r}.", f"Known: {', '.join(known)}; or a path."
    )


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="name as in training/configs/editor-NAME.yaml, or a path")
    parser.add_argument("--codec", help="the codec's configuration; by default of the same name, else the released one")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of a text (the paper's: padded to 100)")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="training pairs that are encoded beforehand")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of a GPU's peak that training reaches")
    parser.add_argument(
        "--machine",
        type=Machine.parse,
        action="append",
        metavar="NAME:COUNT:PEAK_TFLOPS:MEMORY_GIB:PRICE",
        help=f"repeatable; by default {' '.join(MACHINES)}",
    )
    parser.add_argument(
        "--shapes", type=Path, help="a list of keys and shapes to compare with (editor_full_shapes.json)"
    )
    parser.add_argument("--measure", default="auto", help="device to time steps on; auto is the GPU if there is one")
    parser.add_argument("--largest", type=int, default=256, help="largest batch that is tried there")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--markdown-into", type=Path, help=f"file whose <!-- {ANCHOR} --> part is replaced")
    chosen = parser.parse_args(given)
    if not 0 < chosen.mfu <= 1:
        parser.error("--mfu is a share: above 0, at most 1")
    chosen.machine = chosen.machine or [Machine.parse(text) for text in MACHINES]
    if chosen.measure == "auto":
        chosen.measure = "cuda" if torch.cuda.is_available() else "none"
    return chosen


def examine(chosen: argparse.Namespace, command: str) -> dict[str, Any]:
    """Everything, as it goes into the JSON."""
    loop, settings = read_config(config_path(chosen.config))
    codec_settings: dict[str, Any] = {}
    if chosen.codec is not None:
        codec_settings = read_config(config_path(chosen.codec, "codec"))[1]["model"]
    elif (CONFIGS / f"codec-{chosen.config}.yaml").is_file():
        codec_settings = read_config(CONFIGS / f"codec-{chosen.config}.yaml")[1]["model"]
    with torch.device("meta"):
        codec = Codec(**codec_settings)
    seconds = float(settings["data"]["duration_s"])
    frames = -(-round(seconds * codec.config.sample_rate) // codec.hop)
    latent_dim = 2 * codec.config.latent_dim
    analysis = analyse(settings["model"], latent_dim, frames, chosen.tokens)
    codec_parameters, encode_flops = codec_flops(codec_settings, seconds)
    measured: list[Measured] = []
    if chosen.measure != "none":
        sizes = (latent_dim, frames, chosen.tokens)
        measured = list(measure(settings["model"], *sizes, analysis, loop, chosen.measure, chosen.largest))
    wrong = [] if chosen.shapes is None else differing_shapes(settings["model"], latent_dim, chosen.shapes)
    return {
        "about": {
            "command": command,
            "config": config_path(chosen.config).name,
            "torch": torch.__version__,
            "latent_dim": latent_dim,
            "frames": frames,
            "tokens": chosen.tokens,
            "pairs": chosen.pairs,
            "mfu": chosen.mfu,
            "paper_machine": f"4× {PAPER_GPU}",
            "shapes": None if chosen.shapes is None else chosen.shapes.name,
            "differing_shapes": wrong,
        },
        "loop": {"steps": loop.steps, "samples_per_step": loop.samples_per_step},
        "editor": asdict(analysis),
        "codec": {
            "parameters": codec_parameters,
            "encode_flops": encode_flops,
            "latent_bytes": latent_dim * frames * 2,
        },
        "machines": [asdict(machine) for machine in chosen.machine],
        "projections": [asdict(project(analysis, loop, machine, chosen.mfu)) for machine in chosen.machine],
        "measured": [asdict(row) for row in measured],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if shapes differ, 2 for other errors."""
    from smartdj_agent.files import write_file
    from training.evaluate import replace_anchored

    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _arguments(given)
    told = Console(stderr=True)
    document: Path | None = chosen.markdown_into
    try:
        if document is not None:
            # A wrong file shall show before the work, not after it.
            replace_anchored(document.read_text(encoding="utf-8"), ANCHOR, "")
        results = examine(chosen, shlex.join(["python", "-m", "training.dry_run", *given]))
        body = markdown(results)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(chosen.out, json.dumps(results, indent=1, ensure_ascii=False) + "\n", overwrite=True)
        if document is not None:
            write_file(document, replace_anchored(document.read_text(encoding="utf-8"), ANCHOR, body), overwrite=True)
    except (SmartDJError, OSError, ValueError) as error:
        told.print(f"error: {error}", style="red", highlight=False)
        return 2
    print(body)
    if results["about"]["differing_shapes"]:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
