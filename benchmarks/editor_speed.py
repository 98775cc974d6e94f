"""What makes the editor fast: from a plain diffusers loop to the product, one change at a time, and the quality beside.

    python benchmarks/editor_speed.py --markdown-into docs/speed.md

A plan of four steps is carried out on ten seconds in generate mode, on the CPU and, where there is one, on the GPU. The
first row does what a straightforward script does: 50 DDIM steps, a WAV file between two steps of the plan, both texts
encoded at every denoising step. Each further row adds one change; what does not pay on a device is dropped again. Then
the same edit with fewer denoising steps; each operation in preserve mode; and one step of it from ten seconds to ten
minutes, plotted, with a straight line through the costs.

Writes ``editor_speed.json`` and, with ``--markdown-into FILE``, the tables between ``<!-- editor-speed -->`` and
``<!-- /editor-speed -->`` of that file, and the plot beside it. ``--quick`` runs everything on networks of a few
thousand random weights: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import soundfile
import torch
from rich.console import Console
from torch import Tensor, nn

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio, read_audio, resample, to_stereo
from smartdj_agent.editor import Chain, Editor, StepOutcome
from smartdj_agent.errors import SmartDJError
from smartdj_agent.files import write_file
from smartdj_agent.models.codec import Codec, SnakeBeta, WeightNormConv
from smartdj_agent.models.dit import EditDiT, Rotary, TextKeysValues
from smartdj_agent.models.listener import Listener
from smartdj_agent.models.presets import SAMPLE_RATE, get_preset
from smartdj_agent.models.text import TextEncoder
from smartdj_agent.models.weights import is_installed
from smartdj_agent.sampling import Conditioning, SamplerConfig, denoise, guided, make_scheduler
from smartdj_agent.steps import Operation, Step, Timbre, format_step
from training.drawing import save_png
from training.metrics import lsd, si_sdr_db

HERE = Path(__file__).resolve().parent
RECORDING = HERE.parent / "examples" / "demo.wav"
ANCHOR = "editor-speed"

PLAN = (
    Step(Operation.REMOVE, "car engine"),
    Step(Operation.VOLUME, "dog barking", gain_db=-6),
    Step(Operation.DIRECTION, "footsteps on stone", to_azimuth_deg=-90),
    Step(Operation.TIMBRE, "person laughing", timbre=Timbre.DARK),
)
"""The four-step plan; it names what is heard in the demo recording."""
PAYS = 1.02
"""A change that makes the plan less than this many times as fast is dropped: it is within what timings vary by."""
REPEAT_S = 6.0
"""A measurement is repeated, at most `REPEATS` times, until it has taken this long."""
REPEATS = 3
SAME_SI_SDR_DB = 100.0
"""SI-SDR from which on two results are called equal; float32 rounding alone leaves about 110 dB."""
AIM = 0.5
"""Aim in preserve mode on two cores: seconds of computing per second of audio."""

Size = Literal["small", "paper", "tiny"]


# --- networks ------------------------------------------------------------------------------------------------------


class RandomText(nn.Module):
    """Stands in for a text encoder whose weights aren't here: same sizes, same cost, random weights.

    Parameters
    ----------
    width
        Of its states.
    tokens
        Length that every text is padded to.
    trunk
        A T5 encoder of random weights, or None for embeddings only.
    """

    def __init__(self, width: int, tokens: int, trunk: nn.Module | None) -> None:
        super().__init__()
        self.width, self.tokens, self.trunk = width, tokens, trunk
        self.table = nn.Embedding(256, width)

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token states, shape (B, tokens, width), and the mask of what to attend, shape (B, tokens)."""
        ids = torch.tensor([list(text.encode()[: self.tokens].ljust(self.tokens, b"\0")) for text in texts])
        ids = ids.to(self.table.weight.device)
        states = self.table(ids) if self.trunk is None else self.trunk(input_ids=ids).last_hidden_state
        return states, torch.ones_like(ids, dtype=torch.bool)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """One unit vector per text, shape (B, width), drawn from the text's checksum."""
        drawn = [
            torch.randn(self.width, generator=torch.Generator().manual_seed(zlib.crc32(t.encode()))) for t in texts
        ]
        return nn.functional.normalize(torch.stack(drawn), dim=-1)


