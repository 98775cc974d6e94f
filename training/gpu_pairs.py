"""Single-step editing pairs on tensors: the law of `training.synthesis` for whole batches, where the clips lie.

A scene is drawn and mixed by `training.gpu_mixing`; one sound of it is changed as the step says, and the edited
recording differs from the source by exactly that change. Timbres and rooms are linear and constant in time: their
responses are taken once from `smartdj_agent.render` and applied in the frequency domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.signal
import torch
from torch import Tensor

from smartdj_agent.render import ADDED_PEAK, amplitude, room_response, rt60_s, timbre_sections, wet_gain
from smartdj_agent.steps import Operation, Step, Timbre, format_step
from training.clips import SAMPLE_RATE
from training.designer import SceneKnowledge
from training.gpu_mixing import DeviceClips, draw_scenes, placed, render
from training.spelling import spelled
from training.synthesis import (
    ABSENT_SHARE,
    SINGLE_COUNT_SHARES,
    VARIATION,
    WORDING_SHARE,
    _draw_azimuth,
    _draw_step,
    _names,
)

ROOMS = 4
"""Different rooms for each level of reverberation."""


@dataclass(frozen=True)
class Pairs:
    """Recordings before and after one step.

    Attributes
    ----------
    source, edited
        Shape (B, 2, n).
    texts
        The steps in words.
    steps
        The steps.
    """

    source: Tensor
    edited: Tensor
    texts: list[str]
    steps: list[Step]


class PairMaker:
    """Makes pairs; holds the responses of timbres and rooms.

    Parameters
    ----------
    clips
        Where sounds come from; of more classes than a scene has sounds.
    knowledge
        How sounds are called.
    duration_s
        Length of the recordings.
    """

    def __init__(self, clips: DeviceClips, knowledge: SceneKnowledge, duration_s: float) -> None:
        self.clips, self.knowledge, self.duration_s = clips, knowledge, duration_s
        self.n = round(duration_s * SAMPLE_RATE)
        longest = round(1.3 * rt60_s(10) * SAMPLE_RATE)
        self.size = int(scipy.fft.next_fast_len(self.n + longest, real=True))
        turn = np.linspace(0, np.pi, self.size // 2 + 1)
        curves = [scipy.signal.sosfreqz(timbre_sections(timbre, SAMPLE_RATE), turn)[1] for timbre in Timbre]
        self.timbres = torch.from_numpy(np.stack(curves).astype(np.complex64)).to(clips.device)
        rooms = np.zeros((10 * ROOMS, 2, longest), np.float32)
        for level in range(1, 11):
            for room in range(ROOMS):
                response = room_response(rt60_s(level), SAMPLE_RATE, 2, seed=100 * level + room) * wet_gain(level)
                rooms[(level - 1) * ROOMS + room, :, : response.shape[1]] = response[:, :longest]
        self.rooms = torch.from_numpy(rooms).to(clips.device)

    def make(self, seed: Sequence[int], size: int) -> Pairs:
        """Make `size` pairs: a pure function of clips and seed (on one kind of device)."""
        rng = np.random.default_rng(list(seed))
        generator = torch.Generator(self.clips.device).manual_seed(int(rng.integers(2**62)))
        draws = draw_scenes(
            self.clips,
            rng,
            size,
            duration_s=self.duration_s,
            count_shares=SINGLE_COUNT_SHARES,
            variation=VARIATION,
        )
        scenes = render(self.clips, draws, generator)
        source = scenes.mixture
        edited = source.clone()
        steps: list[Step] = []
        texts: list[str] = []
        operations = list(Operation)
        adds: list[int] = []
        labels: list[int] = []
        where: dict[Operation, list[tuple[int, int]]] = {operation: [] for operation in operations}
        for index in range(size):
            rows = np.flatnonzero(draws.scene == index)
            present = set(draws.label[rows].tolist())
            operation = operations[int(rng.integers(len(operations)))]
            absent = operation is not Operation.ADD and rng.random() < ABSENT_SHARE
            heard_at: float | None = None
            if absent or operation is Operation.ADD:
                others = [label for label in range(len(self.clips.labels)) if label not in present]
                label = others[int(rng.integers(len(others)))]
                heard_at = _draw_azimuth(rng) if absent else None
            else:
                row = int(rows[int(rng.integers(len(rows)))])
                label, heard_at = int(draws.label[row]), float(draws.azimuth_deg[row])
                where[operation].append((index, row))
            name = self.clips.labels[label]
            if rng.random() < WORDING_SHARE:
                names = _names(name, self.knowledge)
                name = names[int(rng.integers(len(names)))]
            step = _draw_step(operation, name, heard_at, rng)
            steps.append(step)
            texts.append(spelled(step, rng) if rng.random() < 0.5 else format_step(step))
            if operation is Operation.ADD:
                adds.append(index)
                labels.append(label)
            elif absent and operation is Operation.EXTRACT:
                where[operation].append((index, -1))
        if adds:
            edited[torch.tensor(adds, device=edited.device)] += self._added(rng, generator, adds, labels, steps)
        for operation, found in where.items():
            if not found:
                continue
            index = torch.tensor([scene for scene, _ in found], device=edited.device)
            there = np.array([row for _, row in found])
            slot = torch.tensor(draws.slot[there], device=edited.device)
            stem = scenes.stems[index, slot]
            chosen = [steps[scene] for scene, _ in found]
            if operation is Operation.EXTRACT:
                kept = torch.tensor((there >= 0).astype(np.float32), device=edited.device)
                edited[index] = stem * kept[:, None, None]
            else:
                azimuth = draws.azimuth_deg[there]
                edited[index] = source[index] + self._changed(operation, stem, azimuth, chosen, rng) - stem
        return Pairs(source, edited, texts, steps)

    def _added(
        self,
        rng: np.random.Generator,
        generator: torch.Generator,
        adds: list[int],
        labels: list[int],
        steps: list[Step],
    ) -> Tensor:
        draws = draw_scenes(
            self.clips,
            rng,
            len(adds),
            duration_s=self.duration_s,
            count_shares=(1.0,),
            variation=VARIATION,
            labels=np.array(labels),
        )
        own = [steps[index] for index in adds]
        draws = replace(
            draws,
            peak=np.array([ADDED_PEAK * amplitude(step.gain_db or 0.0) for step in own]),
            azimuth_deg=np.array([step.azimuth_deg or 0.0 for step in own]),
        )
        return render(self.clips, draws, generator).mixture

    def _changed(
        self, operation: Operation, stem: Tensor, azimuth_deg: np.ndarray, steps: list[Step], rng: np.random.Generator
    ) -> Tensor:
        """Stems (E, 2, n) after their steps."""
        device, n = stem.device, self.n
        match operation:
            case Operation.REMOVE:
                return torch.zeros_like(stem)
            case Operation.VOLUME:
                gain = torch.tensor([amplitude(step.gain_db or 0.0) for step in steps], device=device)
                return stem * gain.float()[:, None, None]
            case Operation.SHIFT:
                shift = torch.tensor([round((step.shift_s or 0.0) * SAMPLE_RATE) for step in steps], device=device)
                at = (torch.arange(n, device=device)[None] - shift[:, None])[:, None].expand(-1, 2, -1)
                return stem.gather(2, at.clamp(0, n - 1)) * ((at >= 0) & (at < n))
            case Operation.TIMBRE:
                order = list(Timbre)
                rows = torch.tensor([order.index(Timbre(step.timbre)) for step in steps], device=device)
                return self._filtered(stem, self.timbres[rows][:, None])
        near = stem[torch.arange(len(stem), device=device), torch.tensor((azimuth_deg > 0).astype(int), device=device)]
        if operation is Operation.DIRECTION:
            after = np.array([step.to_azimuth_deg for step in steps], dtype=float)
            return placed(torch.fft.rfft(near, self.size), after, self.size, n)[0]
        # The near ear is the stronger one, and it is what the room hears.
        rooms = [((step.reverb_level or 1) - 1) * ROOMS + int(rng.integers(ROOMS)) for step in steps]
        response = torch.fft.rfft(self.rooms[torch.tensor(rooms, device=device)], self.size)
        return stem + self._filtered(near[:, None], response)

    def _filtered(self, stem: Tensor, response: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(stem, self.size) * response, self.size)[..., : self.n]
