"""The networks that figures of merit look through, each under its own name and only with its own weights.

Nothing is downloaded. A network is there where its published file is given; its keys and shapes have to match to the
last one. Where a file isn't given its columns are left out, and `load_judges` says so. Our own listener needs no file
and stands in for none of them: its columns carry its name.

========================  ==================================================  ========================================
network                   file                                                figures
========================  ==================================================  ========================================
PANNs CNN14               ``Cnn14_16k_mAP=0.438.pth`` (the published FD) or   FD, KL
                          ``Cnn14_mAP=0.431.pth`` (32 kHz); zenodo 3987831
VGGish                    ``vggish-10086976.pth`` of torchvggish              FAD
LAION-CLAP                a folder of ``laion/clap-htsat-unfused`` or the     CLAP
                          like, as transformers saves it
StereoCRW                 ``FreeMusic-StereoCRW-1024.pth.tar``                CRW, FSAD
YAMNet                    ``yamnet.safetensors`` (`training.tagger`)          FAD, KL
our listener              (shipped)                                           FD, KL, likeness of text and sound
========================  ==================================================  ========================================

Recordings come in stereo. PANNs and VGGish hear what audioldm_eval lets them hear: the left channel less its mean
(paper.md §4.2), so they miss what an edit does to the right one alone. CLAP and YAMNet hear the mean of both ears; our
listener and StereoCRW hear both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy import signal
from torch import Tensor, nn
from torch.nn import functional

from smartdj_agent.audio import resample
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import file_sha256
from smartdj_agent.models.listener import Listener
from smartdj_agent.models.tagger import Tagger
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import load_strictly
from training.metrics import CRW_RATE, cosine, crw_itds_s


@dataclass(frozen=True)
class Heard:
    """What a network makes of one recording.

    Attributes
    ----------
    vectors
        Embeddings, shape (n, d): n is 1, or one for each piece that the network hears at a time.
    logits
        Of its classes over the whole recording, shape (classes,); None where it classifies nothing.
    """

    vectors: np.ndarray
    logits: np.ndarray | None = None


class Embedder(Protocol):
    """A network whose embeddings are compared between sets, and whose classes, if any, between pairs."""

    key: str
    """Short name, part of figures' names in ``results.json``."""
    name: str
    """As tables call it."""
    distance: str
    """``FD`` for one embedding a clip, ``FAD`` for one a piece of about a second."""
    sample_rate: int
    """Of what it hears, Hz."""

    def embed(self, stereo: np.ndarray) -> Heard:
        """Hear a recording, shape (2, n), at `sample_rate`."""
        ...


class TextJudge(Protocol):
    """A network that says how well a sound and a text go together."""

    key: str
    name: str
    sample_rate: int

    def likeness(self, stereo: np.ndarray, text: str) -> float:
        """Cosine of the embeddings of a recording, shape (2, n) at `sample_rate`, and of a text."""
        ...


def left_channel(stereo: np.ndarray) -> np.ndarray:
    """The first channel less its mean, shape (n,), as audioldm_eval reads files (paper.md §4.2)."""
    return np.asarray(stereo[0] - stereo[0].mean(), np.float32)


def both_ears(stereo: np.ndarray) -> np.ndarray:
    """The mean of both ears, shape (n,)."""
    return np.asarray(stereo.mean(axis=0), np.float32)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Raises
    ------
    SmartDJError
        MODEL_MISSING or MODEL_CORRUPT.
    """
    if not path.is_file():
        raise SmartDJError(ErrorCode.MODEL_MISSING, f"There is no file {path}.", "Check the path.")
    try:
        # Training scripts put their samplers' arrays and counts beside the weights; plain numpy data is harmless.
        arrays = import_module("numpy._core.multiarray")
        types: list[Any] = [arrays._reconstruct, arrays.scalar, np.ndarray, np.dtype]
        types += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "u8", "bool")]
        # What numpy 1, with which the published files were written, called them.
        types += [(getattr(arrays, name), f"numpy.core.multiarray.{name}") for name in ("_reconstruct", "scalar")]
        with torch.serialization.safe_globals(types):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise SmartDJError(
            ErrorCode.MODEL_CORRUPT,
            f"{path.name} can't be read as a checkpoint: {what}",
            "Use the published file, unchanged.",
        ) from error
    if not isinstance(content, dict):
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH, f"{path.name} holds no weights.", "Use the published file, unchanged."
        )
    return content


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose every value is still to be loaded: drawing tens of millions first would take seconds."""
    with torch.device("meta"):
        network = make()
    return network.to_empty(device="cpu")


