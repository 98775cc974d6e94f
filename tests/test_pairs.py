"""The planner's text pairs: a pure function of seed and index, resumable, split cleanly, a fixed test set."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from smartdj_agent.errors import SmartDJError
from smartdj_agent.models.planner_lm import EventToken
from smartdj_agent.plan_text import read_plan_text
from training import pairs
from training.designer import default_knowledge
from training.designer_figures import NGRAM, overlap, unsound, words_of
from training.natural import read_set
from training.pairs import (
    TEST_COUNT,
    TEST_SEED,
    Settings,
    held_sha256,
    make_pair,
    pair_rng,
    read_pair,
    read_pairs,
    shard_path,
    write_pairs,
)
from training.planner import make_plan_example

KNOWLEDGE = default_knowledge()
LABELS = sorted(KNOWLEDGE.labels)
INSTRUCTIONS = 1500
NGRAM_LIMIT = 0.03
"""Largest share of the test instructions' runs of five words that may stand in `INSTRUCTIONS` training instructions."""
TEST_SHA256 = "a9e974da5d0ce4f21d2f473f19ea4ad705f2bb9bf93618e5d8dbc33c4b5671ff"
"""Of the held-out set; whoever changes scenes, wordings or designer changes it, and says so with the figures."""


@pytest.fixture(scope="module")
def held_out() -> list[dict[str, Any]]:
    return [make_pair(TEST_SEED, "test", index) for index in range(TEST_COUNT)]


@pytest.fixture(scope="module")
def train_instructions() -> list[str]:
    rngs = (pair_rng(TEST_SEED, "train", index) for index in range(INSTRUCTIONS))
    return [make_plan_example(rng, KNOWLEDGE, LABELS, "train").design.instruction for rng in rngs]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_the_held_out_set_is_always_the_same(held_out: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(pair, separators=(",", ":")) + "\n" for pair in held_out)
    assert hashlib.sha256(lines.encode()).hexdigest() == TEST_SHA256


def test_no_test_scene_is_trained(held_out: list[dict[str, Any]]) -> None:
    scenes = {pair["scene"].partition(", ")[0] for pair in held_out} - {""}
    assert scenes == {scene.name for scene in KNOWLEDGE.scenes("test")}
    assert scenes.isdisjoint(scene.name for scene in KNOWLEDGE.scenes("train"))


def test_test_wordings_are_not_those_of_training(held_out: list[dict[str, Any]], train_instructions: list[str]) -> None:
    found = overlap(train_instructions, (pair["instruction"] for pair in held_out))
    assert found["same"] == 0
    assert found["ngrams"] <= NGRAM_LIMIT
    # The measure itself sees what is shared.
    assert overlap(train_instructions, train_instructions[:50]) == {"same": 1.0, "ngrams": 1.0}
    assert NGRAM == 5


def test_natural_instructions_are_in_neither(held_out: list[dict[str, Any]], train_instructions: list[str]) -> None:
    # Chatter such as "what time is it" is what anyone would write; longer ones must be nobody's template.
    natural = {words_of(item.says) for item in read_set().instructions if len(words_of(item.says)) > 4}
    assert natural.isdisjoint(words_of(text) for text in train_instructions)
    assert natural.isdisjoint(words_of(pair["instruction"]) for pair in held_out)


def test_pairs_are_sound_and_read_back(held_out: list[dict[str, Any]]) -> None:
    kinds = set()
    for values in held_out[:400]:
        pair = read_pair(json.dumps(values))
        kinds.add(pair.kind)
        assert not unsound(pair, KNOWLEDGE), values
        assert len(set(pair.plans)) == len(pair.plans)
        names = {sound.label for sound in pair.present}
        assert names <= {event.label for event in pair.heard}
        assert len(pair.heard) <= len(names) + 1  # the listener imagines one sound at most
        confidences = [event.confidence for event in pair.heard]
        assert confidences == sorted(confidences, reverse=True)
        assert isinstance(pair.heard[0], EventToken)
    assert kinds == {"scene", "direct", "mixed", "question"}
    several = [pair for pair in held_out if pair["kind"] == "scene" and len(pair["plans"]) == 3]
    assert len(several) > 0.8 * sum(pair["kind"] == "scene" for pair in held_out)


def test_an_unsound_pair_is_noticed(held_out: list[dict[str, Any]]) -> None:
    values = next(pair for pair in held_out if pair["kind"] == "scene")
    for plan in ("dance\n", "remove nothing that is there\n", ""):
        assert unsound(read_pair(json.dumps(values | {"plans": [plan]})), KNOWLEDGE)
    steps, _, _ = read_plan_text(values["plans"][0])
    assert steps
    asking = next(pair for pair in held_out if pair["kind"] == "question")
    assert unsound(read_pair(json.dumps(asking | {"plans": ["ask What?\nor this\n"]})), KNOWLEDGE)


