"""The evaluation from clips to tables, with a fake editor that knows nothing."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from smartdj_agent.audio import Audio
from smartdj_agent.editor import Chain, Layers, StepOutcome, StepProgress
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.listener import Listener
from smartdj_agent.steps import Operation, Step, format_step
from training import evaluate as evaluation
from training.clips import SAMPLE_RATE, ClipStore
from training.embedders import Heard, Judges, load_judges
from training.metrics import CHANGE_FLOOR_DB, change_db
from training.oracle import ideal_mask
from training.paper_style import describe_judges

LABELS = ("dog barking", "rain", "car horn", "wind blowing", "church bell", "sea waves", "man speaking", "piano")
CONTINUOUS = {"rain", "wind blowing", "sea waves"}
DURATION_S = 2.0


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip per label and split: noise in a band of its own, so that a band mask can part any two."""
    folder = tmp_path_factory.mktemp("clips")
    rows = [("path", "label", "kind", "split")]
    for number, label in enumerate(LABELS):
        for split in ("train", "test"):
            rng = np.random.default_rng(number + 100 * (split == "test"))
            spectrum = np.zeros(12_001, np.complex128)
            low = 150 + 1200 * number
            spectrum[low : low + 500] = rng.standard_normal(500) + 1j * rng.standard_normal(500)
            samples = np.fft.irfft(spectrum)
            kind = "continuous" if label in CONTINUOUS else "transient"
            name = f"{label.replace(' ', '_')}_{split}.wav"
            soundfile.write(folder / name, 0.5 * samples / np.abs(samples).max(), SAMPLE_RATE)
            rows.append((name, label, kind, split))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def store(clip_folder: Path) -> ClipStore:
    return ClipStore.open([clip_folder], "test")


@pytest.fixture(scope="module")
def listener() -> Listener:
    """Only its bands are used."""
    return Listener(stem_channels=(2, 2, 2, 2), width=8, depth=1, heads=1, query_depth=1, pixel_channels=2).eval()