def random_editor(size: Size, device: str) -> Editor:
    """An editor of a size with seeded random weights: they cost what trained ones cost."""
    torch.manual_seed(0)
    editor = Editor(get_preset("paper" if size == "paper" else "small"), device, None)
    trunk: nn.Module | None = None
    if size == "paper":
        from transformers import T5Config, T5EncoderModel

        # FLAN-T5-large
        sizes = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
        trunk = T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu", vocab_size=32128))
        parts: dict[str, Any] = {"text": RandomText(1024, 100, trunk), "dit": EditDiT(), "codec": Codec()}
    else:
        listener = Listener(
            stem_channels=(2, 2, 2, 2), width=8, depth=1, heads=1, query_depth=1, pixel_channels=2, text_width=8
        )
        dit = EditDiT(latent_dim=8, width=16, depth=2, heads=2, mlp_ratio=1.0, rank=2, alpha=2, context_width=8)
        # Zero as it starts, the text would change nothing and a benchmark that mixes texts up would look right.
        for block in dit.blocks():
            nn.init.normal_(block.cross_attn.proj.weight)
        text = RandomText(8, 12, None)
        codec = Codec(channels=2, multiples=(1, 1), strides=(24, 20), latent_dim=4)
        parts = {"text": text, "encoder": text, "dit": dit, "codec": codec, "listener": listener}
        editor.sampler = SamplerConfig(steps=2)
    for name, part in parts.items():
        # As if they had been loaded: the properties keep what they make in the instance.
        editor.__dict__[name] = part.eval().requires_grad_(False).to(device)
    return editor


def open_editor(size: Size, device: str) -> tuple[Editor, str]:
    """An editor and where its weights are from."""
    if size == "small":
        # Without the person's own libraries, which others don't have.
        return Agent("small", device, library=()).editor, "shipped weights"
    if size == "paper" and is_installed("paper", "editor") and is_installed("paper", "codec"):
        return Editor(get_preset("paper"), device, None), "imported weights"
    return random_editor(size, device), "random weights"


class PlainSnake(nn.Module):
    """The codec's activation as it is usually written: five tensors as long as the audio, constants made every time."""

    def __init__(self, snake: SnakeBeta) -> None:
        super().__init__()
        self.alpha, self.beta = snake.alpha, snake.beta

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, n) → same shape."""
        alpha, beta = self.alpha.exp()[None, :, None], self.beta.exp()[None, :, None]
        return x + (1.0 / (beta + 1e-9)) * torch.sin(x * alpha) ** 2


class FoldedSnake(nn.Module):
    """The activation with its constants made once, in one block of memory."""

    def __init__(self, snake: SnakeBeta) -> None:
        super().__init__()
        self.frequency = snake.alpha.exp()[:, None]
        self.amount = 1.0 / (snake.beta.exp() + 1e-9)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, n) → same shape."""
        wave = x * self.frequency
        return torch.addcmul(x, self.amount, wave.sin_().square_(), out=wave)


def plain_codec(codec: Codec) -> Codec:
    """A copy of a codec with every activation as it is usually written."""
    plain = copy.deepcopy(codec)
    _exchange(plain, PlainSnake)
    return plain


def folded_codec(codec: Codec) -> Codec:
    """A copy of a codec with the constants of activations and convolutions made once."""
    folded = copy.deepcopy(codec)
    _exchange(folded, FoldedSnake)
    for module in folded.modules():
        if isinstance(module, WeightNormConv):
            weight = module.weight()
            module.weight = lambda weight=weight: weight  # type: ignore[method-assign]
    return folded


