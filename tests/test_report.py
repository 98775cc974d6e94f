"""The report: measured changes, pictures, players within their budget, and a page that is whole and safe."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from smartdj_agent import report
from smartdj_agent.audio import Audio
from smartdj_agent.events import Notice, StepFinished
from smartdj_agent.plan import make_plan
from smartdj_agent.report import RunCollector, RunRecord, build_report, encode_player, measure, picture_of
from tests.fake_agent import FakeAgent

RATE = 8000


def noise(channels: int = 2, seconds: float = 1.0, rate: int = RATE) -> Audio:
    samples = np.random.default_rng(1).normal(0, 0.1, (channels, int(seconds * rate))).astype(np.float32)
    return Audio(samples, rate)


def collected(audio: Audio, instruction: str = "make it <b>calm</b> & quiet") -> RunRecord:
    agent = FakeAgent(device="cpu")
    collector = RunCollector(
        audio,
        source_name="a<i>.wav",
        command="edit",
        instruction=instruction,
        seed=5,
        mode="preserve",
        preset="small",
    )
    for event in agent.plan(audio, instruction, seed=5):
        collector.add(event)
    assert collector.plan is not None
    plan = collector.plan.toggled("s2")
    collector.plan = plan
    for event in agent.apply(audio, plan, seed=5):
        collector.add(event)
    collector.add(Notice("test", "something <script>alert(1)</script>", "do this"))
    return collector.record()


def test_measures_count_what_changed_and_where() -> None:
    before = noise()
    samples = before.samples.copy()
    samples[0, 2000:4000] = 0.0
    samples[1, 7000] += 0.5
    after = Audio(samples, RATE)
    result = measure(before, after, ((2000 / RATE, 4000 / RATE),))
    assert result.changed == 2001
    assert result.changed_outside == 1
    assert result.total == 2 * RATE
    assert measure(before, after, ((0.0, 1.0),)).changed_outside == 0
    assert result.difference_peak_dbfs == pytest.approx(20 * np.log10(0.5), abs=0.01)
    rms = np.sqrt(np.mean((samples - before.samples) ** 2))
    assert result.difference_dbfs == pytest.approx(20 * np.log10(rms), abs=0.01)
    same = measure(before, before, ())
    assert same.changed == 0
    assert same.difference_dbfs == -np.inf
    assert same.itd_before_ms is None


def test_measures_tell_the_direction() -> None:
    mono = noise(1, rate=24_000).samples[0]
    left = Audio(np.stack([mono, 0.6 * np.roll(mono, 14)]), 24_000)
    centre = Audio(np.stack([mono, mono]), 24_000)
    result = measure(centre, left, ((0.0, 1.0),))
    assert result.itd_before_ms == pytest.approx(0.0, abs=0.02)
    assert result.itd_after_ms == pytest.approx(1000 * 14 / 24_000, abs=0.05)
    assert result.ild_after_db == pytest.approx(20 * np.log10(1 / 0.6), abs=0.2)


def test_spectrogram_reads_a_full_scale_sine_as_0_db_at_its_frequency() -> None:
    times_s = np.arange(RATE) / RATE
    picture = picture_of(np.sin(2 * np.pi * 1000 * times_s)[None, :], RATE)
    column = picture.spectrogram_db[:, picture.spectrogram_db.shape[1] // 2]
    edges = np.geomspace(picture.lowest_hz, picture.highest_hz, report.ROWS + 1)
    row = int(column.argmax())
    assert column.max() == pytest.approx(0.0, abs=0.5)
    assert edges[row] * 0.95 <= 1000 <= edges[row + 1] * 1.05
    assert column[edges[1:] < 500].max() < -60
    assert picture.envelope.max() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("channels", "n_samples", "rate"), [(1, 1, 8000), (2, 63, 192_000), (8, 5000, 44_100)])
def test_pictures_of_odd_recordings(channels: int, n_samples: int, rate: int) -> None:
    samples = np.full((channels, n_samples), 0.1, np.float32)
    picture = picture_of(samples, rate)
    assert np.isfinite(picture.spectrogram_db).all()
    drawn = report.draw_svg(picture, picture, picture_of(np.zeros_like(samples), rate), (), salt="x")
    assert drawn.startswith("<svg")


def test_a_long_recording_is_drawn_with_bounded_columns() -> None:
    picture = picture_of(noise(1, 200.0, 2000).samples, 2000)
    assert picture.envelope.shape[-1] == report.COLUMNS
    assert picture.spectrogram_db.shape == (report.ROWS, report.COLUMNS)


@pytest.mark.parametrize(
    ("seconds", "budget", "note", "rate", "channels"),
    [
        (1.0, 10**6, "", 44_100, 2),
        (4.0, 4 * 24_000 * 4, "24 kHz", 24_000, 2),
        (4.0, 4 * 16_000 * 2, "downmixed to mono, 16 kHz", 16_000, 1),
        (4.0, 2 * 8_000 * 4, "downmixed to mono, 8 kHz", 8_000, 1),
        (4.0, 2 * 16_000, "excerpt 2 s–3 s, downmixed to mono, 16 kHz", 16_000, 1),
    ],
)
def test_players_keep_to_their_budget(seconds: float, budget: int, note: str, rate: int, channels: int) -> None:
    player = encode_player(noise(2, seconds, 44_100).samples, 44_100, budget, start_s=2.0)
    samples, found = soundfile.read(io.BytesIO(player.flac), always_2d=True)
    assert (player.note, found, samples.shape[1]) == (note, rate, channels)
    assert 2 * samples.size <= budget + 8


def test_a_player_of_eight_channels_is_folded() -> None:
    player = encode_player(noise(8).samples, RATE, 10**7)
    assert soundfile.info(io.BytesIO(player.flac)).channels == 2
    assert "folded" in player.note


class _Checker(HTMLParser):
    """Notes unbalanced tags and whatever would be fetched from outside the page."""

    void = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.likes: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data") and not (value or "").startswith(("data:", "#")):
                self.outside.append(f"{tag} {name}={value}")
            if name == "id" and value:
                self.ids.append(value)
            if name == "data-like" and value:
                self.likes.append(value)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_escaped() -> None:
    audio = noise()
    record = collected(audio)
    page = build_report(record)
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.outside == []
    assert len(checker.ids) == len(set(checker.ids))
    assert set(checker.likes) <= set(checker.ids)
    assert "make it &lt;b&gt;calm&lt;/b&gt; &amp; quiet" in page
    assert "<script>alert" not in page
    assert "wind &lt;strong&gt; &amp; steady" in page
    assert "#0102" not in page  # every stand-in colour became a variable
    for text in (
        "switched off",
        "mask",
        "library: gulls.flac",
        "left front",
        record.source.sha256,
        "fake-editor",
    ):
        assert text in page
    assert page == build_report(record)
    players = re.findall(r"data:audio/flac;base64,([^\"]+)", page)
    assert len(players) == 1 + 2 * 2
    first, _ = soundfile.read(io.BytesIO(base64.b64decode(players[0])), always_2d=True)
    assert np.abs(first.T - audio.samples).max() < 1e-4


def test_steps_are_measured_one_after_the_other() -> None:
    record = collected(noise())
    assert [step.step_id for step in record.steps] == ["s1", "s3"]
    assert record.steps[0].measures.changed == RATE  # the middle half of both channels
    assert record.steps[1].measures.changed <= RATE // 2  # a tone on the left only
    assert all(step.measures.changed_outside == 0 for step in record.steps)
    assert record.steps[1].before is record.steps[0].after
    assert record.steps[1].player_before is None


def test_a_long_recording_gets_excerpts_around_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PLAYERS_PCM_BYTES", 4 * 16_000)
    audio = noise(1, 20.0)
    collector = RunCollector(
        audio, source_name="a.wav", command="step", instruction="", seed=0, mode="preserve", preset="small"
    )
    plan = make_plan(["remove the sound of dog"])
    collector.plan = plan
    after = Audio(audio.samples * 0.5, RATE)
    collector.add(StepFinished(0, 1, plan.steps[0], after, 1.0, 1.0, "mask", 0.5, ((10.0, 12.0),)))
    record = collector.record()
    assert record.steps[0].player_before is not None
    assert record.steps[0].player_after.note.startswith("excerpt 7 s–8 s")
    assert "excerpt 7 s–8 s" in build_report(record)


def test_nothing_changed_and_nothing_done_make_a_page_too() -> None:
    audio = Audio(np.zeros((1, 100), np.float32), RATE)
    collector = RunCollector(
        audio, source_name="z.wav", command="step", instruction="", seed=0, mode="preserve", preset="small"
    )
    plan = make_plan(["remove the sound of ghost"])
    collector.plan = plan
    assert "not carried out" in build_report(collector.record())
    for event in FakeAgent().apply(audio, plan):
        collector.add(event)
    page = build_report(collector.record())
    assert "unchanged" in page
    assert "−∞ dBFS" in page
