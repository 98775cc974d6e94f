"""The planner of preset `paper` on tiny random models of three families: what it is told, hears, writes and learns."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_audio_lm import FAMILIES, build

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Heard, PlanReady, Question, Writing
from smartdj_agent.models.audio_lm import IGNORED, AudioPlannerLM
from smartdj_agent.models.planner_lm import HEAR_RATE, Decoding, EventToken, Prompt
from smartdj_agent.models.prompts import MAX_STEPS
from smartdj_agent.models.released import import_released
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import role_folder
from smartdj_agent.planner import Asked, Planner, heard_part
from smartdj_agent.planners import open_planner
from smartdj_agent.steps import Operation, Step, prompt_table
from training.designer import default_knowledge
from training.loop import read_config, train
from training.planner import make_task

HEARD = (
    Heard("dog barking", 0.9, -20.0, -90.0, 0.0, 4.0),
    Heard("raining", 0.7, -31.0, None, 0.0, 10.0),
    Heard("piano", 0.6, -25.0, 45.0, 2.0, 9.0),
)
EVENTS = (EventToken("dog barking", 0.9, -20.0, -90.0, 0.0, 4.0), EventToken("raining", 0.7, -31.0, None, 0.0, 10.0))
SCENE = "make this feel like a harbour at dawn"


def sound(seconds: float = 3.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(round(seconds * HEAR_RATE))).astype(np.float32)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp(request.param))


@cache
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_the_prompt_tells_the_step_table_and_measured_directions(family: Path) -> None:
    text = AudioPlannerLM.load(family, "cpu").prompt_text(Prompt(EVENTS, SCENE, "remove raining\n", sound()))
    assert prompt_table() in text
    assert "- dog barking (left, -20 dBFS, 0.0 to 4.0 s, 90% sure)" in text
    assert "- raining (direction unclear, " in text
    assert text.endswith("assistant\nremove raining\n")


def test_written_token_by_token_it_is_what_generate_writes(family: Path) -> None:
    model = AudioPlannerLM.load(family, "cpu")
    inputs = model.inputs([Prompt(EVENTS, SCENE, mono=sound())])
    length = inputs["input_ids"].shape[1]
    wanted = model.lm.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)[0, length:]
    with torch.inference_mode():
        decoding = model.begin(Prompt(EVENTS, SCENE, mono=sound()))
        written = []
        for _ in range(8):
            written.append(int(decoding.logits.argmax()))
            decoding.push(written[-1])
    assert written == wanted.tolist()


def test_it_hears(family: Path) -> None:
    model = AudioPlannerLM.load(family, "cpu")
    with torch.inference_mode():
        loud, soft = (
            model.begin(Prompt(EVENTS, SCENE, mono=mono)).logits for mono in (sound(), np.roll(sound(), 9000) ** 2)
        )
        deaf = model.begin(Prompt(EVENTS, SCENE)).logits
    assert not torch.equal(loud, soft)
    assert not torch.equal(loud, deaf)


def test_labels_are_the_answers_alone(family: Path) -> None:
    model = AudioPlannerLM.load(family, "cpu")
    answers = ["remove dog barking\n", "turn up piano by 3 dB\nadd seagulls at the left with 2 dB\n"]
    prompts = [Prompt(EVENTS, "no dog", mono=sound(2)), Prompt(EVENTS, SCENE, mono=sound(3))]
    inputs = model.inputs(prompts, answers)
    for row, answer in enumerate(answers):
        told = inputs["labels"][row]
        assert model.tokenizer.decode(told[told != IGNORED]) == answer + model.end
    assert model.end == "<|im_end|>"


@pytest.fixture
def installed(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMARTDJ_MODELS", str(tmp_path / "models"))
    import_released([family])
    return role_folder("paper", "planner")


@pytest.mark.parametrize("seed", [0, 3])
def test_what_it_writes_is_valid(installed: Path, seed: int) -> None:
    planner = open_planner("auto", "paper", "cpu", encoder())
    audio = Audio(np.stack([sound(4), sound(4)]), HEAR_RATE)
    for instruction in (f"remove the dog and {SCENE}", f"{SCENE}, but keep the piano"):
        items = list(planner.write(HEARD, instruction, seed=seed, audio=audio))
        steps = [item for item in items if isinstance(item, Step)]
        assert isinstance(items[-1], Asked) or 1 <= len(steps) <= MAX_STEPS
        present = {item.label for item in HEARD}
        for step in steps:
            assert (step.target in present) != (step.operation is Operation.ADD)
        if instruction.startswith("remove"):
            assert steps[0] == Step(Operation.REMOVE, "dog barking")
        if "keep" in instruction:
            assert Step(Operation.REMOVE, "piano") not in steps


def test_the_network_is_given_the_recording(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = open_planner("paper", "small", "cpu", encoder())
    prompts: list[Prompt] = []
    begin = planner.model.begin

    def noted(prompt: Prompt) -> Decoding:
        prompts.append(prompt)
        return begin(prompt)

    monkeypatch.setattr(planner.model, "begin", noted)
    audio = Audio(np.stack([sound(4), sound(4)]), 44_100)
    assert list(planner.write(HEARD, SCENE, seed=0, audio=audio)) == list(
        planner.write(HEARD, SCENE, seed=0, audio=audio)
    )
    first, prompt = prompts
    assert np.array_equal(first.mono, prompt.mono)
    assert prompt.mono is not None
    assert len(prompt.mono) == pytest.approx(audio.duration_s * HEAR_RATE, abs=2)


def test_of_a_long_recording_it_hears_where_most_sounds() -> None:
    heard = (Heard("dog", 0.9, -20.0, 0.0, 40.0, 50.0), Heard("car", 0.9, -20.0, 0.0, 45.0, 60.0))
    ramp = np.linspace(0, 1, 100 * 8000, dtype=np.float32)
    part = heard_part(Audio(np.stack([ramp, ramp]), 8000), heard, 30.0)
    assert len(part) == 30 * HEAR_RATE
    assert part[HEAR_RATE] == pytest.approx(0.41, abs=0.01)
    short = heard_part(Audio(np.stack([ramp, ramp]), 8000), heard, 600.0)
    assert len(short) == 100 * HEAR_RATE


def test_trained_saved_and_loaded_it_plans(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clips(tmp_path / "clips")
    changes = [
        f"model.base={family}",
        f"data.folders=[{folder}]",
        f"data.cache={tmp_path / 'cache'}",
        "data.duration_s=2.0",
        "data.validation=2",
        "model.checkpointing=false",
        "loop.steps=20",
        "loop.batch_size=2",
        "loop.accumulate=1",
        "loop.warmup_steps=2",
        "loop.learning_rate=3.0e-2",
        "loop.bf16=false",
        "loop.log_every=1",
    ]
    config, settings = read_config(Path("training/configs/planner-paper.yaml"), changes)
    settings["model"]["dtype"] = torch.float32
    torch.manual_seed(0)
    task: Any = make_task(settings, "cpu")
    learned = {name for name, parameter in task.model.lm.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "projector" in name or "audio_tower.proj" in name for name in learned)
    assert not any("audio_tower" in name and "lora_" in name for name in learned)
    assert any("lora_" in name for name in learned)
    assert any("lora_" not in name for name in learned)
    batch = task.batch(np.random.default_rng(5), 4)
    with torch.no_grad():
        before = float(task.loss(batch)[0])
    train(task, config, tmp_path / "run")
    task.model.eval()
    with torch.no_grad():
        after = float(task.loss(batch)[0])
    assert after < before - 0.1  # the output layer is random and fixed

    monkeypatch.setenv("SMARTDJ_MODELS", str(tmp_path / "models"))
    import_released([tmp_path / "run" / "model"])
    loaded = AudioPlannerLM.load(role_folder("paper", "planner"), "cpu")
    prompt = batch[0].prompt
    with torch.inference_mode():
        own, again = task.model.begin(prompt).logits, loaded.begin(prompt).logits
    assert torch.allclose(own, again, atol=1e-3)
    assert Planner("paper", "cpu", encoder()).vocabulary

    audio = Audio(np.stack([sound(3), sound(3)]), HEAR_RATE)
    *before, last = Agent("small", "cpu", planner="paper").plan(audio, SCENE)
    assert any(isinstance(event, Writing) for event in before)
    assert isinstance(last, PlanReady | Question)


def clips(folder: Path) -> Path:
    """A folder of clips of known labels, some for each split."""
    folder.mkdir()
    rows = ["path,label,split"]
    rng = np.random.default_rng(2)
    for label in sorted(default_knowledge().labels)[::30]:
        for split in ("train", "valid"):
            name = f"{label.replace(' ', '-')}-{split}.wav"
            soundfile.write(folder / name, 0.3 * rng.standard_normal(24_000), 24_000)
            rows.append(f"{name},{label},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_a_folder_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTDJ_MODELS", str(tmp_path / "models"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SmartDJError) as caught:
        import_released([empty])
    assert caught.value.code is ErrorCode.MODEL_MISMATCH
    assert not (tmp_path / "models" / "paper" / "planner").exists()
    (empty / "config.json").write_text('{"model_type": "qwen2_audio"}', encoding="utf-8")
    import_released([empty])
    with pytest.raises(SmartDJError) as caught:
        Planner("paper", "cpu", encoder()).model  # noqa: B018
    assert caught.value.code is ErrorCode.MODEL_CORRUPT


def test_without_one_installed() -> None:
    assert open_planner("auto", "paper", "cpu", encoder()).preset == "small"
    with pytest.raises(SmartDJError, match="models import") as caught:
        list(open_planner("paper", "paper", "cpu", encoder()).write(HEARD, SCENE, seed=0))
    assert caught.value.code is ErrorCode.MODEL_MISSING
    with pytest.raises(SmartDJError) as caught:
        Agent("small", "cpu", planner="oracle")
    assert caught.value.code is ErrorCode.USAGE