def _exchange(module: nn.Module, make: Callable[[SnakeBeta], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, SnakeBeta):
            setattr(module, name, make(child))
        else:
            _exchange(child, make)


def in_bf16(dit: EditDiT) -> EditDiT:
    """A copy in bfloat16; the rotation stays exact, because bfloat16 can't tell position 257 from 256."""
    narrow = copy.deepcopy(dit)
    nn.Module.to(narrow, torch.bfloat16)  # diffusers' own `to` warns of what is wanted here
    for module, original in zip(narrow.modules(), dit.modules(), strict=True):
        if isinstance(module, Rotary) and isinstance(original, Rotary):
            module.inv_freq = original.inv_freq.clone()
    return narrow


class Network:
    """What `denoise` asks of a network, in another precision, compiled, or replayed as a CUDA graph.

    Parameters
    ----------
    dit
        The editor's network.
    recipe
        Which of these.
    """

    def __init__(self, dit: EditDiT, recipe: Recipe) -> None:
        self.dtype = torch.bfloat16 if recipe.bf16 else torch.float32
        self.dit = in_bf16(dit) if recipe.bf16 else dit
        if recipe.compiled:
            self.dit = self.dit if recipe.bf16 else copy.deepcopy(dit)
            self.dit.compile_repeated_blocks(dynamic=False)
        self.graphs: dict[tuple[torch.Size, torch.Size], StepGraph] | None = {} if recipe.graph else None

    def text_keys_values(self, states: Tensor) -> TextKeysValues:
        """See `EditDiT.text_keys_values`."""
        return self.dit.text_keys_values(states.to(self.dtype))

    def __call__(
        self, noisy: Tensor, source: Tensor, timesteps: Tensor, text: Tensor | TextKeysValues, mask: Tensor
    ) -> Tensor:
        """See `EditDiT.forward`."""
        noisy, source = noisy.to(self.dtype), source.to(self.dtype)
        if isinstance(text, Tensor):
            return self.dit(noisy, source, timesteps, text.to(self.dtype), mask)
        if self.graphs is None:
            return self.dit(noisy, source, timesteps, text, mask)
        key = (noisy.shape, mask.shape)
        if key not in self.graphs:
            self.graphs[key] = StepGraph(self.dit, noisy, source, timesteps, text, mask)
        return self.graphs[key](noisy, source, timesteps, text, mask)


class StepGraph:
    """One call of the network at fixed shapes, recorded as a CUDA graph: one launch instead of hundreds."""

    def __init__(
        self, dit: EditDiT, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextKeysValues, mask: Tensor
    ) -> None:
        self.inputs = [noisy.clone(), source.clone(), timesteps.clone(), mask.clone()]
        self.text = [(key.clone(), value.clone()) for key, value in text]
        self.seen: TextKeysValues | None = text
        latent, other, time_, attend = self.inputs
        # Libraries set themselves up at the first calls, which must not be recorded.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                dit(latent, other, time_, self.text, attend)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = dit(latent, other, time_, self.text, attend)

    def __call__(self, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextKeysValues, mask: Tensor) -> Tensor:
        """Copy the inputs in, replay, copy the output out."""
        torch._foreach_copy_(self.inputs[:2], [noisy, source])
        self.inputs[2].copy_(timesteps)
        if text is not self.seen:  # constant over a whole edit
            self.inputs[3].copy_(mask)
            mine = [part for pair in self.text for part in pair]
            torch._foreach_copy_(mine, [part for pair in text for part in pair])
            self.seen = text
        self.graph.replay()
        return self.output.clone()


# --- the ladder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a plan is carried out; as it stands here, the way of a plain script.

    Attributes
    ----------
    chained
        Steps of the plan hand on latents; otherwise each writes a 16-bit WAV file that the next one reads.
    one_text_batch
        All texts of the plan are encoded in one batch; otherwise two texts at every denoising step.
    keys_values_once
        The text's keys and values are made once per step of the plan.
    interval
        Part of the denoising in which guidance is applied.
    solver, steps
        Of the denoising.
    bf16, compiled, graph
        How the network runs.
    folded
        The codec's constants are made once and its activations work in place.
    """

    chained: bool = False
    one_text_batch: bool = False
    keys_values_once: bool = False
    interval: tuple[float, float] = (0.0, 1.0)
    solver: Literal["unipc", "ddim"] = "ddim"
    steps: int = 50
    bf16: bool = False
    compiled: bool = False
    graph: bool = False
    folded: bool = False

    @property
    def sampler(self) -> SamplerConfig:
        """The same for the product's denoising loop; deterministic, so that results can be compared."""
        return SamplerConfig(solver=self.solver, steps=self.steps, guidance_interval=self.interval)


@dataclass(frozen=True)
class Change:
    """One rung of the ladder: its name, what it sets, and whether it needs a GPU."""

    name: str
    values: dict[str, Any]
    gpu_only: bool = False


CHANGES = (
    Change("latent chaining", {"chained": True}),
    Change("one text batch", {"one_text_batch": True}),
    Change("text keys and values once", {"keys_values_once": True}),
    Change("guidance in the middle 60 %", {"interval": (0.2, 0.8)}),
    Change("UniPC, 16 steps", {"solver": "unipc", "steps": 16}),
    Change("bfloat16", {"bf16": True}),
    Change("torch.compile", {"compiled": True}),
    Change("CUDA graph of one step", {"graph": True}, gpu_only=True),
    Change("folded codec", {"folded": True}),
)


@dataclass(frozen=True)
class Row:
    """One way of carrying out the plan.

    Attributes
    ----------
    name
        The change, or what was run.
    seconds
        Median; None if it was left out.
    gain
        Times as fast as with what was kept of the rows before.
    total_gain
        Times as fast as the naive loop.
    first_s
        What the first run took longer than that: compiling, recording.
    kept
        Whether the rows after it have it too.
    peak_mib
        Largest memory, of the process or of the GPU.
    lsd_naive, si_sdr_naive_db, lsd_before, si_sdr_before_db
        Distance of the result from the naive loop's, and from what was kept before.
    note
        Why it was left out.
    """

    name: str
    seconds: float | None
    gain: float | None = None
    total_gain: float | None = None
    first_s: float | None = None
    kept: bool | None = None
    peak_mib: int | None = None
    lsd_naive: float | None = None
    si_sdr_naive_db: float | None = None
    lsd_before: float | None = None
    si_sdr_before_db: float | None = None
    note: str = ""


class PeakMemory:
    """Largest memory since it was made: of the GPU on CUDA, else of the process (Linux; elsewhere since its start)."""

    def __init__(self, device: str) -> None:
        self.device = device
        gc.collect()
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def mib(self) -> int:
        """Mebibytes."""
        if self.device != "cpu":
            return round(torch.cuda.max_memory_allocated() / 2**20)
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10)
        except (OSError, StopIteration):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)