@cache
def triangles(bins: int, sample_rate: int, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles of height 1 on the mel scale 1127·ln(1 + f/700), shape (bins, bands), as VGGish was taught with."""
    hertz = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)
    mel = 1127 * torch.log1p(hertz / 700)[:, None]
    edges_hz = torch.tensor([low_hz, high_hz], dtype=torch.float64)
    low, high = (1127 * torch.log1p(edges_hz / 700)).tolist()
    edges = torch.linspace(low, high, bands + 2, dtype=torch.float64)
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)
    weights[0] = 0
    return weights.float()


class ConvBlock(nn.Module):
    """Two convolutions of 3 with normalisation, then a mean over squares of `pool`."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, T, F) → (B, outputs, T/pool, F/pool)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.avg_pool2d(x, self.pool)


class Cnn14(nn.Module):
    """PANNs CNN14 (Kong et al. 2020) with the published key layout, in which the spectrum's filters are weights too.

    Parameters
    ----------
    window
        Samples of a window: 512 at 16 kHz, 1024 at 32 kHz.
    hop
        Samples between windows.
    """

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.window = window
        parts = {part: nn.Conv1d(1, bins, window, stride=hop, bias=False) for part in ("conv_real", "conv_imag")}
        self.spectrogram_extractor = nn.ModuleDict({"stft": nn.ModuleDict(parts)})
        self.logmel_extractor = nn.ParameterDict({"melW": nn.Parameter(torch.empty(bins, 64))})
        self.bn0 = nn.BatchNorm2d(64)
        widths = (1, 64, 128, 256, 512, 1024, 2048)
        for number in range(1, 7):
            pool = 2 if number < 6 else 1
            self.add_module(f"conv_block{number}", ConvBlock(widths[number - 1], widths[number], pool))
        self.fc1 = nn.Linear(2048, 2048)
        self.fc_audioset = nn.Linear(2048, 527)

    def log_mel(self, wave: Tensor) -> Tensor:
        """Mono wave (B, n) → decibels of mel bands, (B, 1, T, 64)."""
        padded = functional.pad(wave[:, None], (self.window // 2, self.window // 2), mode="reflect")
        filters: Any = self.spectrogram_extractor["stft"]
        power = filters["conv_real"](padded).square() + filters["conv_imag"](padded).square()
        mel = power.transpose(1, 2) @ self.logmel_extractor["melW"]
        return 10 * torch.log10(mel.clamp(min=1e-10))[:, None]

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mono wave (B, n) → embeddings (B, 2048) and logits (B, 527)."""
        x = self.bn0(self.log_mel(wave).transpose(1, 3)).transpose(1, 3)
        for number in range(1, 7):
            x = self.get_submodule(f"conv_block{number}")(x)
        x = x.mean(dim=3)
        embedding = functional.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return embedding, self.fc_audioset(embedding)


class Panns:
    """CNN14 as audioldm_eval uses it for FD and KL: the layer of 2048 after its activation, and 527 logits.

    Raises
    ------
    SmartDJError
        MODEL_MISSING, MODEL_CORRUPT, MODEL_MISMATCH.
    """

    key, distance = "panns", "FD"
    LEAST_S = 2.0
    """Shorter recordings are padded with silence (at 16 kHz, as audioldm_eval does)."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        content = read_checkpoint(path)
        state = content.get("model", content)
        filters = state.get("spectrogram_extractor.stft.conv_real.weight")
        window = int(filters.shape[-1]) if isinstance(filters, Tensor) else 0
        # The two published releases differ in the window alone; any other length shows as a mismatch of shapes.
        self.sample_rate = 16_000 if window == 512 else 32_000
        self.name = f"PANNs CNN14 {self.sample_rate // 1000} kHz"
        network = empty(lambda: Cnn14(512, 160) if window == 512 else Cnn14(1024, 320))
        load_strictly(network, state, path.name)
        self.device = device
        self.network = network.eval().to(device)

    @torch.inference_mode()
    def embed(self, stereo: np.ndarray) -> Heard:
        """One embedding, 2048 wide, and 527 logits of a recording (2, n)."""
        wave = left_channel(stereo)
        wave = np.pad(wave, (0, max(0, round(self.LEAST_S * self.sample_rate) - wave.size)))
        embedding, logits = self.network(torch.from_numpy(wave)[None].to(self.device))
        return Heard(embedding.cpu().numpy(), logits[0].cpu().numpy())


class VggishNetwork(nn.Module):
    """VGGish (Hershey et al. 2017) with the key layout of torchvggish."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0):
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log mel bands (B, 96, 64) → embeddings before the last activation, (B, 128)."""
        maps = self.features(log_mel[:, None])
        # TensorFlow keeps channels last, so they vary fastest in the flat vector.
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))


class Vggish:
    """VGGish as FAD uses it: a piece of 0.96 s at a time, no PCA, the last activation removed.

    Raises
    ------
    SmartDJError
        MODEL_MISSING, MODEL_CORRUPT, MODEL_MISMATCH.
    """

    key, name, distance, sample_rate = "vggish", "VGGish", "FAD", 16_000
    WINDOW, HOP, N_FFT, PIECE = 400, 160, 512, 96

    def __init__(self, path: Path, device: str = "cpu") -> None:
        state = read_checkpoint(path)
        network = empty(VggishNetwork)
        load_strictly(network, state, path.name)
        self.device = device
        self.network = network.eval().to(device)

    def log_mel(self, wave: np.ndarray) -> Tensor:
        """Mono wave (n,) at 16 kHz → log(mel + 0.01) of whole pieces, (pieces, 96, 64); a shorter one is padded."""
        wave = np.pad(wave, (0, max(0, (self.PIECE - 1) * self.HOP + self.WINDOW - wave.size)))
        frames = torch.from_numpy(wave).unfold(0, self.WINDOW, self.HOP) * torch.hann_window(self.WINDOW)
        magnitude = torch.fft.rfft(frames, self.N_FFT).abs()
        mel = magnitude @ triangles(self.N_FFT // 2 + 1, self.sample_rate, 64, 125.0, 7500.0)
        pieces = len(mel) // self.PIECE
        return torch.log(mel[: pieces * self.PIECE] + 0.01).reshape(pieces, self.PIECE, 64)

    @torch.inference_mode()
    def embed(self, stereo: np.ndarray) -> Heard:
        """One embedding, 128 wide, for each 0.96 s of a recording (2, n)."""
        return Heard(self.network(self.log_mel(left_channel(stereo)).to(self.device)).cpu().numpy())


class Yamnet:
    """YAMNet, an AudioSet network of Google's (Apache-2.0): pieces of 0.96 s, 0.48 s apart.

    A listener may hear through the same network (`smartdj_agent.models.tagger`); then it is no independent judge of
    what that listener picks.

    Raises
    ------
    SmartDJError
        MODEL_MISSING, MODEL_CORRUPT, MODEL_MISMATCH.
    """

    key, name, distance, sample_rate = "yamnet", "YAMNet", "FAD", 24_000
    PIECE, STEP = 96, 48

    def __init__(self, path: Path, device: str = "cpu") -> None:
        if not path.is_file():
            raise SmartDJError(ErrorCode.MODEL_MISSING, f"There is no file {path}.", "Check the path.")
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise SmartDJError(
                ErrorCode.MODEL_CORRUPT, f"{path.name} can't be read: {error}", "Make it again: training/tagger.py."
            ) from error
        network = Tagger()
        load_strictly(network, state, path.name)
        self.device = device
        self.network = network.eval().to(device)

    @torch.inference_mode()
    def embed(self, stereo: np.ndarray) -> Heard:
        """One embedding, 1024 wide, a piece, and 521 logits, the mean over pieces, of a recording (2, n)."""
        bands = self.network.log_mel(torch.from_numpy(both_ears(stereo))[None].to(self.device))
        bands = functional.pad(bands, (0, 0, 0, max(0, self.PIECE - bands.shape[1])))
        pieces = bands[0].unfold(0, self.PIECE, self.STEP).transpose(1, 2)
        _, last = self.network.maps(pieces)
        vectors = last.mean(dim=(2, 3))
        # The head is linear: the mean of the pieces' logits is the logits of their mean.
        return Heard(vectors.cpu().numpy(), self.network.head(vectors.mean(dim=0)).cpu().numpy())


class OurListener:
    """Our own listener: one embedding a clip, and how surely each label of the clips is heard.

    It also finds the sounds that the editor changes, so it is no independent judge.
    """

    key, name, distance = "listener", "our listener", "FD"

    def __init__(self, listener: Listener, encoder: SentenceEncoder, labels: Sequence[str]) -> None:
        self.listener = listener
        self.encoder = encoder
        self.sample_rate = int(listener.config.sample_rate)
        self._last: tuple[np.ndarray, Tensor] | None = None
        self.labels = self._texts(labels)

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self.listener.text_embeddings(self.encoder.vectors(texts).to(self.listener.logit_scale.device))

    @torch.inference_mode()
    def _frames(self, stereo: np.ndarray) -> Tensor:
        """Unit vectors of all frames, (T, joint width); both figures of a recording come from one pass."""
        if self._last is None or self._last[0] is not stereo:
            wave = torch.from_numpy(np.ascontiguousarray(stereo, np.float32))[None].to(self.labels.device)
            frames, tags, _ = self.listener.frames(self.listener.sense(wave, self.listener.spectrum(wave)))
            self._last = stereo, self.listener.joint(frames, tags)[0]
        return self._last[1]

    @torch.inference_mode()
    def embed(self, stereo: np.ndarray) -> Heard:
        """The mean of the frames' embeddings, and each label's logit at its surest half second."""
        frames = self._frames(stereo)
        logits = self.listener.presence_logits(frames[None], self.labels)[0]
        surest = functional.avg_pool1d(logits, min(25, logits.shape[1]), 1).amax(dim=1)
        return Heard(frames.mean(dim=0, keepdim=True).cpu().numpy(), surest.cpu().numpy())

    @torch.inference_mode()
    def likeness(self, stereo: np.ndarray, text: str) -> float:
        """Cosine of the recording's mean embedding and the text's."""
        return cosine(self._frames(stereo).mean(dim=0).cpu().numpy(), self._texts([text])[0].cpu().numpy())


class LaionClap:
    """LAION-CLAP (Wu et al. 2023) from a local folder: 48 kHz mono, at most 10 s at a time.

    Raises
    ------
    SmartDJError
        MODEL_MISSING if the folder or a part of it is missing, MODEL_MISMATCH if a key has no match.
    """

    key, name, sample_rate = "clap", "LAION-CLAP", 48_000
    PIECE_S = 10.0

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        if not (folder / "config.json").is_file():
            raise SmartDJError(ErrorCode.MODEL_MISSING, f"{folder} is no folder of a CLAP model.", "Check the path.")
        try:
            network, report = ClapModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            what = (str(error) or type(error).__name__).splitlines()[0][:120]
            raise SmartDJError(
                ErrorCode.MODEL_MISSING, f"{folder} can't be read: {what}", "Download the whole folder."
            ) from error
        wrong = {kind: sorted(map(str, keys))[:3] for kind, keys in report.items() if keys}
        if wrong:
            raise SmartDJError(
                ErrorCode.MODEL_MISMATCH,
                f"{folder} does not fit the network: {wrong}.",
                "Check that the folder is the published one and that it is whole.",
            )
        self.device = device
        self.network = network.eval().to(device)

    @torch.inference_mode()
    def sound_vector(self, stereo: np.ndarray) -> np.ndarray:
        """Embedding of a recording (2, n): the mean over pieces of up to 10 s, shape (d,)."""
        mono = both_ears(stereo)
        size = round(self.PIECE_S * self.sample_rate)
        # Longer ones would be cropped at random.
        pieces = [mono[start : start + size] for start in range(0, max(1, mono.size - size // 2), size)]
        inputs = self.extractor(
            pieces, sampling_rate=self.sample_rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt"
        )
        found = self.network.get_audio_features(**inputs.to(self.device))
        return np.asarray(found.pooler_output.mean(dim=0).cpu().numpy())

    @torch.inference_mode()
    def text_vector(self, text: str) -> np.ndarray:
        """Embedding of a text, shape (d,)."""
        inputs = self.tokenizer([text], truncation=True, max_length=77, return_tensors="pt").to(self.device)
        found = self.network.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return np.asarray(found.pooler_output[0].cpu().numpy())

    def likeness(self, stereo: np.ndarray, text: str) -> float:
        """CLAP score: cosine of both embeddings."""
        return cosine(self.sound_vector(stereo), self.text_vector(text))


class Residual(nn.Module):
    """A residual block of two convolutions of 3 (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) → (B, outputs, H/stride, W/stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet9(nn.Module):
    """StereoCRW's network (Chen et al. 2022): torchvision's ResNet key layout, one block a stage, two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for number in range(1, 5):
            self.add_module(f"layer{number}", nn.Sequential(Residual(widths[number - 1], widths[number])))
        self.fc = nn.Linear(512, 128)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2, T, F), real and imaginary spectrum, → (B, 128)."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean(dim=(2, 3)))


class StereoCrw:
    """StereoCRW as Both Ears Wide Open's evaluation runs it (paper.md §4.1).

    Ten frames a second; of each a window of 4352 samples at 16 kHz that begins 0.12 s before it (clamped at the ends),
    in 513 patches of 3840, one sample apart. Each ear's patches pass the network: 1026 passes a frame, which wants a
    GPU.

    Parameters
    ----------
    path
        ``FreeMusic-StereoCRW-1024.pth.tar``.
    device
        A torch device name.
    patches
        513 as published; fewer only try the machinery.

    Raises
    ------
    SmartDJError
        MODEL_MISSING, MODEL_CORRUPT, MODEL_MISMATCH.
    """

    key, name, sample_rate = "crw", "StereoCRW", CRW_RATE
    PATCH, FPS, WINDOW, HOP, AT_ONCE = 3840, 10, 256, 30, 64

    def __init__(self, path: Path, device: str = "cpu", *, patches: int = 513) -> None:
        content = read_checkpoint(path)
        state = content.get("state_dict")
        if not isinstance(state, dict):
            raise SmartDJError(
                ErrorCode.MODEL_MISMATCH, f"{path.name} holds no state_dict.", "Use the published file, unchanged."
            )
        state = {key.removeprefix("module."): value for key, value in state.items()}
        # The spectrum's window is a constant that some versions of torchaudio save.
        state.pop("trans.window", None)
        strange = sorted(key for key in state if not key.startswith("net."))
        if strange:
            raise SmartDJError(
                ErrorCode.MODEL_MISMATCH,
                f"{path.name} does not fit the network: unknown {strange[:3]}.",
                "Check that the file is the published one and that it is whole.",
            )
        network = empty(ResNet9)
        load_strictly(network, {key.removeprefix("net."): value for key, value in state.items()}, path.name)
        self.device = device
        self.patches = patches
        self.network = network.eval().to(device)
        self.window = torch.hann_window(self.WINDOW, device=device)

    @torch.inference_mode()
    def features(self, patches: Tensor) -> Tensor:
        """One ear's patches (n, 3840) → (n, 128)."""
        found = []
        for part in patches.split(self.AT_ONCE):
            spectrum = torch.stft(
                part, self.WINDOW, self.HOP, window=self.window, return_complex=True, pad_mode="reflect"
            )
            # (n, F, T, 2) → (n, 2, T, F), the last frame and bin left out: 128 by 128.
            found.append(self.network(torch.view_as_real(spectrum).permute(0, 3, 2, 1)[..., :-1, :-1]))
        return torch.cat(found)

    def itds(self, stereo: np.ndarray, sample_rate: int) -> np.ndarray:
        """ITDs of each frame by `crw_itds_s`, seconds, shape (frames, patches − 48), of a recording (2, n).

        Resampled to 16 kHz by `scipy.signal.resample`, as published; shorter than a window it is padded with zeros.
        """
        count = round(stereo.shape[1] * self.sample_rate / sample_rate)
        samples = stereo if sample_rate == self.sample_rate else signal.resample(stereo, count, axis=1)
        length = self.PATCH + self.patches - 1
        samples = np.pad(samples, ((0, 0), (0, max(0, length - samples.shape[1]))))
        wave = torch.from_numpy(np.ascontiguousarray(samples, np.float32)).to(self.device)
        frames = max(1, count * self.FPS // self.sample_rate)
        found = []
        for frame in range(frames):
            start = min(max(frame * self.sample_rate // self.FPS - self.PATCH // 2, 0), wave.shape[1] - length)
            left, right = (self.features(ear[start : start + length].unfold(0, self.PATCH, 1)) for ear in wave)
            found.append(crw_itds_s(left, right))
        return torch.stack(found).cpu().numpy()


@dataclass(frozen=True)
class Judges:
    """All networks that are there.

    Attributes
    ----------
    embedders, texts, crw
        Each of its sort; `crw` is None without StereoCRW's weights.
    sha256
        Of each given file, by the network's name.
    missing
        Lines that say which columns are left out, and why.
    """

    embedders: tuple[Embedder, ...] = ()
    texts: tuple[TextJudge, ...] = ()
    crw: StereoCrw | None = None
    sha256: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()


def load_judges(
    ours: OurListener | None = None,
    *,
    panns: Path | None = None,
    vggish: Path | None = None,
    clap: Path | None = None,
    stereocrw: Path | None = None,
    yamnet: Path | None = None,
    device: str = "cpu",
) -> Judges:
    """Load the networks whose files are given, and our listener; see the module's table for the files.

    Raises
    ------
    SmartDJError
        If a file is given that is missing, can't be read or isn't the network's.
    """
    embedders: list[Embedder] = []
    texts: list[TextJudge] = []
    digests: list[tuple[str, str]] = []
    missing: list[str] = []

    def left_out(columns: str, network: str, option: str) -> None:
        missing.append(f"{columns} left out: no weights of {network} were given (--{option}).")

    for path, network, kind, columns, option in (
        (panns, "PANNs CNN14", Panns, "FD and KL (PANNs CNN14)", "panns"),
        (vggish, "VGGish", Vggish, "FAD (VGGish)", "vggish"),
        (yamnet, "YAMNet", Yamnet, "FAD and KL (YAMNet)", "yamnet"),
    ):
        if path is None:
            left_out(columns, network, option)
            continue
        embedder: Embedder = kind(path, device)
        embedders.append(embedder)
        digests.append((embedder.name, file_sha256(path)))
    if clap is None:
        left_out("CLAP", "LAION-CLAP", "clap")
    else:
        texts.append(LaionClap(clap, device))
        digests += [(f"LAION-CLAP {path.name}", file_sha256(path)) for path in sorted(clap.glob("*.safetensors"))]
    crw = None
    if stereocrw is None:
        left_out("CRW and FSAD", "StereoCRW", "stereocrw")
    else:
        crw = StereoCrw(stereocrw, device)
        digests.append((crw.name, file_sha256(stereocrw)))
    if ours is not None:
        embedders.append(ours)
        texts.append(ours)
    return Judges(tuple(embedders), tuple(texts), crw, tuple(digests), tuple(missing))


def at_rate(stereo: np.ndarray, sample_rate: int, wanted: int) -> np.ndarray:
    """A recording (2, n) at another rate; itself where that is its own."""
    return stereo if sample_rate == wanted else resample(stereo, sample_rate, wanted)
