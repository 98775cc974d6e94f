"""Published networks: strict key layouts, the arithmetic before the first layer, names only with weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.listener import Listener
from smartdj_agent.models.tagger import Tagger
from training import embedders

RATE = 16_000
State = dict[str, torch.Tensor]


def normalisation(name: str, width: int) -> State:
    """A BatchNorm's five tensors, close to doing nothing."""
    shaped = {part: torch.zeros(width) for part in ("bias", "running_mean")}
    shaped |= {part: torch.ones(width) for part in ("weight", "running_var")}
    return {f"{name}.{part}": value for part, value in shaped.items()} | {
        f"{name}.num_batches_tracked": torch.tensor(7)
    }


def drawn(*shape: int) -> torch.Tensor:
    """Weights that keep the signal's size through a layer."""
    return torch.randn(*shape) * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5


def fourier(window: int) -> State:
    """The filters that torchlibrosa keeps as weights: a Hann window times cosines and sines."""
    turns = torch.outer(torch.arange(window // 2 + 1), torch.arange(window)).double() * (2 * torch.pi / window)
    hann = torch.hann_window(window, dtype=torch.float64)
    return {
        f"spectrogram_extractor.stft.conv_{part}.weight": (value * hann).float()[:, None]
        for part, value in (("real", turns.cos()), ("imag", -turns.sin()))
    }


def cnn14_state(window: int) -> State:
    """Cnn14's published keys and shapes (audioset_tagging_cnn), with random weights."""
    state = fourier(window) | {"logmel_extractor.melW": torch.rand(window // 2 + 1, 64)}
    state |= normalisation("bn0", 64)
    inputs = 1
    for number, width in enumerate((64, 128, 256, 512, 1024, 2048), 1):
        block = f"conv_block{number}"
        state[f"{block}.conv1.weight"] = drawn(width, inputs, 3, 3)
        state[f"{block}.conv2.weight"] = drawn(width, width, 3, 3)
        state |= normalisation(f"{block}.bn1", width) | normalisation(f"{block}.bn2", width)
        inputs = width
    for name, width in (("fc1", 2048), ("fc_audioset", 527)):
        state |= {f"{name}.weight": drawn(width, 2048), f"{name}.bias": torch.zeros(width)}
    return state


def vggish_state() -> State:
    """torchvggish's published keys and shapes, with random weights."""
    shapes = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
    state = {}
    for number, (outputs, inputs) in shapes.items():
        state[f"features.{number}.weight"] = drawn(outputs, inputs, 3, 3)
        state[f"features.{number}.bias"] = torch.zeros(outputs)
    for number, (outputs, inputs) in {0: (4096, 12_288), 2: (4096, 4096), 4: (128, 4096)}.items():
        state[f"embeddings.{number}.weight"] = drawn(outputs, inputs)
        state[f"embeddings.{number}.bias"] = torch.zeros(outputs)
    return state


def stereocrw_state() -> State:
    """FreeMusic-StereoCRW-1024's keys: torchvision's ResNet with one block a stage, under ``net``."""
    state = {"conv1.weight": drawn(64, 2, 7, 7)} | normalisation("bn1", 64)
    inputs = 64
    for number, width in enumerate((64, 128, 256, 512), 1):
        block = f"layer{number}.0"
        state[f"{block}.conv1.weight"] = drawn(width, inputs, 3, 3)
        state[f"{block}.conv2.weight"] = drawn(width, width, 3, 3)
        state |= normalisation(f"{block}.bn1", width) | normalisation(f"{block}.bn2", width)
        if width != inputs:
            state[f"{block}.downsample.0.weight"] = drawn(width, inputs, 1, 1)
            state |= normalisation(f"{block}.downsample.1", width)
        inputs = width
    state |= {"fc.weight": drawn(128, 512), "fc.bias": torch.zeros(128)}
    return {"trans.window": torch.hann_window(256)} | {f"net.{key}": value for key, value in state.items()}


def stereo(seconds: float, rate: int = RATE, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((2, round(seconds * rate)))).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every network's file with random weights, as published: wrapped, prefixed, with what else lies in it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    paths = {name: folder / f"{name}.pth" for name in ("panns", "vggish", "stereocrw")}
    sampler = {"indexes": np.arange(5), "pointer": 3}
    torch.save({"iteration": 600_000, "model": cnn14_state(512), "sampler": sampler}, paths["panns"])
    torch.save(vggish_state(), paths["vggish"])
    wrapped = {f"module.{key}": value for key, value in stereocrw_state().items()}
    torch.save({"epoch": 30, "state_dict": wrapped}, paths["stereocrw"])
    paths["yamnet"] = folder / "yamnet.safetensors"
    save_file(Tagger().state_dict(), paths["yamnet"])
    return paths


@pytest.fixture(scope="module")
def panns(files: dict[str, Path]) -> embedders.Panns:
    return embedders.Panns(files["panns"])


def test_panns_hears_the_left_channel_less_its_mean(panns: embedders.Panns) -> None:
    assert (panns.name, panns.sample_rate, panns.distance) == ("PANNs CNN14 16 kHz", 16_000, "FD")
    wave = stereo(0.5)
    heard = panns.embed(wave)
    assert heard.vectors.shape == (1, 2048)
    assert heard.logits is not None
    assert heard.logits.shape == (527,)
    assert heard.vectors.min() == 0.0  # after its activation
    moved = np.stack([wave[0] + 0.2, np.zeros_like(wave[0])])
    np.testing.assert_allclose(panns.embed(moved).vectors, heard.vectors, rtol=1e-3, atol=1e-3)
    assert np.abs(panns.embed(wave[::-1]).vectors - heard.vectors).max() > 1e-2


def test_panns_spectrum_is_that_of_its_filters(panns: embedders.Panns) -> None:
    """With true Fourier filters in the file, the bands are those of a centred, reflected spectrum."""
    wave = torch.from_numpy(stereo(0.5)[:1])
    spectrum = torch.stft(wave, 512, 160, window=torch.hann_window(512), return_complex=True, pad_mode="reflect")
    bands = spectrum.abs().square().transpose(1, 2) @ panns.network.logmel_extractor["melW"]
    with torch.no_grad():
        ours = panns.network.log_mel(wave)
    torch.testing.assert_close(ours[:, 0], 10 * torch.log10(bands), rtol=1e-3, atol=1e-3)


def test_vggish_gives_one_vector_for_each_whole_piece(files: dict[str, Path]) -> None:
    vggish = embedders.Vggish(files["vggish"])
    assert (vggish.name, vggish.sample_rate) == ("VGGish", 16_000)
    wave = stereo(2.0)
    wave -= wave.mean(axis=1, keepdims=True)
    long = vggish.embed(wave)
    assert long.vectors.shape == (2, 128)
    assert long.logits is None
    assert long.vectors.min() < 0.0  # the last activation is removed
    # The second piece begins 0.96 s after the first.
    second = wave[:, 96 * 160 :]
    wanted = vggish.network(vggish.log_mel(second[0]))[0].detach().numpy()
    np.testing.assert_allclose(long.vectors[1], wanted, rtol=1e-3, atol=1e-4)
    assert vggish.log_mel(wave[0, :3000]).shape == (1, 96, 64)


def test_vggish_bands_of_a_tone(files: dict[str, Path]) -> None:
    """A tone lies in the band whose centre is nearest, at the height that its magnitude gives; silence is log 0.01."""
    vggish = embedders.Vggish.__new__(embedders.Vggish)
    silence = vggish.log_mel(np.zeros(RATE, np.float32))
    assert silence.unique().tolist() == pytest.approx([np.log(0.01)])
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    bands = vggish.log_mel(tone)
    assert bands.shape == (1, 96, 64)
    low, high, wanted = (1127 * np.log1p(hertz / 700) for hertz in (125.0, 7500.0, 1000.0))
    centres = np.linspace(low, high, 66)[1:-1]
    assert int(bands[0, 40].argmax()) == int(np.abs(centres - wanted).argmin())
    # The middle bin's magnitude is half the window's sum, 200 / 2; the triangle takes most of the main lobe.
    assert 50 < float(bands[0, 40].max().exp()) < 200


def test_yamnet_is_the_tagger_on_pieces(files: dict[str, Path]) -> None:
    yamnet = embedders.Yamnet(files["yamnet"])
    assert (yamnet.name, yamnet.sample_rate, yamnet.distance) == ("YAMNet", 24_000, "FAD")
    wave = stereo(2.0, 24_000)
    heard = yamnet.embed(wave)
    np.testing.assert_allclose(yamnet.embed(wave[::-1]).vectors, heard.vectors, rtol=1e-4)  # both ears count alike
    frames = 2 * 24_000 // 240 + 1
    assert heard.vectors.shape == ((frames - 96) // 48 + 1, 1024)
    assert heard.logits is not None
    with torch.inference_mode():
        one = torch.from_numpy(wave.mean(axis=0))[None]
        piece = yamnet.network.log_mel(one)[:, 48:144]
        _, last = yamnet.network.maps(piece)
        np.testing.assert_allclose(heard.vectors[1], last.mean(dim=(2, 3))[0].numpy(), rtol=1e-4, atol=1e-5)
        logits = [yamnet.network.head(torch.from_numpy(vector)) for vector in heard.vectors]
    np.testing.assert_allclose(heard.logits, torch.stack(logits).mean(dim=0).numpy(), rtol=1e-3, atol=1e-5)
    assert yamnet.embed(stereo(0.3, 24_000)).vectors.shape == (1, 1024)


def test_stereocrw_features_and_frames(files: dict[str, Path]) -> None:
    crw = embedders.StereoCrw(files["stereocrw"], patches=49)
    patches = torch.from_numpy(stereo(0.24)[0])[None].repeat(2, 1)
    patches[1] *= 0.5
    features = crw.features(patches)
    assert features.shape == (2, 128)
    assert not torch.allclose(features[0], features[1])
    # One frame in 0.1 s; of its 49 patches only the middle one has all lags.
    found = crw.itds(stereo(0.1), RATE)
    assert found.shape == (1, 1)
    assert 0 < abs(found[0, 0]) <= 24 / RATE


def test_stereocrw_windows_follow_the_frames(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    crw = embedders.StereoCrw(files["stereocrw"])
    starts: list[float] = []

    def first_samples(patches: torch.Tensor) -> torch.Tensor:
        assert patches.shape == (513, 3840)
        starts.append(float(patches[0, 0]))
        assert float(patches[1, 0]) == starts[-1] + 1
        return torch.eye(513)

    monkeypatch.setattr(crw, "features", first_samples)
    count = 10 * RATE
    found = crw.itds(np.tile(np.arange(count, dtype=np.float32), (2, 1)), RATE)
    assert found.shape == (100, 465)
    np.testing.assert_allclose(found, 0.0, atol=1e-9)
    expected = [min(max(1600 * frame - 1920, 0), count - 4352) for frame in range(100)]
    assert starts[::2] == starts[1::2] == expected


def test_stereocrw_input_is_a_square_of_128(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    crw = embedders.StereoCrw(files["stereocrw"], patches=50)
    seen: list[torch.Tensor] = []

    def spy(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros(len(x), 128)

    monkeypatch.setattr(crw, "network", spy)
    patch = torch.from_numpy(stereo(0.24)[:1])
    crw.features(patch)
    assert seen[0].shape == (1, 2, 128, 128)
    spectrum = torch.stft(patch, 256, 30, window=torch.hann_window(256), return_complex=True, pad_mode="reflect")
    torch.testing.assert_close(seen[0][0, 0], spectrum[0, :-1, :-1].real.T)
    torch.testing.assert_close(seen[0][0, 1], spectrum[0, :-1, :-1].imag.T)


@pytest.mark.parametrize(
    ("network", "state"),
    [
        (embedders.VggishNetwork, vggish_state),
        (lambda: embedders.Cnn14(512, 160), lambda: cnn14_state(512)),
        (lambda: embedders.Cnn14(1024, 320), lambda: cnn14_state(1024)),
    ],
    ids=["vggish", "panns 16 kHz", "panns 32 kHz"],
)
def test_key_layouts_match_to_the_last_key(network: Callable[[], torch.nn.Module], state: Callable[[], State]) -> None:
    with torch.device("meta"):
        ours, published = network().state_dict(), state()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in published.items()}


def test_one_key_too_many_or_too_few_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for wrong in ("missing", "unknown", "shape"):
        state = stereocrw_state()
        if wrong == "missing":
            state.pop("net.layer4.0.bn2.running_var")
        elif wrong == "unknown":
            state["criterion.weight"] = torch.zeros(1)
        else:
            state["net.fc.weight"] = torch.zeros(64, 512)
        torch.save({"epoch": 1, "state_dict": state}, path)
        with pytest.raises(SmartDJError) as caught:
            embedders.StereoCrw(path)
        assert caught.value.code is ErrorCode.MODEL_MISMATCH
    torch.save({"model": {"fc.weight": torch.zeros(1)}}, path)
    with pytest.raises(SmartDJError) as caught:
        embedders.Panns(path)
    assert caught.value.code is ErrorCode.MODEL_MISMATCH
    torch.save({"epoch": 1}, path)
    with pytest.raises(SmartDJError) as caught:
        embedders.StereoCrw(path)
    assert caught.value.code is ErrorCode.MODEL_MISMATCH


def test_checkpoints_of_old_numpy_are_read(tmp_path: Path) -> None:
    """The published PANNs files hold the training sampler's arrays, pickled by numpy 1."""
    path = tmp_path / "old.pth"
    content = {"model": {"weight": torch.ones(2)}, "sampler": {"indexes": np.arange(5), "rate": np.float64(0.5)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    data = path.read_bytes()
    assert new in data
    path.write_bytes(data.replace(new, old))
    assert embedders.read_checkpoint(path)["sampler"]["indexes"].tolist() == [0, 1, 2, 3, 4]


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": Path("x")}, path)
    for load in (embedders.Panns, embedders.Vggish, embedders.StereoCrw):
        with pytest.raises(SmartDJError) as caught:
            load(path)
        assert caught.value.code is ErrorCode.MODEL_CORRUPT
    path.write_bytes(b"no weights")
    with pytest.raises(SmartDJError) as caught:
        embedders.Yamnet(path)
    assert caught.value.code is ErrorCode.MODEL_CORRUPT
    for missing in (embedders.Panns, embedders.Yamnet, embedders.LaionClap):
        with pytest.raises(SmartDJError) as caught:
            missing(tmp_path / "none")
        assert caught.value.code is ErrorCode.MODEL_MISSING


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLAP model with random weights, saved as transformers saves the published one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    config = ClapConfig(
        text_config={
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 80,
            "pad_token_id": 1,
        },
        audio_config={
            "hidden_size": 32,  # of the last stage: twice the first's
            "patch_embeds_hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "window_size": 8,
            "enable_fusion": False,
        },
        projection_dim=12,
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(feature_size=64, truncation="rand_trunc").save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "barks", "rain"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_clap_compares_sound_and_text(clap_folder: Path) -> None:
    clap = embedders.LaionClap(clap_folder)
    assert (clap.name, clap.sample_rate) == ("LAION-CLAP", 48_000)
    sound = stereo(1.0, 48_000)
    score = clap.likeness(sound, "a dog barks")
    assert -1.0 <= score <= 1.0
    assert score == clap.likeness(sound, "a dog barks")  # nothing is cropped at random
    assert score != clap.likeness(sound, "rain")
    vectors = [clap.sound_vector(each) for each in (sound, sound[::-1])]
    np.testing.assert_allclose(*vectors, rtol=1e-4)  # both ears count alike
    assert vectors[0].shape == (12,)


def test_clap_of_a_long_recording_is_the_mean_of_its_pieces(clap_folder: Path) -> None:
    clap = embedders.LaionClap(clap_folder)
    sound = stereo(20.0, 48_000)
    halves = [clap.sound_vector(part) for part in np.split(sound, 2, axis=1)]
    np.testing.assert_allclose(clap.sound_vector(sound), np.mean(halves, axis=0), rtol=1e-3, atol=1e-5)


def test_clap_with_a_key_too_few_is_refused(clap_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for path in clap_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(clap_folder / "model.safetensors")
    state.pop("text_projection.linear1.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SmartDJError) as caught:
        embedders.LaionClap(tmp_path)
    assert caught.value.code is ErrorCode.MODEL_MISMATCH


class FakeEncoder:
    """A vector of its own for every text."""

    def vectors(self, texts: list[str]) -> torch.Tensor:
        seeds = [sum(map(ord, text)) for text in texts]
        drawn = [torch.randn(384, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.nn.functional.normalize(torch.stack(drawn), dim=-1)


@pytest.fixture(scope="module")
def ours() -> embedders.OurListener:
    torch.manual_seed(0)
    listener = Listener(stem_channels=(2, 2, 2, 2), width=8, depth=1, heads=1, query_depth=1, pixel_channels=2).eval()
    return embedders.OurListener(listener, FakeEncoder(), ["rain", "dog barking", "piano"])  # type: ignore[arg-type]


def test_our_listener_hears_both_ears(ours: embedders.OurListener) -> None:
    wave = stereo(1.0, 24_000)
    heard = ours.embed(wave)
    assert heard.vectors.shape == (1, 256)
    assert heard.logits is not None
    assert heard.logits.shape == (3,)
    assert np.abs(ours.embed(wave[::-1].copy()).vectors - heard.vectors).max() > 1e-4
    assert -1.0 <= ours.likeness(wave, "rain") <= 1.0
    assert ours.likeness(wave, "rain") != ours.likeness(wave, "piano")


def test_names_come_only_with_weights(ours: embedders.OurListener, files: dict[str, Path], clap_folder: Path) -> None:
    bare = embedders.load_judges(ours)
    assert [judge.name for judge in bare.embedders] == ["our listener"]
    assert [judge.name for judge in bare.texts] == ["our listener"]
    assert bare.crw is None
    assert bare.sha256 == ()
    told = " ".join(bare.missing)
    for option in ("--panns", "--vggish", "--clap", "--stereocrw", "--yamnet"):
        assert option in told
    full = embedders.load_judges(ours, yamnet=files["yamnet"], stereocrw=files["stereocrw"], clap=clap_folder)
    assert [judge.name for judge in full.embedders] == ["YAMNet", "our listener"]
    assert [judge.name for judge in full.texts] == ["LAION-CLAP", "our listener"]
    assert full.crw is not None
    assert {name for name, _ in full.sha256} == {"YAMNet", "StereoCRW", "LAION-CLAP model.safetensors"}
    assert len(full.missing) == 2
    json.dumps(dict(full.sha256))