def timed(device: str, run: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, float, Any]:
    """Median seconds of `run` (without the first call, where there are more), seconds of that, and its result."""
    times: list[float] = []
    result: Any = None
    while not times or (len(times) < repeats and sum(times) < REPEAT_S):
        started = time.perf_counter()
        result = run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times), times[0], result


T = TypeVar("T")


def last(items: Iterator[T]) -> T:
    """Run an iterator to its end; its last item."""
    (item,) = deque(items, maxlen=1)
    return item


def paired_states(encoder: TextEncoder, texts: tuple[str, str], device: str) -> tuple[Tensor, Tensor]:
    """Encode two texts one by one and pad them to one length."""
    encoded = [encoder.states([text]) for text in texts]
    length = max(mask.shape[1] for _, mask in encoded)
    states = [nn.functional.pad(states, (0, 0, 0, length - states.shape[1])) for states, _ in encoded]
    masks = [nn.functional.pad(mask, (0, length - mask.shape[1])) for _, mask in encoded]
    return torch.cat(states).to(device), torch.cat(masks).to(device)


class PlanRunner:
    """Carries a plan out by a recipe.

    Parameters
    ----------
    editor
        Whose networks are used.
    recipe
        How.
    """

    def __init__(self, editor: Editor, recipe: Recipe) -> None:
        self.editor, self.recipe, self.device = editor, recipe, editor.device
        self.network: Any = Network(editor.dit, recipe)
        self.codec = folded_codec(editor.codec) if recipe.folded else plain_codec(editor.codec)

    def encode(self, wave: np.ndarray) -> Tensor:
        """Samples (2, n) → latent (1, latent_dim, T)."""
        return self.codec.encode_stereo(torch.from_numpy(np.ascontiguousarray(wave))[None].to(self.device))

    def decode(self, latent: Tensor, length: int) -> np.ndarray:
        """Latent → samples (2, length)."""
        return self.codec.decode_stereo(latent)[0, :, :length].float().cpu().numpy()

    @torch.inference_mode()
    def run(self, wave: np.ndarray, plan: Sequence[Step]) -> np.ndarray:
        """Edit samples (2, n) at 24 kHz, peak at most 1, step by step; the result has the same shape."""
        sentences = [format_step(step) for step in plan]
        conditionings: list[Conditioning | None] = [None] * len(plan)
        if self.recipe.one_text_batch:
            states, mask = self.editor.text.states([*sentences, ""])
            states, mask = states.to(self.device), mask.to(self.device)
            conditionings = [Conditioning(states[[i, -1]], mask[[i, -1]]) for i in range(len(plan))]
        if self.recipe.chained:
            latent = self.encode(wave)
            for index, (sentence, text) in enumerate(zip(sentences, conditionings, strict=True)):
                latent = self.edited(latent, sentence, text, index)
            return self.decode(latent, wave.shape[1])
        with tempfile.TemporaryDirectory() as folder:
            for index, (sentence, text) in enumerate(zip(sentences, conditionings, strict=True)):
                path = Path(folder, f"{index}.wav")
                latent = self.edited(self.encode(wave), sentence, text, index)
                soundfile.write(path, self.decode(latent, wave.shape[1]).T, SAMPLE_RATE, subtype="PCM_16")
                wave = soundfile.read(path, dtype="float32")[0].T
        return wave

    def edited(self, source: Tensor, sentence: str, text: Conditioning | None, seed: int) -> Tensor:
        """One step of the plan in latent space, from seeded noise."""
        # As the editor does it for the first window of a recording.
        generator = torch.Generator().manual_seed(1000 * seed)
        noise = torch.randn(source.shape, generator=generator).to(self.device)
        sampler = self.recipe.sampler
        scheduler = make_scheduler(sampler)
        if self.recipe.keys_values_once:
            if text is None:
                text = Conditioning(*paired_states(self.editor.text, (sentence, ""), self.device))
            return last(denoise(self.network, source, noise, text, scheduler, sampler))[2]
        latent, both = noise * scheduler.init_noise_sigma, torch.cat([source, source])
        start, stop = sampler.guidance_interval
        for index, timestep in enumerate(scheduler.timesteps):
            if text is None:
                states, mask = paired_states(self.editor.text, (sentence, ""), self.device)
            else:
                states, mask = text.states, text.mask
            rows = 2 if start <= index / len(scheduler.timesteps) < stop else 1
            model_input = scheduler.scale_model_input(torch.cat([latent] * rows), timestep)
            times = timestep.to(self.device).expand(rows)
            prediction = self.network(model_input, both[:rows], times, states[:rows], mask[:rows]).float()
            if rows == 2:
                with_text, without = prediction.chunk(2)
                prediction = guided(with_text, without, sampler.guidance_scale, sampler.guidance_rescale)
            latent = scheduler.step(prediction, timestep, latent, return_dict=False)[0]
        return latent