def test_a_pair_depends_on_its_place_only() -> None:
    assert make_pair(3, "train", 17) == make_pair(3, "train", 17)
    others = [make_pair(3, "train", 18), make_pair(4, "train", 17), make_pair(3, "test", 17)]
    assert all(other["instruction"] != make_pair(3, "train", 17)["instruction"] for other in others)


def test_hash_seeds_change_nothing() -> None:
    made = "[make_pair(0, 'train', i) for i in range(40)]"
    code = f"import json; from training.pairs import make_pair; print(json.dumps({made}))"
    environment = os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == [make_pair(0, "train", index) for index in range(40)]


def test_jobs_and_interruptions_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {"train": 25, "test": 12, "seed": 5, "shard_size": 10}
    whole = write_pairs(tmp_path / "whole", **sizes)
    assert [shard["pairs"] for shard in whole["shards"]] == [10, 10, 5, 10, 2]
    broken = tmp_path / "broken"
    write_pairs(broken, **sizes, jobs=2)
    assert contents(broken) == contents(tmp_path / "whole")
    # Half a file, a file of other pairs, no file, a leftover: what a crash and a bad disk leave.
    first = shard_path(broken, "train", 0)
    first.write_bytes(first.read_bytes()[:200])
    shard_path(broken, "train", 1).write_bytes(gzip.compress(b'{"index":0}\n'))
    shard_path(broken, "test", 1).unlink()
    (broken / ".train-00002.jsonl.gz.99.partial").write_bytes(b"x")
    kept = shard_path(broken, "train", 2).stat().st_mtime_ns
    assert write_pairs(broken, **sizes) == whole
    assert contents(broken) == contents(tmp_path / "whole")
    assert shard_path(broken, "train", 2).stat().st_mtime_ns == kept
    # A finished set is only read.
    monkeypatch.setattr(pairs, "make_pair", lambda *_: pytest.fail("a finished pair was made again"))
    monkeypatch.setattr(pairs, "code_sha256", lambda: whole["settings"]["knowledge_sha256"])
    assert write_pairs(broken, **sizes) == whole


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "set"
    options = ["--train", "4000", "--test", "0", "--shard-size", "20", "--seed", "5"]
    command = [sys.executable, "-m", "training.pairs", "--out", str(out), *options, "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(list(out.glob("train-*.jsonl.gz"))) < 2:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "manifest.json").exists()
    with pytest.raises(SmartDJError, match="no finished set"):
        next(read_pairs(out, "train"))
    settings = json.loads((out / "settings.json").read_text())
    assert settings["knowledge_sha256"] == pairs.code_sha256()
    for number, path in enumerate(sorted(out.glob("train-*.jsonl.gz"))):
        indices = range(20 * int(path.name[6:11]), 20 * int(path.name[6:11]) + 20)
        assert held_sha256(path, indices) is not None
        if number == 0:
            lines = gzip.decompress(path.read_bytes()).splitlines()
            assert json.loads(lines[3]) == make_pair(5, "train", indices[3])


def test_a_set_grows_and_is_never_mixed(tmp_path: Path) -> None:
    small = write_pairs(tmp_path, train=4, test=0, seed=1, shard_size=10)
    grown = write_pairs(tmp_path, train=12, test=3, seed=1, shard_size=10)
    assert small["train_sha256"] != grown["train_sha256"]
    assert [pair.index for pair in read_pairs(tmp_path, "train")] == list(range(12))
    assert len(list(read_pairs(tmp_path, "test"))) == 3
    with pytest.raises(SmartDJError, match="larger set"):
        write_pairs(tmp_path, train=4, test=3, seed=1, shard_size=10)
    with pytest.raises(SmartDJError, match="other settings: seed"):
        write_pairs(tmp_path, train=12, test=3, seed=2, shard_size=10)


def test_settings_cover_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path, train=2, test=0, seed=0, shard_size=10)
    monkeypatch.setattr(pairs, "code_sha256", lambda: "another")
    with pytest.raises(SmartDJError, match="knowledge_sha256"):
        write_pairs(tmp_path, train=2, test=0, seed=0, shard_size=10)


def test_command_line(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(pairs.main)
    options = ["--out", str(tmp_path), "--train", "3", "--test", "2", "--shard-size", "2"]
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert f"train {manifest['train_sha256']}" in shown.output
    assert manifest["settings"] == vars(Settings(0, 2, pairs.code_sha256()))
    shown = CliRunner().invoke(app, [*options, "--seed", "9"])
    assert shown.exit_code != 0
    assert "other settings" in shown.output


def test_pairs_do_not_draw_as_others_do() -> None:
    streams: Iterator[np.random.Generator] = iter(
        [
            pair_rng(0, "train", 0),
            pair_rng(0, "test", 0),
            pair_rng(0, "train", 0, part=1),
            np.random.default_rng([0, 0]),
        ]
    )
    assert len({int(rng.integers(2**62)) for rng in streams}) == 4