class FakeEditor:
    """`preserve` halves the first half second, `generate` turns everything to noise."""

    def __init__(self, spans: tuple[tuple[int, int], ...] = ((0, SAMPLE_RATE // 2),)) -> None:
        self.spans = spans

    def preserve(
        self, audio: Audio, step: Step, *, seed: int, layers: Layers | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        yield StepProgress(0.5, "halving")
        output = audio.samples.copy()
        output[:, : SAMPLE_RATE // 2] *= 0.5
        yield StepOutcome(output, "fake", 0.9, self.spans)

    def generate(
        self, audio: Audio, step: Step, *, seed: int, chain: Chain | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        rng = np.random.default_rng(seed)
        output = 0.1 * rng.standard_normal(audio.samples.shape).astype(np.float32)
        yield StepOutcome(output, "fake", 0.5, ((0, audio.n_samples),))


class FakeRanker:
    def rank(self, samples: np.ndarray, label: str) -> int:
        return 1 + LABELS.index(label)


def run(
    store: ClipStore,
    listener: Listener,
    *,
    editor: FakeEditor | None = None,
    seed: int = 3,
    tasks: tuple[str, ...] = evaluation.TASKS,
) -> dict[str, Any]:
    judges = load_judges()
    bench = evaluation.Bench(store, editor or FakeEditor(), listener, FakeRanker(), judges)
    choice = evaluation.Choice(tasks, {"preserve": 2, "generate": 1}, seed, DURATION_S)
    cases = [evaluation.measure_case(choice, bench, case) for case in choice.cases()]
    about = {
        "judges": describe_judges(judges),
        "command": "python -m training.evaluate --out x",
        "split": "test",
        "clips": len(store),
        "labels": len(store.labels),
        "seed": seed,
        "duration_s": DURATION_S,
        "machine": "Machine: none.",
    }
    return {"about": about, **evaluation.gathered(cases)}


@pytest.fixture(scope="module")
def results(store: ClipStore, listener: Listener) -> dict[str, Any]:
    return run(store, listener)


def timeless(results: dict[str, Any]) -> dict[str, Any]:
    results = copy.deepcopy(results)
    for record in results["records"]:
        for key in evaluation.TIMINGS:
            record["figures"].pop(key, None)
    return results


def values(results: dict[str, Any], row: str, key: str, *tasks: str) -> list[float]:
    return [
        record["figures"][key]
        for record in results["records"]
        if record["row"] == row and key in record["figures"] and (not tasks or record["task"] in tasks)
    ]


@pytest.mark.parametrize("task", evaluation.STEP_TASKS)
def test_cases_are_exact_and_use_only_their_split(store: ClipStore, task: str) -> None:
    for index in range(4):
        case = evaluation.make_case(store, task, index, 0, duration_s=DURATION_S)
        present = [label for label, _ in case.sounds]
        assert 2 <= len(present) <= 4
        assert (case.step.target in present) == (task not in ("add", "absent"))
        if task == "absent":
            assert case.truth is case.source
            continue
        assert case.step.operation == task
        wanted = case.changed if task == "extract" else case.rest + case.changed
        np.testing.assert_allclose(case.truth, wanted, atol=1e-6)
        assert np.any(case.stem)
        if task == "volume":
            assert change_db(case.source, case.truth) > -60
    again = evaluation.make_case(store, task, 3, 0, duration_s=DURATION_S)
    np.testing.assert_array_equal(again.truth, case.truth)
    assert again.step == case.step
    assert evaluation.case_seed(0, task, 3) != evaluation.case_seed(1, task, 3)


def test_absent_sound_needs_a_label_that_is_left(store: ClipStore) -> None:
    few = ClipStore([clip for clip in store.clips if clip.label in LABELS[:4]], "test")
    # Scenes have two to four sounds: some hold all four.
    full = next(index for index in range(50) if _drawn_count(index) == 4)
    with pytest.raises(SmartDJError, match="none is left") as caught:
        evaluation.make_case(few, "absent", full, 0, duration_s=DURATION_S)
    assert caught.value.code is ErrorCode.USAGE


def _drawn_count(index: int) -> int:
    """Number of sounds in a case of "absent": the first that is drawn."""
    return int(np.random.default_rng(evaluation.case_seed(0, "absent", index)).integers(2, 5))


def test_copy_improves_by_exactly_nothing(results: dict[str, Any]) -> None:
    assert values(results, "copy", "si_sdr_improvement_db") == [0.0] * 16
    assert values(results, "copy", "change_db") == [CHANGE_FLOOR_DB] * 2


def test_oracle_beats_copy(results: dict[str, Any]) -> None:
    assert min(values(results, "oracle", "si_sdr_improvement_db", "extract", "remove")) > 3
    for task, key in (("volume", "volume_error_db"), ("timbre", "band_error_db"), ("reverb", "wet_error_db")):
        assert np.median(values(results, "oracle", key, task)) < np.median(values(results, "copy", key, task))
    assert max(values(results, "oracle", "azimuth_error_deg", "direction")) < 20
    assert max(values(results, "oracle", "shift_error_ms")) < 5


def test_truth_of_add_has_no_error(results: dict[str, Any]) -> None:
    for key in ("gcc_error", "level_error_db", "azimuth_error_deg"):
        assert values(results, "truth", key) == pytest.approx([0.0, 0.0], abs=0.2)
    assert min(values(results, "copy", "level_error_db")) > 40


def test_samples_outside_the_spans_are_counted(store: ClipStore, listener: Listener, results: dict[str, Any]) -> None:
    assert set(values(results, "preserve", "changed_outside")) == {0.0}
    lying = run(store, listener, editor=FakeEditor(spans=()), tasks=("remove", "add"))
    # A scene may begin with silence, in which nothing can be changed.
    assert max(values(lying, "preserve", "changed_outside")) > 1000


def test_noise_is_no_edit(results: dict[str, Any]) -> None:
    assert max(values(results, "generate", "si_sdr_improvement_db")) < 0
    assert len(values(results, "generate", "seconds")) == len(evaluation.TASKS)


def test_equal_seeds_give_equal_results(store: ClipStore, listener: Listener, results: dict[str, Any]) -> None:
    tasks = ("reverb", "add", "absent")
    expected = [record for record in timeless(results)["records"] if record["task"] in tasks]
    order = {task: position for position, task in enumerate(tasks)}
    expected.sort(key=lambda record: order[record["task"]])
    assert timeless(run(store, listener, tasks=tasks))["records"] == expected
    assert timeless(run(store, listener, tasks=tasks, seed=4))["records"] != expected


def test_oracle_mask_is_the_true_share(store: ClipStore, listener: Listener) -> None:
    case = evaluation.make_case(store, "extract", 0, 0, duration_s=DURATION_S)
    nothing = ideal_mask(case.stem, np.zeros_like(case.stem), listener)
    assert nothing.share[:, :, nothing.active].max() > 0.99
    mask = ideal_mask(np.zeros_like(case.stem), case.rest, listener)
    assert not mask.active.any()
    assert not mask.share.any()


def test_every_row_has_the_papers_figures(results: dict[str, Any]) -> None:
    for record in results["records"]:
        has = {"si_sdr_db", "lsd", "lsd_published", "gcc_error"} & record["figures"].keys()
        assert len(has) == (0 if record["task"] == "absent" else 4)
    truths = [record["figures"] for record in results["records"] if record["row"] == "truth"]
    assert {(figures["lsd"], figures["gcc_error"]) for figures in truths} == {(0.0, 0.0)}


def test_a_plan_is_carried_out_step_by_step(store: ClipStore, listener: Listener) -> None:
    class Spy(FakeEditor):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[tuple[str, int, float]] = []

        def preserve(
            self, audio: Audio, step: Step, *, seed: int, layers: Layers | None = None
        ) -> Iterator[StepProgress | StepOutcome]:
            self.asked.append((format_step(step), seed, float(np.abs(audio.samples).sum())))
            yield from super().preserve(audio, step, seed=seed)

    editor = Spy()
    found = run(store, listener, editor=editor, tasks=("plan",))
    record = next(each for each in found["records"] if each["row"] == "preserve")
    steps = record["step"].split("; ")
    asked = editor.asked[: len(steps)]
    assert [text for text, _, _ in asked] == steps
    assert [seed for _, seed, _ in asked] == [record["seed"] + number for number in range(len(steps))]
    assert sorted({level for _, _, level in asked}, reverse=True) == [level for _, _, level in asked]
    assert record["instruction"]
    assert record["method"] == "; ".join(["fake"] * len(steps))
    assert record["figures"]["changed_outside"] == 0


def test_label_ranker_ranks_by_presence(listener: Listener) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 384, generator=torch.Generator().manual_seed(0)), dim=-1)
    ranker = evaluation.LabelRanker(listener, vectors, LABELS[:5])
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, SAMPLE_RATE)).astype(np.float32)
    assert sorted(ranker.rank(samples, label) for label in LABELS[:5]) == [1, 2, 3, 4, 5]


def test_summaries_are_medians_quartiles_shares_and_largest() -> None:
    records = [
        {"task": "volume", "row": "preserve", "figures": {"lsd": value, "not_found": share, "changed_outside": value}}
        for value, share in ((1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, 1.0), (5.0, 0.0))
    ]
    found = evaluation.summarise(records)
    assert found["volume", "preserve", "lsd"] == evaluation.Summary(5, 3.0, 2.0, 4.0)
    assert found["volume", "preserve", "not_found"].median == pytest.approx(0.2)
    assert found["volume", "preserve", "changed_outside"].median == 5.0


def test_files_are_whole_and_tables_state_every_task(results: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "results"
    evaluation.write_all(folder, results)
    assert sorted(path.name for path in folder.iterdir()) == ["paper.png", "plots.png", "results.json", "tables.md"]
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
    tables = (folder / "tables.md").read_text(encoding="utf-8")
    assert all(f"\n## {task}\n" in tables for task in evaluation.TASKS)
    assert "\n## Paper-style figures\n" in tables
    assert "- CLAP left out: no weights of LAION-CLAP were given (--clap)." in tables
    assert results["about"]["command"] in tables
    assert (folder / "plots.png").read_bytes().startswith(b"\x89PNG")
    for block in tables.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_anchored_text_is_replaced_idempotently() -> None:
    text = "before\n\n<!-- figures -->\n\nafter\n"
    once = evaluation.replace_anchored(text, "figures", "| a |\n")
    assert once == "before\n\n<!-- figures -->\n\n| a |\n\n<!-- /figures -->\n\nafter\n"
    assert evaluation.replace_anchored(once, "figures", "| a |") == once
    assert evaluation.replace_anchored(once, "figures", "b") == once.replace("| a |", "b")


@pytest.mark.parametrize("text", ["no mark", "<!-- figures --> <!-- figures -->"])
def test_a_text_without_one_mark_is_refused(text: str) -> None:
    with pytest.raises(SmartDJError) as caught:
        evaluation.replace_anchored(text, "figures", "x")
    assert caught.value.code is ErrorCode.USAGE


def test_tables_only_writes_into_a_file(results: dict[str, Any], tmp_path: Path) -> None:
    removals = {**results, "records": [record for record in results["records"] if record["task"] == "remove"]}
    evaluation.write_all(tmp_path / "out", removals)
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\n<!-- figures -->\n\n## Next\n", encoding="utf-8")
    command = ["--out", str(tmp_path / "out"), "--tables-only", "--markdown-into", str(readme)]
    assert evaluation.main(command) == 0
    first = readme.read_text(encoding="utf-8")
    assert "| remove | SI-SDR improvement, dB ↑ | 0.0" in first
    assert "python -m training.evaluate --out x" in first
    assert first.endswith("<!-- /figures -->\n\n## Next\n")
    assert evaluation.main(command) == 0
    assert readme.read_text(encoding="utf-8") == first


def test_broken_preserve_is_an_error_status(store: ClipStore, listener: Listener, tmp_path: Path) -> None:
    evaluation.write_all(tmp_path, run(store, listener, editor=FakeEditor(spans=()), tasks=("add",)))
    assert evaluation.main(["--out", str(tmp_path), "--tables-only"]) == 1


def test_wrong_files_are_one_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here", encoding="utf-8")
    assert evaluation.main(["--out", str(tmp_path), "--markdown-into", str(readme)]) == 2
    assert evaluation.main(["--out", str(tmp_path / "none"), "--tables-only"]) == 2
    assert evaluation.main(["--out", str(tmp_path), "--folders", str(tmp_path)]) == 2
    assert "manifest" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluation.main(["--out", str(tmp_path), "--count", "0"])


def test_operations_are_all_evaluated() -> None:
    assert set(evaluation.TASKS) == {*Operation, evaluation.ABSENT, evaluation.PLAN}
    assert all(evaluation.SHORT_FIGURES[task] for task in evaluation.TASKS)


# --- many workers, and going on

CHOICE = evaluation.Choice(("volume", "absent"), {"preserve": 3, "generate": 2}, 3, DURATION_S)


class LoggingEditor(FakeEditor):
    """Writes down every case that it is asked about."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def preserve(
        self, audio: Audio, step: Step, *, seed: int, layers: Layers | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        with self.log.open("a") as file:
            file.write(f"{seed}\n")
        return super().preserve(audio, step, seed=seed)


class Ears:
    """A judge that hears how loud each octave is, in both ears."""

    key, name, distance, sample_rate = "ears", "two ears", "FAD", SAMPLE_RATE

    def embed(self, stereo: np.ndarray) -> Heard:
        power = np.abs(np.fft.rfft(stereo[:, : 4 * 4096].reshape(-1, 4096))) ** 2
        bands = np.stack([power[:, 2**k : 2 ** (k + 1)].sum(axis=1) for k in range(11)], axis=1)
        return Heard(np.log10(bands + 1e-9).astype(np.float32), bands.mean(axis=0))


def opened(folder: Path, log: Path) -> evaluation.Bench:
    """What a worker prepares."""
    torch.manual_seed(0)
    hearing = Listener(stem_channels=(2, 2, 2, 2), width=8, depth=1, heads=1, query_depth=1, pixel_channels=2).eval()
    return evaluation.Bench(ClipStore.open([folder], "test"), LoggingEditor(log), hearing, judges=Judges((Ears(),)))


def carried_out(out: Path, clip_folder: Path, about: str = "a", **options: Any) -> dict[str, Any]:
    journal = evaluation.Journal(out / "cases.jsonl", {"about": about})
    cases = evaluation.carry_out_cases(CHOICE, partial(opened, clip_folder, out / "log"), journal, **options)
    return timeless(evaluation.gathered(cases))


def test_workers_ray_and_interruptions_change_nothing(tmp_path: Path, clip_folder: Path) -> None:
    alone, several, cluster = tmp_path / "alone", tmp_path / "several", tmp_path / "cluster"
    expected = carried_out(alone, clip_folder, threads=1)
    assert len({(record["task"], record["index"]) for record in expected["records"]}) == 6
    assert {(each["row"], each["clips"]) for each in expected["distances"]} >= {("preserve", 3), ("generate", 2)}

    # Stopped after one case, in the middle of writing the second.
    lines = (alone / "cases.jsonl").read_bytes().splitlines(keepends=True)
    several.mkdir()
    (several / "cases.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert carried_out(several, clip_folder, workers=2) == expected
    assert len((several / "log").read_text().splitlines()) == 5
    assert carried_out(several, clip_folder, workers=2) == expected
    assert len((several / "log").read_text().splitlines()) == 5

    assert carried_out(cluster, clip_folder, ray="local", workers=2) == expected


def test_another_evaluation_in_the_same_folder_begins_anew(tmp_path: Path, clip_folder: Path) -> None:
    first = carried_out(tmp_path, clip_folder)
    assert carried_out(tmp_path, clip_folder, "b") == first
    assert len((tmp_path / "log").read_text().splitlines()) == 12
