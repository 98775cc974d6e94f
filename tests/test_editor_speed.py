"""The editor's speed benchmark: its ways of carrying out a plan agree where they must; no time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import editor_speed as bench
from benchmarks.editor_speed import PLAN, PlanRunner, Recipe, distances, product, random_editor, straight_line
from smartdj_agent.editor import Editor
from smartdj_agent.models.dit import Rotary
from smartdj_agent.sampling import SamplerConfig
from smartdj_agent.steps import Operation

RATE = 24_000
CHAINED = Recipe(chained=True, steps=5)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return random_editor("tiny", "cpu")


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (2, RATE // 4)).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [{"one_text_batch": True}, {"keys_values_once": True}, {"one_text_batch": True, "keys_values_once": True}],
    ids=lambda values: "+".join(values),
)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.7)])
def test_what_only_saves_work_leaves_the_result(
    editor: Editor, wave: np.ndarray, values: dict[str, Any], interval: tuple[float, float]
) -> None:
    plain = replace(CHAINED, interval=interval)
    expected = PlanRunner(editor, plain).run(wave, PLAN)
    result = PlanRunner(editor, replace(plain, **values)).run(wave, PLAN)
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())


def test_what_changes_the_result_is_told_by_the_distances(editor: Editor, wave: np.ndarray) -> None:
    base = PlanRunner(editor, CHAINED).run(wave, PLAN)
    for values in ({"chained": False}, {"interval": (0.3, 0.7)}, {"steps": 4}, {"bf16": True}):
        other = PlanRunner(editor, replace(CHAINED, **values)).run(wave, PLAN)
        spectral, si_sdr_db = distances(base, other)
        assert spectral > 0, values
        assert si_sdr_db < bench.SAME_SI_SDR_DB, values
    reversed_plan = PlanRunner(editor, CHAINED).run(wave, PLAN[::-1])
    assert not np.allclose(reversed_plan, base, atol=1e-3)  # texts and noises count


def test_the_product_does_what_its_recipe_says(editor: Editor, wave: np.ndarray) -> None:
    editor.sampler = SamplerConfig(solver="unipc", steps=3)
    recipe = Recipe(chained=True, keys_values_once=True, solver="unipc", steps=3, folded=True)
    expected = PlanRunner(editor, recipe).run(wave, PLAN)
    np.testing.assert_allclose(product(editor, wave, PLAN), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("make", [bench.plain_codec, bench.folded_codec])
def test_other_forms_of_the_codec_are_copies_that_agree(editor: Editor, make: Callable[[Any], Any]) -> None:
    before = {key: value.clone() for key, value in editor.codec.state_dict().items()}
    other = make(editor.codec)
    x = torch.randn(1, 2, 960)
    with torch.inference_mode():
        torch.testing.assert_close(other.encode_stereo(x), editor.codec.encode_stereo(x))
    assert not any(isinstance(module, bench.SnakeBeta) for module in other.modules())
    assert any(isinstance(module, bench.SnakeBeta) for module in editor.codec.modules())
    for key, value in editor.codec.state_dict().items():
        assert torch.equal(value, before[key])


def test_bf16_keeps_positions_exact(editor: Editor) -> None:
    narrow = bench.in_bf16(editor.dit)
    assert next(narrow.parameters()).dtype == torch.bfloat16
    assert next(editor.dit.parameters()).dtype == torch.float32
    pairs = zip(narrow.modules(), editor.dit.modules(), strict=True)
    rotations = [(ours, theirs) for ours, theirs in pairs if isinstance(ours, Rotary) and isinstance(theirs, Rotary)]
    assert rotations
    assert all(torch.equal(ours.inv_freq, theirs.inv_freq) for ours, theirs in rotations)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_steps_are_the_same(wave: np.ndarray) -> None:
    editor = random_editor("tiny", "cuda")
    recipe = replace(CHAINED, one_text_batch=True, keys_values_once=True, interval=(0.3, 0.7))
    expected = PlanRunner(editor, recipe).run(wave, PLAN)
    runner = PlanRunner(editor, replace(recipe, graph=True))
    for _ in range(2):
        np.testing.assert_allclose(runner.run(wave, PLAN), expected, atol=1e-4 * np.abs(expected).max())


def test_a_change_that_does_not_pay_is_dropped(
    editor: Editor, wave: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"naive": 8.0, "chained": 4.0, "one_text_batch": 4.0, "keys_values_once": 2.0}
    recipes: list[Recipe] = []

    class Runner:
        def __init__(self, editor: Editor, recipe: Recipe) -> None:
            recipes.append(recipe)

        def run(self, wave: np.ndarray, plan: Any) -> np.ndarray:
            return wave

    def timed(device: str, run: Callable[[], Any], repeats: int = 1) -> tuple[float, float, Any]:
        recipe = recipes[-1]
        named = [name for name in seconds if getattr(recipe, name, False)]
        return seconds[named[-1] if named else "naive"], 0.0, wave

    monkeypatch.setattr(bench, "PlanRunner", Runner)
    monkeypatch.setattr(bench, "timed", timed)
    rows = {row.name: row for row in bench.ladder(editor, wave, naive_steps=5, fast_steps=3, compiles=False, repeats=1)}
    assert rows["latent chaining"].kept
    assert rows["latent chaining"].gain == 2.0
    assert rows["one text batch"].kept is False
    assert rows["text keys and values once"].kept
    assert rows["text keys and values once"].total_gain == 4.0
    assert recipes[3] == Recipe(chained=True, keys_values_once=True, steps=5)
    assert rows["torch.compile"].seconds is None
    assert rows["CUDA graph of one step"].note == "needs a GPU"


def test_straight_line() -> None:
    line = straight_line([10.0, 20.0, 40.0], [3.0, 5.0, 9.0])
    assert line.slope == pytest.approx(0.2)
    assert line.intercept_s == pytest.approx(1.0)
    assert line.r_squared == pytest.approx(1.0)
    assert straight_line([1.0, 2.0, 3.0], [0.0, 5.0, 0.0]).r_squared == pytest.approx(0.0)
    assert straight_line([1.0, 2.0], [4.0, 4.0]).r_squared == pytest.approx(1.0)


def test_every_operation_is_timed() -> None:
    assert {step.operation for step in bench.each_operation("rain")} == set(Operation)


def test_peak_memory_sees_what_was_given_back() -> None:
    memory = bench.PeakMemory("cpu")
    before = memory.mib()
    block = np.ones(8 * 2**20)
    del block
    assert memory.mib() >= before + 40


@pytest.mark.parametrize("given", [["--cases", "cpu"], ["--cases", "cpu:huge"], ["--lengths", "10"]])
def test_wrong_arguments_are_refused(given: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.main(given)
    assert refused.value.code == 2


def test_a_document_without_a_place_for_the_figures_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("it measured first"))
    document = tmp_path / "speed.md"
    document.write_text("# Speed\n")
    assert bench.main(["--quick", "--out", str(tmp_path / "r.json"), "--markdown-into", str(document)]) == 2
    assert document.read_text() == "# Speed\n"


def test_a_quick_run_writes_figures_tables_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, out = tmp_path / "speed.md", tmp_path / "results" / "r.json"
    document.write_text("# Speed\n\n<!-- editor-speed -->\n\nNot run yet.\n\n<!-- /editor-speed -->\n\nafter\n")
    given = ["--quick", "--cases", "cpu:tiny", "--out", str(out), "--markdown-into", str(document)]
    assert bench.main(given) == 0
    results = json.loads(out.read_text())
    (case,) = results["cases"]
    names = [row["name"] for row in case["ladder"]]
    assert names[0] == "naive loop"
    assert names[-1] == "the product"
    assert len(names) == 2 + len(bench.CHANGES)
    for row in case["ladder"]:
        assert (row["seconds"] is None) == (row["name"] in ("torch.compile", "CUDA graph of one step"))
    assert [row["operation"] for row in results["preserve"]["operations"]] == list(Operation)
    assert [row["duration_s"] for row in results["preserve"]["lengths"]] == [0.5, 1.0, 2.0]
    assert all(row["method"] == "mask" for row in results["preserve"]["operations"][1:])
    text = document.read_text()
    assert "Not run yet" not in text
    assert text.endswith("after\n")
    assert "mean nothing" in text
    assert f"R² = {results['preserve']['line']['r_squared']:.5f}" in text
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert bench.main([*given, "--from-json"]) == 0
    assert document.read_text() == text