def product(editor: Editor, wave: np.ndarray, plan: Sequence[Step]) -> np.ndarray:
    """The plan by the editor as `smartdj edit --mode generate` runs it: every step's result is decoded too."""
    audio = Audio(wave, SAMPLE_RATE)
    chain: Chain | None = None
    for index, step in enumerate(plan):
        outcome = last(editor.generate(audio, step, seed=index, chain=chain))
        assert isinstance(outcome, StepOutcome)  # by the editor's contract
        audio, chain = Audio(outcome.samples, SAMPLE_RATE), outcome.chain
    return audio.samples


def distances(reference: np.ndarray, result: np.ndarray) -> tuple[float, float]:
    """LSD and SI-SDR of a result (2, n) to a reference."""
    return lsd(reference, result, SAMPLE_RATE), si_sdr_db(result, reference)


def ladder(
    editor: Editor, wave: np.ndarray, *, naive_steps: int, fast_steps: int, compiles: bool, repeats: int
) -> Iterator[Row]:
    """Carry out the plan in all ways: the naive loop, each change in turn, and the product.

    Parameters
    ----------
    wave
        Shape (2, n), 24 kHz.
    naive_steps, fast_steps
        Denoising steps of DDIM and of UniPC.
    compiles
        Whether to try torch.compile.
    repeats
        Of each measurement, at most.
    """
    device = editor.device
    _ = editor.codec, editor.dit, editor.text  # loading is not what is measured

    def run(recipe: Recipe) -> tuple[float, float, np.ndarray, int]:
        runner, memory = PlanRunner(editor, recipe), PeakMemory(device)
        if device != "cpu" or recipe.compiled:
            first = timed(device, lambda: runner.run(wave, PLAN), 1)[1]
            seconds, _, result = timed(device, lambda: runner.run(wave, PLAN), repeats)
            return seconds, max(0.0, first - seconds), result, memory.mib()
        seconds, _, result = timed(device, lambda: runner.run(wave, PLAN), repeats)
        return seconds, 0.0, result, memory.mib()

    kept = Recipe(steps=naive_steps)
    naive_s, first_s, naive, peak = run(kept)
    yield Row("naive loop", naive_s, 1.0, 1.0, first_s, True, peak, 0.0, SAME_SI_SDR_DB)
    before_s, before = naive_s, naive
    for change in CHANGES:
        name, values = change.name, dict(change.values)
        if "steps" in values:
            values["steps"] = fast_steps
            name = f"UniPC, {fast_steps} steps"
        note = ""
        if change.gpu_only and device == "cpu":
            note = "needs a GPU"
        elif values.get("compiled") and not compiles:
            note = "left out of a quick run"
        elif values.get("compiled") and device == "cpu" and shutil.which("g++") is None:
            note = "needs a C++ compiler"
        if note:
            yield Row(name, None, note=note)
            continue
        recipe = replace(kept, **values)
        try:
            seconds, first_s, result, peak = run(recipe)
        except RuntimeError as error:  # a compiler or a capture that fails is a finding, not the end of the run
            yield Row(name, None, note=f"failed: {str(error).splitlines()[0][:120]}")
            continue
        gain = before_s / seconds
        pays = gain >= PAYS
        to_naive, to_before = distances(naive, result), distances(before, result)
        yield Row(name, seconds, gain, naive_s / seconds, first_s, pays, peak, *to_naive, *to_before)
        if pays:
            kept, before_s, before = recipe, seconds, result
    if not editor.preset.shipped:
        editor.sampler = SamplerConfig(solver="unipc", steps=fast_steps)
    memory = PeakMemory(device)
    seconds, _, result = timed(device, lambda: product(editor, wave, PLAN), repeats)
    own = editor.sampler
    guidance = "no guidance" if own.guidance_scale == 1.0 else "guidance throughout"
    note = f"all steps decoded; {own.solver}, {own.steps} steps, {guidance}"
    figures = (*distances(naive, result), *distances(before, result))
    yield Row("the product", seconds, None, naive_s / seconds, 0.0, None, memory.mib(), *figures, note)


# --- fewer steps ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FewerRow:
    """One edit with a solver and a number of steps, and its distance from the most careful one."""

    name: str
    seconds: float
    lsd: float
    si_sdr_db: float


