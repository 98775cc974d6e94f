"""Carry out one step, in one of two ways.

**preserve** (default): the network only finds the one sound; exact arithmetic at the recording's own rate does the
rest: `recording + (changed sound − sound)`. What is not asked about keeps its bits. "Add" places a sound on top.

**generate** (the paper): the diffusion transformer maps the recording's latent and the step's text to the edited
latent; a plan is chained in latent space. All of the recording passes through the codec.

A sound to add comes from one of three places, or from where it is best (``auto``): **library**, a file of a sound
library; **generate**, made from its name by a network; **edit**, by the editor on the recording, as the paper does it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from smartdj_agent.audio import Audio, resample, to_stereo
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.library import SoundLibrary
from smartdj_agent.library_index import HEAR_RATE, HEARD_HIGH, HEARD_LOW
from smartdj_agent.models.presets import SAMPLE_RATE, Preset
from smartdj_agent.models.text import SentenceEncoder, T5Encoder, TextEncoder
from smartdj_agent.models.weights import is_installed, load_network, role_folder
from smartdj_agent.render import ADDED_PEAK, apply_to_stem, render_added, supports_direction
from smartdj_agent.sampling import Conditioning, SamplerConfig, denoise, make_scheduler
from smartdj_agent.separation import WINDOW_S, Separated, active_spans, as_heard, estimate_mask, separate, window_starts
from smartdj_agent.shelf import POOR, SURE, SURER, AddSource, Pick, Shelf
from smartdj_agent.steps import Operation, Step, direction_name, format_step

if TYPE_CHECKING:  # what they import takes seconds; whoever only reads or plans need not wait
    from smartdj_agent.models.codec import Codec
    from smartdj_agent.models.dit import EditDiT
    from smartdj_agent.models.generator import TextToAudio
    from smartdj_agent.models.listener import Listener

Mode = Literal["preserve", "generate"]
MODES: tuple[Mode, ...] = ("preserve", "generate")

ABSENT = 0.06
"""Confidence below which a sound counts as absent: the recording stays as it is."""
UNSURE = 0.3
"""Confidence below which the person is warned."""
ENCODING_SHARE = 0.005
"""Part of a step's progress that stands for encoding: less than a hundredth, so that it never lies behind the first
denoising step."""


@dataclass(frozen=True)
class StepProgress:
    """Part of a step is done: `fraction` 0 to 1, `stage` in words."""

    fraction: float
    stage: str


@dataclass(frozen=True)
class Chain:
    """A recording in latent space, between two steps of a plan.

    Attributes
    ----------
    latents
        One per window, shape (1, latent_dim, T).
    peak
        What the samples were divided by before encoding: as the release does, only what is beyond full scale.
    """

    latents: tuple[Tensor, ...]
    peak: float


@dataclass(frozen=True)
class Added:
    """A sound that an earlier step of the plan put in, kept apart from the recording.

    Attributes
    ----------
    label
        As the step named it.
    first
        Sample at which it begins.
    samples
        Shape (channels, n): what was added, no longer than it sounds.
    """

    label: str
    first: int
    samples: np.ndarray


@dataclass(frozen=True)
class Layers:
    """A recording and, apart from it, what a plan has added to it: what was put in comes out again without a trace.

    Attributes
    ----------
    base
        Shape (channels, n): the recording without what was added.
    added
        In the order in which it was added.
    """

    base: np.ndarray
    added: tuple[Added, ...] = ()

    def mixed(self) -> np.ndarray:
        """All together, shape (channels, n); where nothing was added, the recording bit for bit."""
        output = self.base.copy()
        for sound in self.added:
            output[:, sound.first : sound.first + sound.samples.shape[1]] += sound.samples
        return output

    def named(self, label: str) -> tuple[Added, ...]:
        """What was added under a name."""
        return tuple(sound for sound in self.added if sound.label.casefold() == label.casefold())


@dataclass(frozen=True)
class StepOutcome:
    """A step's result.

    Attributes
    ----------
    samples
        Shape and type of the input's samples.
    method
        How it was done, in words.
    confidence
        0 to 1.
    spans
        Stretches (first, past the last sample) in which the output may differ from the input.
    warnings
        (code, message, hint) for the person.
    chain
        Generate mode: where the next step of the plan goes on.
    layers
        Preserve mode: the result as a recording and what the plan has added to it, for the next step; None where
        nothing is kept apart.
    """

    samples: np.ndarray
    method: str
    confidence: float
    spans: tuple[tuple[int, int], ...]
    warnings: tuple[tuple[str, str, str], ...] = field(default=())
    chain: Chain | None = field(default=None, repr=False)
    layers: Layers | None = field(default=None, repr=False)


class Editor:
    """The networks that carry out steps; each is loaded when it is first needed.

    Parameters
    ----------
    preset
        Which networks.
    device
        A torch device name.
    library
        Where added sounds are looked up; None for nowhere.
    add_source
        Where added sounds come from.
    """

    def __init__(
        self,
        preset: Preset,
        device: str,
        library: Shelf | SoundLibrary | None,
        add_source: AddSource = "auto",
    ) -> None:
        self.preset = preset
        self.device = device
        self.shelf = library if isinstance(library, Shelf) else Shelf(starter=library)
        self.add_source = add_source
        self.sampler = SamplerConfig(
            solver="ddim" if preset.solver == "ddim" else "unipc",
            steps=preset.steps,
            guidance_scale=preset.guidance_scale,
            eta=preset.eta,
        )

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """Sentence encoder that names are compared with."""
        return SentenceEncoder()

    @cached_property
    def listener(self) -> Listener:
        """Finds sounds; the shipped one serves every preset, as the released editor has none."""
        network: Listener = load_network("small", "listener", self.device)
        return network

    @cached_property
    def codec(self) -> Codec:
        """Waveform ↔ latent."""
        network: Codec = load_network(self.preset.name, "codec", self.device)
        return network

    @cached_property
    def dit(self) -> EditDiT:
        """Latent → edited latent."""
        network: EditDiT = load_network(self.preset.name, "editor", self.device)
        return network

    @cached_property
    def text(self) -> TextEncoder:
        """Token states for the diffusion transformer."""
        if self.preset.text_encoder == "t5":
            return T5Encoder(role_folder(self.preset.name, "text")).to(self.device)
        return self.encoder

    @cached_property
    def text_to_audio(self) -> TextToAudio:
        """The released pair that makes sounds from text.

        Raises
        ------
        SmartDJError
            MODEL_MISSING where it was not imported, MODEL_CORRUPT.
        """
        from smartdj_agent.models.generator import TextToAudio

        name = self.preset.name
        network = load_network(name, "generator", self.device)
        codec = load_network(name, "generator_codec", self.device)
        text = T5Encoder(role_folder(name, "text"), attend_padding=False).to(self.device)
        return TextToAudio(network, codec, text, self.device)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors of the listener's joint space of sounds and texts, shape (n, embed_width)."""
        with torch.inference_mode():
            vectors = self.encoder.vectors(texts).to(self.listener.logit_scale.device)
            return self.listener.text_embeddings(vectors).cpu().numpy()

    @torch.inference_mode()
    def embed_sound(self, mono: np.ndarray) -> np.ndarray:
        """What a sound is like, as a vector of the joint space: mono (n,) at 24 kHz, at most 10 s → (embed_width,)."""
        return embed_sound(self.listener, mono)

    def heard(self, mono: np.ndarray, text: str) -> float:
        """How surely a sound (n,) at 24 kHz is heard as what a text says, 0 to 1."""
        likeness = float(self.embed_sound(mono[: round(WINDOW_S * HEAR_RATE)]) @ self.embed_texts([text])[0])
        return float(np.clip((likeness - HEARD_LOW) / (HEARD_HIGH - HEARD_LOW), 0.0, 1.0))

    def encode_labels(self, texts: list[str]) -> np.ndarray:
        """Sentence vectors as the library asks for them, shape (n, 384)."""
        return self.encoder.vectors(texts).cpu().numpy()

    def preserve(
        self, audio: Audio, step: Step, *, seed: int, layers: Layers | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        """Carry out one step by mask and arithmetic; the last item is the outcome.

        Parameters
        ----------
        layers
            From the outcome of the step before. With it, a sound that the plan added is changed by itself, exactly,
            and steps about other sounds don't touch it.
        """
        if layers is None or not layers.added:
            yield from self._preserved(audio, step, seed)
        elif layers.named(step.target) and step.operation is not Operation.ADD:
            yield self._on_added(audio, step, seed, layers)
        else:
            # What was added keeps out of the listener's way, except of a new sound's level.
            part = audio if step.operation is Operation.ADD else replace(audio, samples=layers.base)
            for item in self._preserved(part, step, seed):
                yield self._with_added(audio, step, item, layers) if isinstance(item, StepOutcome) else item

    def _with_added(self, audio: Audio, step: Step, outcome: StepOutcome, layers: Layers) -> StepOutcome:
        """Put a step's outcome together with what was added before."""
        if step.operation is Operation.EXTRACT:
            return outcome  # what was added is not what was asked for
        if outcome.method == "unchanged":
            return replace(outcome, samples=audio.samples.copy(), layers=layers)
        if step.operation is Operation.ADD:
            assert outcome.layers is not None
            return replace(outcome, layers=Layers(layers.base, (*layers.added, *outcome.layers.added)))
        after = Layers(outcome.samples, layers.added)
        return replace(outcome, samples=after.mixed(), layers=after)

    def _on_added(self, audio: Audio, step: Step, seed: int, layers: Layers) -> StepOutcome:
        """Carry out a step on what was added under its target's name: nothing is estimated, so nothing smears."""
        mine = layers.named(step.target)
        others = tuple(sound for sound in layers.added if sound not in mine)
        if step.operation is Operation.DIRECTION and not supports_direction(audio.channels):
            return replace(self._mono(audio), layers=layers)
        spans = [(sound.first, sound.first + sound.samples.shape[1]) for sound in mine]
        kept: tuple[Added, ...] = ()
        if step.operation is not Operation.REMOVE:
            stem = np.zeros((audio.channels, audio.n_samples), mine[0].samples.dtype)
            for sound, (start, stop) in zip(mine, spans, strict=True):
                stem[:, start:stop] += sound.samples
            kept = _added(mine[0].label, apply_to_stem(stem, step, audio.sample_rate, seed=seed))
            spans += [(sound.first, sound.first + sound.samples.shape[1]) for sound in kept]
        if step.operation is Operation.EXTRACT:
            result = Layers(np.zeros_like(layers.base), kept)
            return StepOutcome(result.mixed(), "added before", 1.0, ((0, audio.n_samples),), layers=result)
        result = Layers(layers.base, (*others, *kept))
        touched = merge_spans(spans)
        return StepOutcome(result.mixed(), "added before", 1.0, touched, layers=result)

    def trace(self, audio: Audio, name: str) -> Iterator[tuple[int, int, float]]:
        """How surely a sound is found, window by window: windows done, windows in all, the surest so far.

        Ends as soon as it is sure enough that a step would find it.
        """
        vector = self.encoder.vectors([name])[0]
        windows = window_starts(audio.n_samples, audio.sample_rate)
        surest = 0.0
        for done, (start, stop) in enumerate(windows, 1):
            stereo = as_heard(self.listener, audio.samples[:, start:stop], audio.sample_rate)
            surest = max(surest, estimate_mask(self.listener, stereo, vector).confidence)
            yield done, len(windows), surest
            if surest >= ABSENT:
                return

    def _preserved(self, audio: Audio, step: Step, seed: int) -> Iterator[StepProgress | StepOutcome]:
        """Carry out one step on a recording as it is."""
        if step.operation is Operation.ADD:
            yield from self._add(audio, step, seed)
            return
        samples, rate = audio.samples, audio.sample_rate
        if step.operation is Operation.DIRECTION and not supports_direction(audio.channels):
            yield self._mono(audio)
            return
        query = step.target
        if step.azimuth_deg is not None and audio.channels > 1:
            query = f"{step.target} at {direction_name(round(step.azimuth_deg / 45) * 45.0)}"
        vector = self.encoder.vectors([query])[0]
        found: Separated | None = None
        for done, count, result in separate(self.listener, samples, rate, vector):
            found = result
            yield StepProgress(0.9 * done / count, "finding the sound")
        assert found is not None
        if found.confidence < ABSENT or not found.spans:
            yield self._absent(audio, step)
            return
        confidence = found.confidence
        warnings: tuple[tuple[str, str, str], ...] = ()
        if confidence < UNSURE:
            warnings = (
                (
                    "unsure",
                    f"“{step.target}” was hardly heard (confidence {confidence:.2f}).",
                    "Listen to this step's audio, or name the sound in other words.",
                ),
            )
        if step.operation is Operation.EXTRACT:
            output = found.stem.astype(samples.dtype, copy=False)
            yield StepOutcome(output, "mask", confidence, ((0, audio.n_samples),), warnings)
            return
        difference = apply_to_stem(found.stem, step, rate, seed=seed)
        difference -= found.stem
        # An hour in stereo takes 1.3 GB: the stem goes before the output comes.
        del found, result
        output, spans = _mixed(samples, difference)
        yield StepOutcome(output, "mask", confidence, spans, warnings)

    def _mono(self, audio: Audio) -> StepOutcome:
        return self._unchanged(
            audio, "mono_direction", "A mono recording has no directions.", "Convert it to stereo first."
        )

    def _unchanged(self, audio: Audio, code: str, message: str, hint: str) -> StepOutcome:
        return StepOutcome(audio.samples.copy(), "unchanged", 0.0, (), ((code, message, hint),))

    def _absent(self, audio: Audio, step: Step) -> StepOutcome:
        hint = "Run `smartdj plan` to see what is heard, or name the sound in other words."
        if step.operation is Operation.EXTRACT:
            message = f"“{step.target}” was not heard in the recording, so silence is left of it."
            return StepOutcome(
                np.zeros_like(audio.samples),
                "silence",
                0.0,
                ((0, audio.n_samples),),
                (("sound_not_found", message, hint),),
            )
        message = f"“{step.target}” was not heard in the recording, so nothing was changed."
        return self._unchanged(audio, "sound_not_found", message, hint)

    def carry_out(
        self,
        audio: Audio,
        step: Step,
        *,
        mode: str,
        seed: int,
        chain: Chain | None = None,
        layers: Layers | None = None,
    ) -> Iterator[StepProgress | StepOutcome]:
        """Carry out one step in a mode, and an added sound from where `add_source` says; the last item is the outcome.

        In generate mode, ``auto`` adds as the paper does; otherwise the recording leaves the latent space for the step.

        Raises
        ------
        SmartDJError
            MODEL_MISSING, MODEL_CORRUPT, or what reading a library's sound may raise.
        """
        adding = step.operation is Operation.ADD
        by_editor = mode == "generate" if not adding or self.add_source == "auto" else self.add_source == "edit"
        if not by_editor:
            yield from self.preserve(audio, step, seed=seed, layers=layers if mode == "preserve" else None)
            return
        for item in self.generate(audio, step, seed=seed, chain=chain if mode == "generate" else None):
            if isinstance(item, StepOutcome) and adding and mode == "preserve":
                warning = (
                    "all_generated",
                    "The editor network added the sound: all of the recording passed through it.",
                    "Use --add-source auto or library to keep the recording's bits.",
                )
                item = replace(item, method="edited on the mixture", warnings=(*item.warnings, warning), chain=None)
            yield item

    def _add(self, audio: Audio, step: Step, seed: int) -> Iterator[StepProgress | StepOutcome]:
        rng = np.random.default_rng(seed)
        pick: Pick | None = None
        if self.add_source != "generate":
            pick = self._picked(audio, step, seed)
            if pick is None and self.add_source == "library":
                yield self._unchanged(
                    audio,
                    "no_library_sound",
                    f"No library holds a sound like “{step.target}”, so nothing was added.",
                    "Name it in other words, index more sounds (smartdj library index DIR), or use --add-source auto.",
                )
                return
        warnings: list[tuple[str, str, str]] = list(pick.warnings) if pick is not None else []
        unsure = pick is not None and pick.match.similarity < SURE
        made: np.ndarray | None = None
        if pick is None or (unsure and self.add_source == "auto"):
            for progress in self._generate_sound(step, seed):
                if isinstance(progress, StepProgress):
                    yield progress
                else:
                    made = progress
        if pick is not None and made is not None:
            # Neither is sure to be right: the listener says which of the two it rather takes for what was asked.
            by_ear = resample(pick.samples[None], audio.sample_rate, HEAR_RATE)[0]
            heard_pick, heard_made = self.heard(by_ear, step.target), self.heard(made, step.target)
            if heard_made > heard_pick + SURER:
                nearest = pick.match.clip.label
                reason = f"no library sound is surely “{step.target}”, and “{nearest}” sounds less like it"
                pick, warnings = None, []
            else:
                reason = f"heard as it at {heard_pick:.0%}, a generated one at {heard_made:.0%}"
                pick, made = replace(pick, told=f"{pick.told[:-1]}; {reason})"), None
        else:
            reason = f"no library sound is called “{step.target}”"
        if pick is not None:
            sound, method, continuous = pick.samples, pick.told, pick.continuous
            confidence = pick.match.similarity
            if unsure:
                warnings.append(
                    (
                        "unsure",
                        f"No library holds “{step.target}” for sure; “{pick.match.clip.label or 'a sound'}” is nearest "
                        f"({confidence:.0%}).",
                        "Listen to this step's audio, name the sound in other words, or index more sounds.",
                    )
                )
            yield StepProgress(0.9, "placing a library sound")
        else:
            assert made is not None
            sound = resample(made[None], SAMPLE_RATE, audio.sample_rate)[0]
            confidence, continuous = min(0.5, self.heard(made, step.target)), True
            method = "generated" if not self._has_pair() else "generated by the text-to-audio pair"
            if self.add_source == "auto":
                why = f"{reason[0].upper()}{reason[1:]}: a network made one."
            else:
                why = f"A network made “{step.target}”, as was asked."
            warnings.append(
                (
                    "generated",
                    f"{why} It is heard as that at {confidence:.0%}.",
                    "Its quality is what the model card says; a library sound of your own will be better.",
                )
            )
        length_s = len(sound) / audio.sample_rate
        spare = max(0.0, audio.duration_s - length_s)
        onset_s = 0.0 if continuous else float(rng.uniform(0.05, 0.6)) * spare
        added = render_added(
            sound,
            self._relative(step, audio),
            audio.sample_rate,
            audio.n_samples,
            onset_s=onset_s,
            loop=continuous,
            channels=audio.channels,
        )
        layers = Layers(audio.samples, _added(step.target, added))
        spans = tuple((sound.first, sound.first + sound.samples.shape[1]) for sound in layers.added)
        yield StepOutcome(layers.mixed(), method, confidence, spans, tuple(warnings), layers=layers)

    def _picked(self, audio: Audio, step: Step, seed: int) -> Pick | None:
        return self.shelf.take(
            step.target,
            self.encode_labels,
            self.embed_texts if self.shelf.libraries else None,
            seed=seed,
            sample_rate=audio.sample_rate,
            longest_s=audio.duration_s,
            least=POOR,
        )

    def _has_pair(self) -> bool:
        return not self.preset.shipped and is_installed(self.preset.name, "generator")

    @staticmethod
    def _relative(step: Step, audio: Audio) -> Step:
        """0 dB means as loud as the recording's peak, at most the paper's 0.5: a quiet recording isn't blasted."""
        peak = float(np.max(np.abs(audio.samples), initial=0.0))
        if peak <= 0.0 or peak >= ADDED_PEAK:
            return step
        gain = (step.gain_db or 0.0) + 20 * float(np.log10(max(peak, 1e-3) / ADDED_PEAK))
        return replace(step, gain_db=max(-24.0, gain))

    def _generate_sound(self, step: Step, seed: int) -> Iterator[StepProgress | np.ndarray]:
        """Make a sound: progress, then mono samples at 24 kHz.

        By the released text-to-audio pair where it is there, else by the editor on silence.

        Raises
        ------
        SmartDJError
            MODEL_MISSING where sounds shall be generated by a preset that has the pair, and it was not imported.
        """
        if self._has_pair() or (self.add_source == "generate" and not self.preset.shipped):
            for made in self.text_to_audio.make(step.target, WINDOW_S, seed):
                if isinstance(made, float):
                    yield StepProgress(made, "making a sound")
                else:
                    yield made.numpy()
            return
        silence = np.zeros((2, round(WINDOW_S * SAMPLE_RATE)), np.float32)
        bare = replace(step, azimuth_deg=0.0, gain_db=0.0)
        for item in self._edited(self.encode(silence), self.conditioning(format_step(bare)), seed, 0.0, 0.95):
            yield item if isinstance(item, StepProgress) else self.decode(item, silence.shape[1]).mean(axis=0)

    def generate(
        self, audio: Audio, step: Step, *, seed: int, chain: Chain | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        """Carry out one step by the diffusion transformer, window by window; the last item is the outcome.

        Mono recordings are edited as two equal ears and folded back; of more than two channels, the first two take the
        edit and the others stay.

        Parameters
        ----------
        chain
            From the outcome of the step before. With it the plan is chained in latent space: the recording is encoded
            once, so that errors of the codec don't add up.
        """
        samples, rate = audio.samples, audio.sample_rate
        # A few samples at a high rate are none at the codec's; it needs one.
        length_24k = max(1, round(audio.n_samples * SAMPLE_RATE / rate))
        windows = window_starts(length_24k, SAMPLE_RATE)
        if chain is None:
            stereo = resample(to_stereo(samples.astype(np.float32, copy=False)), rate, SAMPLE_RATE)
            stereo = np.pad(stereo, ((0, 0), (0, max(0, length_24k - stereo.shape[1]))))
            peak = max(1.0, float(np.max(np.abs(stereo), initial=0.0)))
            latents: list[Tensor] = []
            for index, (start, stop) in enumerate(windows):
                yield StepProgress(
                    ENCODING_SHARE * (index + 1) / len(windows), "encoding"
                )  # also where the caller may stop
                latents.append(self.encode(stereo[:, start:stop] / peak))
            chain = Chain(tuple(latents), peak)
        yield StepProgress(ENCODING_SHARE, "reading the step")
        text = self.conditioning(format_step(step))
        result = np.zeros((2, length_24k), np.float32)
        fade = SAMPLE_RATE
        edited_latents: list[Tensor] = []
        for index, ((start, stop), latent) in enumerate(zip(windows, chain.latents, strict=True)):
            low, high = index / len(windows), (index + 1) / len(windows)
            for item in self._edited(latent, text, 1000 * seed + index, low, high):
                if isinstance(item, StepProgress):
                    yield item
                    continue
                edited_latents.append(item)
                yield StepProgress(low + (high - low) * 0.95, "decoding")
                edited = self.decode(item, stop - start)
                if index > 0:
                    edited[:, :fade] *= np.linspace(0, 1, min(fade, stop - start), dtype=np.float32)
                if index < len(windows) - 1:
                    edited[:, -fade:] *= np.linspace(1, 0, min(fade, stop - start), dtype=np.float32)
                result[:, start:stop] += edited * chain.peak
        length = audio.n_samples
        back = resample(result, SAMPLE_RATE, rate)
        back = np.pad(back, ((0, 0), (0, max(0, length - back.shape[1]))))[:, :length]
        output = samples.copy()
        if audio.channels == 1:
            output[0] = back.mean(axis=0)
        else:
            output[:2] = back
        yield StepOutcome(output, "generated", 0.5, ((0, length),), chain=Chain(tuple(edited_latents), chain.peak))

    @torch.inference_mode()
    def encode(self, stereo: np.ndarray) -> Tensor:
        """Samples (2, n) at 24 kHz → latent (1, latent_dim, T)."""
        return self.codec.encode_stereo(torch.from_numpy(np.ascontiguousarray(stereo))[None].to(self.device))

    @torch.inference_mode()
    def decode(self, latent: Tensor, n_samples: int) -> np.ndarray:
        """Latent → samples (2, n_samples) at 24 kHz."""
        return self.codec.decode_stereo(latent)[0, :, :n_samples].float().cpu().numpy()

    def _edited(
        self, latent: Tensor, text: Conditioning, seed: int, low: float, high: float
    ) -> Iterator[StepProgress | Tensor]:
        """Denoise one step: progress from `low` to `high`, then the edited latent."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(latent.shape, generator=generator).to(self.device)
        edited = latent
        scheduler = make_scheduler(self.sampler)
        for done, count, partial in denoise(self.dit, latent, noise, text, scheduler, self.sampler, generator):
            edited = partial
            yield StepProgress(low + (high - low) * 0.95 * done / count, "denoising")
        yield edited

    def conditioning(self, text: str) -> Conditioning:
        """Encode a step's text and the empty text in one batch."""
        states, mask = self.text.states([text, ""])
        return Conditioning(states.to(self.device), mask.to(self.device))


@torch.inference_mode()
def embed_sound(listener: Listener, mono: np.ndarray) -> np.ndarray:
    """What a sound is like, in the listener's joint space of sounds and texts: the mean of its louder frames.

    Parameters
    ----------
    mono
        Shape (n,), at the listener's rate, at most one window; the level doesn't matter.

    Returns
    -------
    np.ndarray
        Unit vector, shape (embed_width,).
    """
    peak = float(np.max(np.abs(mono), initial=0.0))
    wave = torch.from_numpy(np.ascontiguousarray(mono, np.float32) * (0.5 / max(peak, 1e-9)))
    wave = wave.expand(1, 2, -1).to(listener.logit_scale.device)
    spectrum = listener.spectrum(wave)
    frames, tags, _ = listener.frames(listener.sense(wave, spectrum))
    vectors = listener.joint(frames, tags)[0]
    power = spectrum[0, 0].abs().square().sum(dim=0)
    mean = vectors[power >= power.median()].mean(dim=0)
    return torch.nn.functional.normalize(mean, dim=0).cpu().numpy()


def _added(label: str, samples: np.ndarray) -> tuple[Added, ...]:
    """Keep what sounds of an added sound (channels, n), stretch by stretch."""
    return tuple(Added(label, start, samples[:, start:stop].copy()) for start, stop in active_spans(samples))


def merge_spans(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join stretches that overlap or touch, in order."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def _mixed(samples: np.ndarray, change: np.ndarray) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Add a change to a recording: the sum, and the stretches in which anything was added.

    Only there is anything computed: elsewhere the sum is the recording, bit for bit.
    """
    spans = active_spans(change)
    output = samples.copy()
    for start, stop in spans:
        output[:, start:stop] += change[:, start:stop]
    return output, spans


def choose_device(name: str) -> str:
    """Resolve ``auto``, ``cpu`` or ``cuda[:n]``.

    Raises
    ------
    SmartDJError
        DEVICE_UNAVAILABLE if CUDA is asked for and not there; USAGE for other names.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return "cpu"
    if name.split(":")[0] == "cuda":
        if not torch.cuda.is_available():
            raise SmartDJError(
                ErrorCode.DEVICE_UNAVAILABLE, "There is no CUDA device here.", "Use --device cpu or auto."
            )
        return name
    raise SmartDJError(ErrorCode.USAGE, f"Unknown device {name!r}.", "Use auto, cpu or cuda.")


def elapsed_factor(audio: Audio, started: float) -> float:
    """Seconds of audio per second of compute since `started` (time.monotonic)."""
    return audio.duration_s / max(time.monotonic() - started, 1e-6)
