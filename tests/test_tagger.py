"""The tagger: the published network to the last digits that its storage leaves, read at another rate, ear by ear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from smartdj_agent.audio import resample
from smartdj_agent.models.listener import Listener
from smartdj_agent.models.tagger import FLOOR, HOP, MIDDLE, SAMPLE_RATE, STRIDES, TaggedFrames, Tagger, mel_bands
from smartdj_agent.models.weights import load_network
from training import tag_head
from training.tagger import PAIRS, convert

REFERENCE = Path(__file__).parent / "yamnet_reference.npz"
"""A second of sound at 16 kHz with the log mel bands, embedding and scores that Google's own code gives for it, run by
TensorFlow from the wheel that `training.tagger` names."""


@pytest.fixture(scope="module")
def shipped() -> Tagger:
    listener: Listener = load_network("small", "listener", "cpu")
    assert listener.tagged is not None
    return listener.tagged.tagger


def test_the_shipped_network_is_the_published_one(shipped: Tagger) -> None:
    reference = np.load(REFERENCE)
    with torch.inference_mode():
        _, last = shipped.maps(torch.from_numpy(reference["log_mel"])[None])
        embedding = last.mean(dim=(2, 3))
        scores = torch.sigmoid(shipped.head(embedding))
    # Stored as float16; in float32 the differences are 4e-6 and 1e-6.
    np.testing.assert_allclose(embedding[0], reference["embedding"], atol=0.01)
    np.testing.assert_allclose(scores[0], reference["scores"], atol=0.005)
    assert int(scores.argmax()) == int(reference["scores"].argmax())


def test_it_reads_at_our_rate_what_it_was_taught_at_its_own(shipped: Tagger) -> None:
    reference = np.load(REFERENCE)
    wave = resample(reference["wave"][None], 16_000, SAMPLE_RATE)
    with torch.inference_mode():
        bands = shipped.log_mel(torch.from_numpy(wave))[0]
        scores = shipped(torch.from_numpy(wave))[0]
    # Its frames begin at the start of a window, ours are centred: a frame and a quarter later.
    later = functional.interpolate(bands.T[None], scale_factor=4, mode="linear")[0].T[5::4]
    count = 90
    difference = (later[:count] - torch.from_numpy(reference["log_mel"])[:count]).abs().mean()
    assert difference < 0.2  # of a range of 7; the noise's window differs by a quarter of a frame
    # All frames instead of one patch, and other edges: the order of what is heard stays, not its figures.
    assert int(reference["scores"].argmax()) in scores.topk(3).indices.tolist()


def test_a_tone_lies_in_its_band() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)
    bands = Tagger().log_mel(tone[None])[0, 50]
    low, high = (1127 * np.log1p(hertz / 700) for hertz in (125.0, 7500.0))
    place = (1127 * np.log1p(1000 / 700) - low) / (high - low) * 65 - 1
    assert abs(int(bands.argmax()) - place) <= 1
    assert np.log(FLOOR) <= float(bands.min()) < np.log(2 * FLOOR)
    assert mel_bands().shape == (385, 64)
    assert mel_bands().max() <= 1.0


def test_maps_are_heard_where_they_sound(shipped: Tagger) -> None:
    """A burst's mark, about two seconds wide, lies around the burst, and as far from it wherever the burst is."""
    torch.manual_seed(0)
    frames = TaggedFrames(16, 8, 8, 480).eval()
    frames.tagger = shipped
    places: list[list[float]] = [[], []]
    for second in (2.0, 3.3, 5.5):
        wave = torch.zeros(1, 2, 8 * SAMPLE_RATE)
        place = round(second * SAMPLE_RATE)
        wave[:, :, place : place + 2400] = torch.randn(2400) * 0.5
        with torch.inference_mode():
            marks = frames(frames.log_mel(wave), 401)
            silence = frames(torch.full_like(frames.log_mel(wave), float(np.log(FLOOR))), 401)
        for with_burst, without, offsets in zip(marks, silence, places, strict=True):
            assert with_burst.shape[1] == 401
            change = (with_burst - without).square().sum(-1)[0]
            centre = float((change * torch.arange(401)).sum() / change.sum()) / 50
            offsets.append(centre - second - 0.05)
    for offsets in places:
        assert max(map(abs, offsets)) < 0.48  # half the stretch that it was taught to judge
        assert max(offsets) - min(offsets) < 0.16  # half a map's step


def test_a_recording_of_any_length_has_all_its_frames() -> None:
    frames = TaggedFrames(16, 8, 8, 480).eval()
    for samples in (1, 479, 480, 24_000, 100_001):
        count = samples // 480 + 1
        bands = frames.log_mel(torch.randn(1, 2, samples))
        assert bands.shape[2] % 32 == 0
        assert bands.shape[2] >= samples // HOP + 1
        told, tags = frames(bands, count)
        assert told.shape[1] == tags.shape[1] == count
        assert torch.isfinite(told).all()