@torch.inference_mode()
def fewer_steps(editor: Editor, wave: np.ndarray, ways: Sequence[tuple[str, int]]) -> Iterator[FewerRow]:
    """The plan's first step from one noise by each (solver, steps); the first way is what the others are compared with.

    Two rows tell what the distances mean: the recording, unedited, through the codec; and the first way from another
    noise, which is an equally good answer.
    """
    sentence = format_step(PLAN[0])
    text = editor.conditioning(sentence)
    source = editor.encode(wave)
    reference: np.ndarray | None = None
    for solver, steps in ways:
        runner = PlanRunner(editor, Recipe(keys_values_once=True, solver=solver, steps=steps))  # type: ignore[arg-type]
        seconds, _, latent = timed(editor.device, lambda runner=runner: runner.edited(source, sentence, text, 0), 1)
        result = editor.decode(latent, wave.shape[1])
        if reference is None:
            reference = result
            other = editor.decode(runner.edited(source, sentence, text, 1), wave.shape[1])
            unedited = editor.decode(source, wave.shape[1])
            yield FewerRow("unedited, through the codec", 0.0, *distances(reference, unedited))
            yield FewerRow(f"{_solver(solver)}, {steps} steps, another seed", seconds, *distances(reference, other))
        yield FewerRow(f"{_solver(solver)}, {steps} steps", seconds, *distances(reference, result))


def _solver(name: str) -> str:
    return {"ddim": "DDIM", "unipc": "UniPC"}[name]


