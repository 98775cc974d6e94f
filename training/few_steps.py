"""How many denoising steps the small editor needs: figures on validation pairs for several samplers, side by side.

    python -m training.few_steps --out runs/few-steps --cache data/clips --markdown docs/evaluation.md

Pairs of the validation split, one exact step each, as in training; beside the samplers stand copying the recording and
the codec alone, which no sampler can pass. Goes between ``<!-- few-steps -->`` and ``<!-- /few-steps -->``.
``--student FOLDER`` adds a distilled network (`training.distil`) with its own number of steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smartdj_agent.files import write_file
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.models.presets import SAMPLE_RATE
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import role_folder
from smartdj_agent.sampling import Conditioning, SamplerConfig, denoise, make_scheduler
from smartdj_agent.steps import format_step
from training.clips import open_store
from training.designer import default_knowledge
from training.evaluate import replace_anchored
from training.metrics import lsd, si_sdr_db
from training.synthesis import Example, ExampleKind, make_example

SEED = 983
DURATION_S = 5.12
SAMPLERS = (
    SamplerConfig("ddim", 1, 1.0),
    SamplerConfig("ddim", 1, 2.0),
    SamplerConfig("ddim", 2, 1.0),
    SamplerConfig("unipc", 4, 1.0),
    SamplerConfig("unipc", 8, 1.0),
    SamplerConfig("unipc", 16, 1.0),
    SamplerConfig("unipc", 16, 4.0),
)


class Bench:
    """Pairs, encoded once."""

    def __init__(self, count: int, folders: Sequence[str], cache: str | None) -> None:
        store = open_store({"folders": list(folders), "cache": cache}, "valid")
        self.codec = Codec.from_pretrained(role_folder("small", "codec")).eval().requires_grad_(False)
        self.encoder = SentenceEncoder()
        seeds = np.random.default_rng(SEED).integers(0, 2**62, count).tolist()
        self.pairs: list[Example] = [
            make_example(seed, ExampleKind.SINGLE, store, default_knowledge(), "valid", duration_s=DURATION_S)
            for seed in seeds
        ]
        self.sources = [self.encoded(pair.source) for pair in self.pairs]
        self.texts = [self.conditioning(format_step(pair.steps[0])) for pair in self.pairs]

    @torch.inference_mode()
    def encoded(self, samples: np.ndarray) -> Tensor:
        """Latent of a recording, (1, features, T)."""
        return self.codec.encode_stereo(torch.from_numpy(samples)[None])

    @torch.inference_mode()
    def decoded(self, latent: Tensor) -> np.ndarray:
        """Recording of a latent, as long as the pairs."""
        return self.codec.decode_stereo(latent)[0, :, : self.pairs[0].source.shape[1]].numpy()

    def conditioning(self, text: str) -> Conditioning:
        """States of a step's text and of the empty one."""
        return Conditioning(*self.encoder.states([text, ""]))

    def row(self, outputs: Sequence[np.ndarray]) -> dict[str, float]:
        """Medians over the pairs, outputs as (2, n)."""
        ratios, distances = [], []
        for pair, output in zip(self.pairs, outputs, strict=True):
            truth, source, made = (torch.from_numpy(np.ascontiguousarray(x)) for x in (pair.final, pair.source, output))
            ratios.append(si_sdr_db(made, truth) - si_sdr_db(source, truth))
            distances.append(lsd(pair.final, output, SAMPLE_RATE))
        return {"si_sdr_improvement_db": float(np.median(ratios)), "lsd": float(np.median(distances))}

    def sampled(self, network: EditDiT, config: SamplerConfig) -> dict[str, float]:
        """Figures of a sampler, and its seconds per pair without the codec."""
        outputs, seconds = [], 0.0
        for index, (source, text) in enumerate(zip(self.sources, self.texts, strict=True)):
            noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(index))
            began = time.perf_counter()
            *_, (_, _, latent) = denoise(network, source, noise, text, make_scheduler(config), config)
            seconds += time.perf_counter() - began
            outputs.append(self.decoded(latent))
        return self.row(outputs) | {"seconds": seconds / len(self.sources)}


def measure(bench: Bench, student: Path | None, student_steps: int) -> dict[str, dict[str, float]]:
    """All rows by name."""
    network = EditDiT.from_pretrained(role_folder("small", "editor")).eval().requires_grad_(False)
    rows = {
        "copy": bench.row([pair.source for pair in bench.pairs]),
        "codec alone, on the truth": bench.row([bench.decoded(bench.encoded(pair.final)) for pair in bench.pairs]),
        "codec alone, on the recording": bench.row([bench.decoded(source) for source in bench.sources]),
    }
    for config in SAMPLERS:
        guidance = "" if config.guidance_scale == 1.0 else f", guidance {config.guidance_scale:g}"
        steps = "one step" if config.steps == 1 else f"{config.steps} steps"
        rows[f"{config.solver}, {steps}{guidance}"] = bench.sampled(network, config)
    if student is not None:
        distilled = EditDiT.from_pretrained(student).eval().requires_grad_(False)
        rows[f"distilled, {student_steps} steps"] = bench.sampled(distilled, SamplerConfig("ddim", student_steps, 1.0))
    return rows


def table(rows: dict[str, dict[str, float]], command: str) -> str:
    """Markdown of all rows."""
    lines = [
        "| sampler | SI-SDR improvement, dB ↑ | LSD ↓ | s per 5.12 s, without codec |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        seconds = f"{row['seconds']:.2f}" if "seconds" in row else "–"
        improvement = f"{row['si_sdr_improvement_db']:.1f}".replace("-", "−")
        lines.append(f"| {name} | {improvement} | {row['lsd']:.2f} | {seconds} |")
    return "\n".join([*lines, "", f"Medians over validation pairs. Made by `{command}`."])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--folders", nargs="+", default=["../shared/bank"])
    parser.add_argument("--cache")
    parser.add_argument("--student", type=Path, help="folder of a distilled network")
    parser.add_argument("--student-steps", type=int, default=4)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    rows = measure(Bench(chosen.count, chosen.folders, chosen.cache), chosen.student, chosen.student_steps)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_file(chosen.out / "few_steps.json", (json.dumps(rows, indent=1) + "\n").encode(), overwrite=True)
    command = f"python -m training.few_steps --out {chosen.out} --count {chosen.count}"
    command += f" --cache {chosen.cache}" if chosen.cache else ""
    command += f" --student {chosen.student}" if chosen.student else ""
    text = table(rows, command)
    if chosen.markdown is not None:
        whole = replace_anchored(chosen.markdown.read_text(encoding="utf-8"), "few-steps", text)
        write_file(chosen.markdown, whole.encode(), overwrite=True)
    print(text)


if __name__ == "__main__":
    main()
