"""Where an added sound comes from: which way is taken, what is told of it, and what is done where a way is closed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smartdj_agent import cli, library_cli
from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio, write_audio
from smartdj_agent.batch.survey import Request
from smartdj_agent.editor import Editor, StepOutcome, StepProgress
from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.events import Notice, StepFinished
from smartdj_agent.library import SoundLibrary
from smartdj_agent.library_index import IndexedLibrary, build_index
from smartdj_agent.models import released, weights
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.models.generator import CODEC_SETTINGS, GenerateDiT, TextToAudio, read_generator
from smartdj_agent.models.presets import get_preset
from smartdj_agent.plan import make_plan
from smartdj_agent.server.settings import load
from smartdj_agent.shelf import ADD_SOURCES, Shelf, describe
from smartdj_agent.steps import parse_step
from tests.fake_agent import FakeAgent
from tests.known_listener import KnownEncoder, KnownListener, everything
from tests.test_library import bag_of_words, write_manifest, write_tone
from tests.test_library_index import hear, tone, write

RATE = 16_000
ADD = "add the sound of dog barking"


@pytest.fixture(autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    monkeypatch.setenv("SMARTDJ_INDEXES", str(folder / "indexes"))
    monkeypatch.setenv("SMARTDJ_MODELS", str(folder / "models"))
    monkeypatch.delenv("SMARTDJ_LIBRARY", raising=False)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    for number, hertz in enumerate((600, 700, 800)):
        write(folder / "Dogs" / f"Dog Barking {number}.wav", tone(hertz))
    write(folder / "RAINConc_Rain On Roof_ABC.wav", np.tile(tone(3000, 1.0), 4))
    (folder / "LICENCE").write_text("CC0 1.0\n", encoding="utf-8")
    list(build_index(folder, bag_of_words, hear, listener_id="one"))
    return folder


@pytest.fixture
def starter(tmp_path: Path) -> SoundLibrary:
    folder = tmp_path / "starter"
    write_tone(folder / "cat.wav", seconds=0.4)
    write_manifest(folder, [{"path": "cat.wav", "label": "cat meowing", "licence": "MIT"}])
    return SoundLibrary.open(folder)


def recording(seconds: float = 2.0, channels: int = 2) -> Audio:
    return Audio(np.random.default_rng(0).normal(0, 0.05, (channels, round(RATE * seconds))).astype(np.float32), RATE)


def editor(shelf: Shelf | None, add_source: str = "auto") -> Editor:
    """An editor whose texts are compared by their words; networks that make sound are small and random."""
    made = Editor(get_preset("small"), "cpu", shelf, add_source)  # type: ignore[arg-type]
    made.__dict__["encoder"] = KnownEncoder()
    made.__dict__["listener"] = KnownListener(everything)
    made.__dict__["codec"] = Codec(channels=4, multiples=(1, 1, 2, 2, 2), latent_dim=4).eval()
    made.__dict__["dit"] = EditDiT(latent_dim=8, width=32, depth=2, heads=2, context_width=384).eval()
    made.__dict__["text"] = KnownEncoder()
    made.encode_labels = bag_of_words  # type: ignore[method-assign]
    made.embed_texts = lambda texts: np.zeros((len(texts), 3), np.float32)  # type: ignore[method-assign]
    made.embed_sound = lambda mono: np.zeros(3, np.float32)  # type: ignore[method-assign]
    made.sampler = replace(made.sampler, steps=2)
    return made


def add(
    made: Editor, step: str = ADD, *, mode: str = "preserve", seed: int = 0, audio: Audio | None = None
) -> StepOutcome:
    *progress, outcome = made.carry_out(audio or recording(), parse_step(step), mode=mode, seed=seed)
    assert isinstance(outcome, StepOutcome)
    assert progress
    assert all(isinstance(item, StepProgress) for item in progress)
    return outcome


def codes(outcome: StepOutcome) -> list[str]:
    return [code for code, _, _ in outcome.warnings]


def shelf_of(folder: Path, starter: SoundLibrary | None = None) -> Shelf:
    return Shelf((IndexedLibrary(folder),), starter)


# --- which way ----------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "library"])
def test_a_library_sound_is_named_with_its_licence(own: Path, source: str) -> None:
    audio = recording()
    outcome = add(editor(shelf_of(own), source), audio=audio)
    assert outcome.method.startswith("library: Dogs/Dog Barking ")
    assert "CC0 1.0" in outcome.method
    assert "dog barking" in outcome.method
    assert outcome.confidence > 0.9
    assert codes(outcome) == []
    outside = np.ones(audio.n_samples, bool)
    for start, stop in outcome.spans:
        outside[start:stop] = False
    assert outside.any()
    assert np.array_equal(outcome.samples[:, outside], audio.samples[:, outside])
    assert not np.array_equal(outcome.samples, audio.samples)


def test_the_seed_chooses_and_the_same_seed_gives_the_same_bits(own: Path) -> None:
    made = [add(editor(shelf_of(own)), seed=seed) for seed in range(12)]
    assert len({outcome.method for outcome in made}) == 3
    again = add(editor(shelf_of(own)), seed=4)
    assert again.method == made[4].method
    assert np.array_equal(again.samples, made[4].samples)


def test_what_goes_on_fills_the_recording(own: Path) -> None:
    outcome = add(editor(shelf_of(own)), "add the sound of rain on roof", audio=recording(10.0))
    assert "RAINConc" in outcome.method
    assert sum(stop - start for start, stop in outcome.spans) > 9.8 * RATE


def test_own_sounds_come_before_the_starter_librarys(own: Path, starter: SoundLibrary) -> None:
    assert add(editor(shelf_of(own, starter))).method.startswith("library: Dogs/")
    outcome = add(editor(shelf_of(own, starter)), "add the sound of cat meowing")
    assert outcome.method.startswith("library: cat.wav (cat meowing, MIT")
    assert codes(outcome) == ["starter_library"]
    assert "your libraries" in outcome.warnings[0][1].casefold()


def test_nothing_alike_is_generated_by_auto_and_left_out_by_library(own: Path) -> None:
    made = add(editor(shelf_of(own)), "add the sound of zebra")
    assert made.method == "generated"
    assert codes(made) == ["generated"]
    audio = recording()
    outcome = add_unchanged(editor(shelf_of(own), "library"), "add the sound of zebra", audio)
    assert codes(outcome) == ["no_library_sound"]


def add_unchanged(made: Editor, step: str, audio: Audio) -> StepOutcome:
    *_, outcome = made.carry_out(audio, parse_step(step), mode="preserve", seed=0)
    assert isinstance(outcome, StepOutcome)
    assert outcome.method == "unchanged"
    assert np.array_equal(outcome.samples, audio.samples)
    return outcome


@pytest.mark.parametrize(("library", "generated", "way"), [(0.6, 0.2, "library"), (0.2, 0.6, "generated")])
def test_where_auto_is_unsure_the_listener_decides_and_says_so(
    own: Path, library: float, generated: float, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = editor(shelf_of(own))
    heard = iter([library, generated, generated])
    monkeypatch.setattr(made, "heard", lambda mono, text: next(heard))
    outcome = add(made, "add the sound of dog kennel yard")
    assert outcome.method.startswith(way)
    if way == "library":
        assert "60%, a generated one at 20%" in outcome.method
        assert codes(outcome) == ["unsure"]
    else:
        assert codes(outcome) == ["generated"]
        assert outcome.confidence == 0.5


def test_generate_looks_in_no_library(own: Path) -> None:
    outcome = add(editor(shelf_of(own), "generate"))
    assert outcome.method == "generated"
    assert "as was asked" in outcome.warnings[0][1]


def test_edit_sends_the_mixture_through_the_editor_and_says_so(own: Path) -> None:
    audio = recording()
    outcome = add(editor(shelf_of(own), "edit"), audio=audio)
    assert outcome.method == "edited on the mixture"
    assert codes(outcome) == ["all_generated"]
    assert outcome.spans == ((0, audio.n_samples),)
    assert outcome.chain is None


@pytest.mark.parametrize(("source", "way"), [("auto", "generated"), ("edit", "generated"), ("library", "library: ")])
def test_in_generate_mode_auto_is_the_papers_way(own: Path, source: str, way: str) -> None:
    outcome = add(editor(shelf_of(own), source), mode="generate")
    assert outcome.method.startswith(way)
    assert (outcome.chain is None) == (source == "library")


@pytest.mark.parametrize("source", ADD_SOURCES)
def test_other_steps_do_not_care(own: Path, source: str) -> None:
    outcome = add(editor(shelf_of(own), source), "turn up the volume of rain by 3 dB")
    assert outcome.method == "mask"


# --- files that changed -------------------------------------------------------


def test_a_missing_file_gives_way_to_the_next_best_with_a_notice(own: Path) -> None:
    shelf = shelf_of(own)
    for number in (0, 1):
        (own / "Dogs" / f"Dog Barking {number}.wav").unlink()
    outcomes = [add(editor(shelf), seed=seed) for seed in range(6)]
    assert all("Dog Barking 2.wav" in outcome.method for outcome in outcomes)
    told = [outcome for outcome in outcomes if outcome.warnings]
    assert told
    assert {code for outcome in told for code in codes(outcome)} == {"library_file_missing"}
    assert "Dog Barking" in told[0].warnings[0][1]


def test_where_all_that_fits_is_gone_the_first_is_named(own: Path) -> None:
    shelf = shelf_of(own)
    for path in own.rglob("*.wav"):
        path.unlink()
    with pytest.raises(SmartDJError) as caught:
        add(editor(shelf))
    assert caught.value.code is ErrorCode.AUDIO_NOT_FOUND
    assert "Dog Barking" in caught.value.message


def test_a_damaged_file_gives_way_too(own: Path) -> None:
    shelf = shelf_of(own)
    for number in (0, 1, 2):
        (own / "Dogs" / f"Dog Barking {number}.wav").write_bytes(b"RIFF....")
    with pytest.raises(SmartDJError) as caught:
        add(editor(shelf))
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE


# --- which libraries ----------------------------------------------------------


def test_all_indexed_folders_are_searched_unless_some_are_named(own: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "goose honk.wav")
    found = Shelf.open(None, "one")
    assert [library.folder for library in found.libraries] == [own]
    named = Shelf.open([tmp_path / "other", own, own], "one")
    assert [library.folder.name for library in named.libraries] == ["other", "own"]
    assert [code for code, _, _ in named.warnings] == ["library_not_indexed"]
    assert add(editor(named), "add the sound of goose honk").method.startswith("library: goose honk.wav")
    with pytest.raises(SmartDJError, match="not a folder"):
        Shelf.open([tmp_path / "nowhere"], None)


def test_an_index_of_another_listener_is_told(own: Path) -> None:
    shelf = Shelf.open(None, "two")
    outcome = add(editor(shelf))
    assert codes(outcome) == ["library_index_old"]
    assert codes(add(editor(shelf))) == []  # once


def test_reports_tell_how_well_it_fits(own: Path) -> None:
    match = IndexedLibrary(own).search("rain on roof", bag_of_words, None)[0]
    assert describe(match, "a.wav", (1.0, 2.0)).endswith("from 1.0 to 2.0 s)")
    assert "licence unknown" in describe(replace(match, clip=replace(match.clip, licence="")), "a.wav", (0.0, 9.0))
    both = describe(replace(match, written=0.9, heard=0.4), "a.wav", (0.0, 9.0))
    assert "90% by name, 40% by ear" in both


def test_the_agent_tells_the_way_in_its_events(own: Path) -> None:
    agent = Agent("small", "cpu", own, "library", relisten=False)
    agent.__dict__["editor"] = editor(shelf_of(own), "library")
    events = list(agent.apply(recording(), make_plan([ADD, "add the sound of zebra"])))
    finished = [event for event in events if isinstance(event, StepFinished)]
    assert finished[0].method.startswith("library: Dogs/")
    assert finished[1].method == "unchanged"
    assert [event.code for event in events if isinstance(event, Notice)] == ["no_library_sound"]


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(SmartDJError) as caught:
        Agent("small", "cpu", None, "magic")
    assert caught.value.code is ErrorCode.USAGE
    assert "generate" in caught.value.hint


# --- the released text-to-audio pair --------------------------------------------

TINY = {"latent_dim": 6, "width": 32, "depth": 2, "heads": 2, "rank": 2, "alpha": 2.0, "context_width": 384}


class MaskedTexts(KnownEncoder):
    """Token states of which the last is padding."""

    def states(self, texts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        states, mask = super().states(texts)
        mask[:, -1] = False
        return states, mask


def tiny_pair(folder: Path) -> TextToAudio:
    """Save a tiny pair as an imported one would lie, and load it as the editor does."""
    torch.manual_seed(3)
    network = GenerateDiT(**TINY)
    torch.nn.init.normal_(network.mask_embed)
    for block in network.blocks():
        torch.nn.init.normal_(block.cross_attn.proj.weight, std=0.2)
    network.save_pretrained(folder / "models" / "paper" / "generator")
    codec = Codec(**{**CODEC_SETTINGS, "channels": 4, "multiples": (1, 1, 2, 2), "latent_dim": 6})
    codec.save_pretrained(folder / "models" / "paper" / "generator_codec")
    made = TextToAudio(
        weights.load_network("paper", "generator"),
        weights.load_network("paper", "generator_codec"),
        MaskedTexts(),
        "cpu",
    )
    made.sampler = replace(made.sampler, steps=4)
    return made


def test_the_pair_makes_sounds_from_text_and_seed(apart: Path) -> None:
    pair = tiny_pair(apart)

    def make(words: str, seed: int) -> torch.Tensor:
        *progress, samples = pair.make(words, 0.5, seed)
        assert progress == sorted(progress)
        assert isinstance(samples, torch.Tensor)
        return samples

    one = make("dog", 1)
    assert one.shape == (12_000,)
    assert torch.isfinite(one).all()
    assert torch.equal(one, make("dog", 1))
    assert not torch.equal(one, make("dog", 2))
    assert not torch.equal(one, make("cat", 1))


def test_the_network_sees_a_mask_and_no_source(apart: Path) -> None:
    network = tiny_pair(apart).network
    noisy, text, time = torch.randn(1, 6, 5), torch.randn(1, 3, 384), torch.tensor([500])
    with torch.no_grad():
        out = network(noisy, torch.randn(1, 6, 5), time, text)
        assert torch.equal(out, network(noisy, torch.zeros(1, 6, 5), time, text))
        x = torch.cat([noisy, network.mask_embed[None, :, None].expand(1, 6, 5), torch.ones(1, 1, 5)], dim=1)
        assert network.patch_embed.proj.weight.shape == (32, 13, 1)
        # The same network, told all of its input by hand.
        plain = EditDiT.forward(network, noisy, x[:, 6:], time, text)
        assert torch.equal(out, plain)


def test_the_paper_preset_uses_the_pair_where_it_is(apart: Path, own: Path) -> None:
    pair = tiny_pair(apart)
    made = editor(shelf_of(own), "generate")
    made.preset = get_preset("paper")
    made.__dict__["text_to_audio"] = pair
    outcome = add(made)
    assert outcome.method == "generated by the text-to-audio pair"
    assert codes(outcome) == ["generated"]


def test_without_the_pair_generate_says_how_to_get_it(own: Path) -> None:
    made = editor(shelf_of(own), "generate")
    made.preset = get_preset("paper")
    with pytest.raises(SmartDJError) as caught:
        add(made)
    assert caught.value.code is ErrorCode.MODEL_MISSING
    assert "models import add_model.pt audio-vae.ckpt" in caught.value.hint
    assert "--add-source library" in caught.value.hint


def test_the_pairs_files_are_imported_strictly(apart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped")
    settings = {**CODEC_SETTINGS, "channels": 4, "multiples": (1, 1, 2, 2)}
    network, codec = GenerateDiT(**TINY), Codec(**settings)
    monkeypatch.setattr(released, "GenerateDiT", lambda: GenerateDiT(**TINY))
    monkeypatch.setattr(released, "CODEC_SETTINGS", settings)
    state = {("" if key == "mask_embed" else "model.") + key: value for key, value in network.state_dict().items()}
    torch.save({"model": state}, tmp_path / "add_model.pt")
    whole = {f"autoencoder.{key}": value for key, value in codec.state_dict().items()}
    torch.save({"state_dict": whole}, tmp_path / "audio-vae.ckpt")
    found = released.import_released([tmp_path / "add_model.pt", tmp_path / "audio-vae.ckpt"])
    assert [info.role for info in found] == ["generator", "generator_codec"]
    loaded = weights.load_network("paper", "generator").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
    del state["model.time_ada.bias"]
    torch.save({"model": state}, tmp_path / "add_model.pt")
    with pytest.raises(SmartDJError) as caught:
        released.import_released([tmp_path / "add_model.pt"])
    assert caught.value.code is ErrorCode.MODEL_MISMATCH
    with pytest.raises(SmartDJError, match=r"controlnet\.x"):
        read_generator({"mask_embed": torch.zeros(1), "controlnet.x": torch.zeros(1)})


def test_the_full_pair_has_the_published_shapes() -> None:
    with torch.device("meta"):
        network, codec = GenerateDiT(), Codec(**CODEC_SETTINGS)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes["patch_embed.proj.weight"] == (1024, 257, 1)
    assert shapes["mask_embed"] == (128,)
    assert len(network.in_blocks) == 12
    assert codec.hop == 480
    assert tuple(codec.state_dict()["decoder.layers.0.weight_v"].shape) == (1024, 128, 7)


# --- doors --------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the commands tell the agent about sounds."""
    found: list[dict[str, Any]] = []

    def make(preset: str, device: str, **sounds: Any) -> FakeAgent:
        found.append(sounds)
        return FakeAgent(preset, device)

    monkeypatch.setattr(cli, "make_agent", make)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_audio(tmp_path / "in.wav", recording())
    return tmp_path / "in.wav"


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_options_reach_the_agent(
    told: list[dict[str, Any]], source: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ("step", source, ADD, "--overwrite", "-o", tmp_path / "out.wav")
    assert run(*step) == 0
    assert run(*step, "--add-source", "library", "--library", own, "--library", tmp_path) == 0
    monkeypatch.setenv("SMARTDJ_LIBRARY", str(own))
    assert run(*step) == 0
    edit = ("edit", source, "calm", "--yes", "--overwrite", "-o", tmp_path / "out.wav", "--add-source", "generate")
    assert run(*edit, "--library", tmp_path) == 0
    assert told == [
        {},
        {"library": (own, tmp_path), "add_source": "library"},
        {"library": (own,)},
        {"library": (tmp_path,), "add_source": "generate"},
    ]


def test_a_batch_takes_them_and_starts_over_where_they_change(
    told: list[dict[str, Any]], source: Path, own: Path
) -> None:
    assert run("batch", source.parent, "calm", "--yes", "--add-source", "library", "--library", own) == 0
    assert told
    assert told[0] == {"library": (own,), "add_source": "library"}
    assert Request("calm").digest != Request("calm", sounds=("library",)).digest


@pytest.mark.parametrize(
    ("more", "code"),
    [(("--library", "nowhere"), ErrorCode.AUDIO_NOT_FOUND), (("--add-source", "magic"), ErrorCode.USAGE)],
)
def test_wrong_options_are_refused_before_anything_is_done(
    told: list[dict[str, Any]], source: Path, tmp_path: Path, more: tuple[str, ...], code: ErrorCode
) -> None:
    assert run("step", source, ADD, "-o", tmp_path / "out.wav", *more) == ERROR_TABLE[code].exit_code
    assert told == []


def test_at_a_server_the_server_says(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run("--server", "127.0.0.1:1", "step", source, ADD, "-o", tmp_path / "o.wav", "--add-source", "edit")
    assert status == ERROR_TABLE[ErrorCode.USAGE].exit_code
    assert "the server's to say" in capsys.readouterr().err


def test_the_server_has_settings_for_it(tmp_path: Path) -> None:
    settings = load({"add_source": "library", "library": [str(tmp_path), str(tmp_path / "b")]}, {}).settings
    assert (settings.add_source, settings.library) == ("library", (tmp_path, tmp_path / "b"))
    assert load({}, {}).settings.library == ()
    with pytest.raises(SmartDJError) as caught:
        load({"add_source": "magic"}, {})
    assert (caught.value.code, caught.value.field) == (ErrorCode.SERVER_CONFIG, "add_source")


@pytest.fixture
def fake_networks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The commands of `library` with a listener and an encoder that load at once."""

    class Words:
        def vectors(self, texts: list[str]) -> torch.Tensor:
            return torch.from_numpy(bag_of_words(texts).astype(np.float32))

    monkeypatch.setattr("smartdj_agent.models.text.SentenceEncoder", Words)
    monkeypatch.setattr("smartdj_agent.editor.SentenceEncoder", Words)
    monkeypatch.setattr("smartdj_agent.editor.embed_sound", lambda listener, mono: hear(mono))
    monkeypatch.setattr("smartdj_agent.models.weights.load_network", lambda *_: KnownListener(everything))
    monkeypatch.setattr("smartdj_agent.models.weights.network_id", lambda *_: "one")
    monkeypatch.setattr("smartdj_agent.agent.network_id", lambda *_: "one")
    monkeypatch.setattr(Editor, "embed_texts", lambda self, texts: np.zeros((len(texts), 3), np.float32))
    return lambda: None


@pytest.mark.usefixtures("fake_networks")
def test_index_search_list_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sounds"
    write(folder / "Dog Barking.wav", tone(700))
    (folder / "broken.wav").write_bytes(b"no sound")
    assert run("library", "index", folder, "--json") == 0
    *_, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (last["event"], last["sounds"], last["added"]) == ("library_indexed", 1, 1)
    assert [name for name, _ in last["skipped"]] == ["broken.wav"]
    assert run("library", "search", "dog barking", "--json") == 0
    (match, *_) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (match["label"], match["path"]) == ("dog barking", str(folder / "Dog Barking.wav"))
    assert run("library", "search", "dog barking") == 0
    assert "dog barking" in capsys.readouterr().out
    assert run("library", "list") == 0
    assert str(folder) in capsys.readouterr().out
    assert run("library", "index", folder) == 0
    assert "1 sound in the index (0 read, 1 as before, 0 gone, 1 can't be read" in capsys.readouterr().err
    assert run("library", "remove", folder) == 0
    assert run("library", "remove", folder) == ERROR_TABLE[ErrorCode.AUDIO_NOT_FOUND].exit_code
    assert run("library", "index", tmp_path / "nowhere") == ERROR_TABLE[ErrorCode.AUDIO_NOT_FOUND].exit_code


@pytest.mark.usefixtures("fake_networks")
def test_ctrl_c_keeps_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sounds"
    for name in ("a hum", "b hum", "c hum"):
        write(folder / f"{name}.wav")
    shown: list[object] = []

    def interrupt(item: object, screen: object) -> None:
        shown.append(item)
        if len(shown) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(library_cli, "PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setattr(library_cli, "_show_progress", interrupt)
    assert run("library", "index", folder) == ERROR_TABLE[ErrorCode.CANCELLED].exit_code
    assert "2 of 3 files are done" in capsys.readouterr().err
    assert len(IndexedLibrary(folder)) == 2