def test_conversion_folds_normalisation() -> None:
    rng = np.random.default_rng(0)
    widths = [32, *(width for _, width in zip(STRIDES, [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024], strict=True))]
    layers: dict[int, dict[str, np.ndarray]] = {}

    def norm(number: int, channels: int) -> None:
        layers[number] = {
            "beta": rng.normal(size=channels).astype(np.float32),
            "moving_mean": rng.normal(size=channels).astype(np.float32),
            "moving_variance": rng.uniform(0.5, 2, channels).astype(np.float32),
        }

    layers[0] = {"kernel": rng.normal(size=(3, 3, 1, 32)).astype(np.float32)}
    norm(1, 32)
    for pair in range(PAIRS):
        before, after = widths[pair], widths[pair + 1]
        layers[2 + 4 * pair] = {"depthwise_kernel": rng.normal(size=(3, 3, before, 1)).astype(np.float32)}
        norm(3 + 4 * pair, before)
        layers[4 + 4 * pair] = {"kernel": rng.normal(size=(1, 1, before, after)).astype(np.float32)}
        norm(5 + 4 * pair, after)
    layers[2 + 4 * PAIRS] = {
        "kernel": rng.normal(size=(1024, 521)).astype(np.float32),
        "bias": rng.normal(size=521).astype(np.float32),
    }
    tagger = Tagger()
    tagger.load_state_dict({name: torch.from_numpy(value) for name, value in convert(layers).items()})
    x = torch.from_numpy(rng.normal(size=(1, 32, 6, 6)).astype(np.float32))
    plain = functional.conv2d(
        x, torch.from_numpy(layers[2]["depthwise_kernel"].transpose(2, 3, 0, 1)), padding=1, groups=32
    )
    expected = functional.batch_norm(
        plain,
        torch.from_numpy(layers[3]["moving_mean"]),
        torch.from_numpy(layers[3]["moving_variance"]),
        bias=torch.from_numpy(layers[3]["beta"]),
        eps=1e-4,
    )
    actual = tagger.depthwise[0](functional.pad(x, (1, 1, 1, 1)))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert MIDDLE == 11


def small_listener() -> Listener:
    torch.manual_seed(0)
    return Listener(
        stem_channels=(2, 2, 2, 2), width=16, depth=1, heads=2, query_depth=1, embed_width=8, tagger=True
    ).eval()


def test_both_voices_make_one_unit_vector() -> None:
    listener = small_listener()
    wave = torch.randn(1, 2, 24_000) * 0.1
    with torch.inference_mode():
        listener.tag_share.fill_(1.0)
        hearing = listener.hear(listener.sense(wave, listener.spectrum(wave)))
        heard = listener.frame_embeddings(hearing)
        texts = listener.text_embeddings(torch.randn(3, 384) / 384**0.5)
        assert heard.shape[-1] == texts.shape[-1] == 16
        torch.testing.assert_close(heard.norm(dim=-1), torch.ones(1, 51))
        torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))
        both = heard @ texts.T
        own = functional.normalize(heard[..., :8], dim=-1) @ functional.normalize(texts[:, :8], dim=-1).T
        tag = functional.normalize(heard[..., 8:], dim=-1) @ functional.normalize(texts[:, 8:], dim=-1).T
        share = torch.sigmoid(listener.tag_share)
    torch.testing.assert_close(both, (1 - share) * own + share * tag)


def test_the_projection_learns_names_from_pooled_clips() -> None:
    listener = small_listener()
    rng = torch.Generator().manual_seed(1)
    centres = torch.randn(6, 1024, generator=rng) * 2 + 3
    classes = torch.arange(120) % 6
    vectors = centres[classes] + torch.randn(120, 1024, generator=rng)
    texts = functional.normalize(torch.randn(6, 384, generator=rng), dim=-1)
    before = listener.logit_scale.exp().item()
    assert tag_head.fit(listener, vectors, classes, lambda step: texts) > 0.9
    assert listener.tagged is not None
    with torch.inference_mode():
        unseen = centres + torch.randn(6, 1024, generator=rng)
        heard = functional.normalize(listener.tagged.embed(unseen), dim=-1)  # not standardised: that is folded in
        names = listener._tag_texts(texts)
        assert (heard @ names.T).argmax(1).tolist() == list(range(6))
        share = torch.sigmoid(listener.tag_share)
        scale = listener.logit_scale.exp()
    # The trunk's voice is as loud as it was, the tagger's as loud as it was fitted.
    assert float(scale * (1 - share)) == pytest.approx(before, rel=1e-4)
    assert float(scale * share) == pytest.approx(tag_head.SCALE, rel=1e-4)