# --- preserve mode -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreserveRow:
    """One step in preserve mode: what, on how many seconds, how long it took (median), how it was done, memory."""

    operation: str
    duration_s: float
    seconds: float
    method: str
    peak_mib: int

    @property
    def factor(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / self.duration_s


def of_length(audio: Audio, duration_s: float) -> Audio:
    """The recording, repeated and cut to a length."""
    length = round(duration_s * audio.sample_rate)
    return replace(audio, samples=np.tile(audio.samples, (1, -(-length // audio.n_samples)))[:, :length])


def preserved(editor: Editor, audio: Audio, step: Step, repeats: int) -> PreserveRow:
    """Time one step in preserve mode."""

    def run() -> StepOutcome:
        outcome = last(editor.carry_out(audio, step, mode="preserve", seed=0))
        assert isinstance(outcome, StepOutcome)  # by the editor's contract
        return outcome

    memory = PeakMemory(editor.device)
    seconds, _, outcome = timed(editor.device, run, repeats)
    method = outcome.method.split(":")[0]
    return PreserveRow(step.operation.value, audio.duration_s, seconds, method, memory.mib())


def heard_target(editor: Editor, audio: Audio) -> str:
    """The plan's sound that the listener finds: a step on a sound that isn't found costs less."""
    for target in (step.target for step in PLAN):
        outcome = last(editor.preserve(audio, Step(Operation.REMOVE, target), seed=0))
        if isinstance(outcome, StepOutcome) and outcome.method == "mask":
            return target
    return PLAN[0].target


def each_operation(target: str) -> tuple[Step, ...]:
    """One step of each operation."""
    return (
        Step(Operation.ADD, "rain"),
        Step(Operation.REMOVE, target),
        Step(Operation.EXTRACT, target),
        Step(Operation.VOLUME, target, gain_db=-6),
        Step(Operation.DIRECTION, target, to_azimuth_deg=60),
        Step(Operation.SHIFT, target, shift_s=0.5),
        Step(Operation.REVERB, target, reverb_level=5),
        Step(Operation.TIMBRE, target, timbre=Timbre.DARK),
    )


@dataclass(frozen=True)
class Line:
    """Costs against lengths as a straight line: `seconds = slope · duration + intercept_s`."""

    slope: float
    intercept_s: float
    r_squared: float


def straight_line(durations_s: Sequence[float], seconds: Sequence[float]) -> Line:
    """Least squares; R² is 1 where all costs are equal."""
    x, y = np.asarray(durations_s, float), np.asarray(seconds, float)
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.square(y - y.mean()).sum())
    rest = float(np.square(y - slope * x - intercept).sum())
    return Line(float(slope), float(intercept), 1.0 if spread == 0.0 else 1.0 - rest / spread)


def draw(path: Path, rows: Sequence[PreserveRow], line: Line, title: str) -> None:
    """Draw costs against lengths with the line, as a PNG that appears only when it is whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    durations = np.array([row.duration_s for row in rows])
    axes.plot(durations, [row.seconds for row in rows], "o", color="#1f6fb4", label="measured")
    label = f"{line.slope:.3f} s per second {line.intercept_s:+.2f} s, R² = {line.r_squared:.4f}"
    axes.plot(durations, line.slope * durations + line.intercept_s, color="#1f6fb4", linewidth=1, label=label)
    axes.plot(durations, AIM * durations, "--", color="#9a9a9a", linewidth=1, label=f"aim: {AIM:g} s per second")
    axes.set_xlabel("length of the recording, s")
    axes.set_ylabel("seconds of computing")
    axes.set_title(title, fontsize=9)
    axes.grid(linewidth=0.3)
    axes.legend(fontsize=8)
    save_png(figure, path)


# --- report --------------------------------------------------------------------------------------------------------


def _figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _decibels(value: float | None) -> str:
    if value is None:
        return "–"
    return "equal" if value >= SAME_SI_SDR_DB else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×" if value < 10 else f"{value:.0f}×"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = "| --- |" + " ---: |" * (len(headings) - 1)
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join(["| " + " | ".join(headings) + " |", marks, *lines])


def markdown(results: dict[str, Any], picture: str) -> str:
    """The tables, from what the JSON holds."""
    about = results["about"]
    parts = [f"Made by `{about['command']}` in {about['seconds']:.0f} s. {about['machine']}"]
    parts[0] += f" Load average when it began: {about['load_average'][0]:.1f}."
    if about["quick"]:
        parts.append("**A quick run on tiny random networks: these figures mean nothing.**")
    for case in results["cases"]:
        parts.append(f"### Four steps on {about['seconds_of_audio']:g} s: `{case['size']}` on {case['device_name']}")
        parts.append(f"Network with {case['weights']}. Distances of the result: LSD, and SI-SDR in dB in brackets.")
        headings = [
            "change",
            "seconds",
            "gain",
            "in all",
            "kept",
            "to the naive result",
            "to the row kept before",
            "MiB",
        ]
        rows = []
        for row in case["ladder"]:
            name = row["name"] + (f" ({row['note']})" if row["note"] else "")
            if row["first_s"]:
                name += f"; first run {row['first_s']:.1f} s longer"
            kept = {True: "yes", False: "no", None: "–"}[row["kept"]]
            naive = f"{_figure(row['lsd_naive'])} ({_decibels(row['si_sdr_naive_db'])})"
            before = f"{_figure(row['lsd_before'])} ({_decibels(row['si_sdr_before_db'])})"
            cells = [_figure(row["seconds"]), _times(row["gain"]), _times(row["total_gain"]), kept]
            if row["seconds"] is None:
                naive = before = "–"
            rows.append([name, *cells, naive, before, str(row["peak_mib"] or "–")])
        parts.append(_table(headings, rows))
        if case["fewer"]:
            parts.append("One step with fewer evaluations, from the same noise:")
            rows = [
                [row["name"], _figure(row["seconds"] or None), _figure(row["lsd"]), _decibels(row["si_sdr_db"])]
                for row in case["fewer"]
            ]
            parts.append(_table(["denoising", "seconds", "LSD", "SI-SDR, dB"], rows))
    preserve = results["preserve"]
    if preserve["operations"]:
        duration = preserve["operations"][0]["duration_s"]
        parts.append(f"### Preserve mode: each operation on {duration:g} s, {preserve['device']}")
        rows = [
            [row["operation"], _figure(row["seconds"]), _figure(row["seconds"] / row["duration_s"], 3), row["method"],
             str(row["peak_mib"])]
            for row in preserve["operations"]
        ]  # fmt: skip
        parts.append(_table(["operation", "seconds", "× length", "done by", "MiB"], rows))
        slowest = max(row["seconds"] / row["duration_s"] for row in preserve["operations"])
        parts.append(f"The slowest takes {slowest:.3f} × the recording's length; the aim is {AIM:g}.")
    if preserve["lengths"]:
        line = preserve["line"]
        parts.append(f"### Preserve mode: `remove` against length, {preserve['device']}")
        rows = [
            [f"{row['duration_s']:g}", _figure(row["seconds"]), _figure(row["seconds"] / row["duration_s"], 3),
             str(row["peak_mib"])]
            for row in preserve["lengths"]
        ]  # fmt: skip
        parts.append(_table(["length, s", "seconds", "× length", "MiB"], rows))
        parts.append(
            f"Straight line: {line['slope']:.4f} s per second {line['intercept_s']:+.2f} s, "
            f"R² = {line['r_squared']:.5f}."
        )
        parts.append(f"![Seconds of computing against the length of the recording]({picture})")
    return "\n\n".join(parts)


# --- command line --------------------------------------------------------------------------------------------------


def _device_name(device: str) -> str:
    return "the CPU" if device == "cpu" else torch.cuda.get_device_name(device)


def measure(chosen: argparse.Namespace, command: str, told: Console) -> dict[str, Any]:
    """Run everything."""
    from training.evaluate import machine, weights_used

    started, load = time.perf_counter(), list(os.getloadavg())
    quick = chosen.quick
    seconds_of_audio = 0.5 if quick else 10.0
    repeats = 1 if quick else REPEATS
    recording = read_audio(RECORDING)
    wave = resample(to_stereo(of_length(recording, seconds_of_audio).samples), recording.sample_rate, SAMPLE_RATE)
    wave = wave / max(1.0, float(np.abs(wave).max()))
    cases = []
    editor: Editor | None = None
    for name in chosen.cases:
        device, size = name.split(":")
        editor, weights = open_editor(size, device)
        rows = []
        counts = {"naive_steps": 5 if quick else 50, "fast_steps": 3 if quick else 16}
        for row in ladder(editor, wave, **counts, compiles=not quick, repeats=repeats):
            told.print(f"{name}: {row.name} {_figure(row.seconds)} s", style="dim")
            rows.append(row)
        ways = [("ddim", 5), ("unipc", 3)] if quick else [("ddim", 50), ("ddim", 20), ("ddim", 10)]
        if not quick:
            ways += [("unipc", steps) for steps in (16, 8, 4, 2)]
        fewer = []
        for fewer_row in fewer_steps(editor, wave, ways):
            told.print(f"{name}: {fewer_row.name} {fewer_row.seconds:.2f} s", style="dim")
            fewer.append(fewer_row)
        cases.append(
            {
                "device": device,
                "device_name": _device_name(device),
                "size": size,
                "weights": weights,
                "ladder": [asdict(row) for row in rows],
                "fewer": [asdict(row) for row in fewer],
            }
        )
        editor = None
        gc.collect()
    # The listener is the shipped one at every size.
    editor, _ = open_editor("tiny" if quick else "small", "cpu")
    short = of_length(recording, seconds_of_audio)
    target = heard_target(editor, short)
    operations, lengths = [], []
    for step in each_operation(target):
        preserve_row = preserved(editor, short, step, repeats)
        told.print(f"preserve: {preserve_row.operation} {preserve_row.seconds:.2f} s", style="dim")
        operations.append(preserve_row)
    for duration_s in (0.5, 1.0, 2.0) if quick else chosen.lengths:
        preserve_row = preserved(editor, of_length(recording, duration_s), Step(Operation.REMOVE, target), repeats)
        told.print(f"preserve: {duration_s:g} s {preserve_row.seconds:.2f} s", style="dim")
        lengths.append(preserve_row)
    line = straight_line([row.duration_s for row in lengths], [row.seconds for row in lengths])
    return {
        "about": {
            "command": command,
            "quick": quick,
            "seconds_of_audio": seconds_of_audio,
            "plan": [format_step(step) for step in PLAN],
            "machine": machine(),
            "load_average": load,
            "weights_sha256": {} if quick else weights_used("small"),
            "made": datetime.now(UTC).replace(microsecond=0).isoformat(),
            "seconds": round(time.perf_counter() - started, 1),
        },
        "cases": cases,
        "preserve": {
            "device": "the CPU",
            "target": target,
            "operations": [asdict(row) for row in operations],
            "lengths": [asdict(row) for row in lengths],
            "line": asdict(line),
        },
    }


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny random networks and half a second, for tests")
    parser.add_argument(
        "--cases", nargs="+", metavar="DEVICE:SIZE", help="by default cpu:small, with a GPU also cuda:small cuda:paper"
    )
    parser.add_argument("--lengths", nargs="+", type=float, default=[10.0, 30.0, 60.0, 120.0, 300.0, 600.0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "editor_speed.json")
    parser.add_argument("--markdown-into", type=Path, help=f"file whose <!-- {ANCHOR} --> part is replaced")
    parser.add_argument("--from-json", action="store_true", help="measure nothing: write the tables of --out again")
    chosen = parser.parse_args(given)
    if chosen.cases is None:
        chosen.cases = ["cpu:tiny" if chosen.quick else "cpu:small"]
        if torch.cuda.is_available():
            chosen.cases += ["cuda:tiny"] if chosen.quick else ["cuda:small", "cuda:paper"]
    for case in chosen.cases:
        if case.count(":") != 1 or case.split(":")[1] not in ("small", "paper", "tiny"):
            parser.error(f"{case!r} is not DEVICE:SIZE with a size of small, paper or tiny")
    if len(chosen.lengths) < 2:
        parser.error("a line needs at least two --lengths")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    from training.evaluate import replace_anchored

    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _arguments(given)
    told = Console(stderr=True)
    document: Path | None = chosen.markdown_into
    try:
        if document is not None:
            # A wrong file shall show before the long run, not after it.
            replace_anchored(document.read_text(encoding="utf-8"), ANCHOR, "")
        if chosen.from_json:
            results = json.loads(chosen.out.read_text(encoding="utf-8"))
        else:
            results = measure(chosen, shlex.join(["python", "benchmarks/editor_speed.py", *given]), told)
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            write_file(chosen.out, json.dumps(results, indent=1, ensure_ascii=False) + "\n", overwrite=True)
        picture = (chosen.out.parent / "editor_speed.png") if document is None else document.with_name("speed.png")
        preserve = results["preserve"]
        lengths = [PreserveRow(**row) for row in preserve["lengths"]]
        title = f"One step of preserve mode, {preserve['device']}"
        draw(picture, lengths, Line(**preserve["line"]), title)
        body = markdown(results, picture.name)
        if document is not None:
            text = document.read_text(encoding="utf-8")
            write_file(document, replace_anchored(text, ANCHOR, body), overwrite=True)
    except (SmartDJError, OSError) as error:
        told.print(f"error: {error}", style="red", highlight=False)
        return 2
    print(body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
