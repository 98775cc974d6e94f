"""The repository keeps its promises: Makefile, README, licences and sizes of what is shipped."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.starter_library import (
    FREE_LICENCES,
    MAX_BYTES,
    Row,
    choose,
    clearest,
    credit_of,
    credits_text,
    place_heard,
    read_credits,
)
from training.synthesised_sounds import RATE, RECIPES, synthesise

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "smartdj_agent" / "data" / "library"
TARGETS = {"install", "demo", "test", "lint", "type", "format", "bench", "models-verify", "clean"}


def manifest() -> list[dict[str, str]]:
    with (LIBRARY / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_help_lists_every_target() -> None:
    command = ["make", "-s", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make (\S+)\s+\S", shown, re.M))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert phony is not None
    assert listed == set(phony.group(1).split())
    assert listed >= TARGETS


def test_readme_names_both_commands_and_only_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make install" in readme
    assert "make demo" in readme
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", readme)) <= targets


def test_documents_link_to_files_that_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"):
        path = ROOT / name
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{name} links to {target}"


def test_build_script_is_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


def test_library_has_only_free_licences() -> None:
    for row in manifest():
        assert row["licence"] in FREE_LICENCES, row["path"]
        assert "GPL" not in row["licence"]
        assert "SA" not in row["licence"].split("-")


def test_every_clip_names_author_and_source() -> None:
    text = (LIBRARY / "CREDITS.md").read_text(encoding="utf-8")
    for row in manifest():
        assert row["author"], row["path"]
        assert row["source"], row["path"]
        assert row["path"] in text
        assert row["author"] in text
    assert text == credits_text(manifest())


def test_every_library_file_is_listed_once() -> None:
    listed = [row["path"] for row in manifest()]
    lying = [p.relative_to(LIBRARY).as_posix() for p in LIBRARY.rglob("*.ogg")]
    assert sorted(listed) == sorted(lying)


def test_library_is_small() -> None:
    assert sum(p.stat().st_size for p in LIBRARY.rglob("*") if p.is_file()) <= MAX_BYTES


@pytest.mark.parametrize(
    ("package", "path", "stated"),
    [
        ("wesnoth-1.16-data", "x.ogg", "GPL-2+"),
        ("minetest-data", "doors_steel_door_open.ogg", "CC-BY-SA-3.0"),
        ("hedgewars-data", "x.ogg", "GFDL-1.3"),
        ("simutrans-pak64", "x.wav", "Artistic-1.0"),
        ("gcompris-qt-data", "x.wav", "CC-BY-SA-4.0"),
        ("openclonk-data", "!/Objects.ocd/x.ogg", "CC-BY-3.0 (default of Sound.ocg/authors.txt)"),
        ("unheard-of", "x.wav", "MIT"),
    ],
)
def test_other_licences_stay_out(package: str, path: str, stated: str) -> None:
    assert credit_of(package, path, stated, read_credits()) is None


def test_author_is_named_where_known_and_said_unknown_where_not() -> None:
    stated = "CC-BY-3.0 (default of Sound.ocg/authors.txt)"
    known = credit_of("openclonk-data", "!/Sound.ocg/Animals.ocg/Wipf.ocg/Aroof.wav", stated, read_credits())
    assert known is not None
    assert known.author == "Ringwaul"
    unknown = credit_of("openclonk-data", "!/Sound.ocg/Liquids.ocg/Bubble1.ogg", stated, read_credits())
    assert unknown is not None
    assert unknown.author == "authors of package openclonk-data"


def test_choice_takes_recordings_first_and_no_pitch_variants() -> None:
    credit = read_credits()[0]

    def row(name: str, package: str, path: str) -> Row:
        return Row(name, "dog barking", "animal", "transient", 1.0, package, path, "train", credit)

    fonts = [row(f"f{k}", "fluid-soundfont-gs", f"F.sf2#bank1/prog1/key{k}/vel90") for k in (55, 60, 63)]
    recording = row("r", "openclonk-data", "!/Bark.wav")
    assert [r.path for r in choose([*fonts, recording], lambda row: 1)] == ["r", "f60"]
    # What is heard as something else comes behind, and what the figures are measured on is not taken if there is more.
    assert [r.path for r in choose([*fonts, recording], lambda row: 1 + (row is recording))] == ["f60", "r"]
    aside = replace(recording, path="t", split="test")
    assert [r.path for r in choose([*fonts, aside], lambda row: 1)] == ["f60", "t"]


def test_what_is_heard_as_something_else_stays_out_where_its_class_has_better() -> None:
    manifest = [
        {"path": path, "label": label} for path, label in (("a", "dog"), ("b", "dog"), ("c", "owl"), ("d", "dog"))
    ]
    assert [row["path"] for row in clearest(manifest, {"a": 1, "b": 7, "c": 5})] == ["a", "c", "d"]


def test_a_place_is_asked_for_two_channels_at_the_listeners_rate() -> None:
    class Fake:
        def rank(self, samples: np.ndarray, label: str) -> int:
            assert samples.shape == (2, round(6.0 * 24_000))
            assert np.abs(samples).max() == pytest.approx(0.5, rel=0.05)
            return len(label)

    tone = np.sin(np.arange(10 * RATE) / 20).astype(np.float32) * 0.01
    assert place_heard(tone, RATE, "dog", Fake()) == 3


@pytest.mark.parametrize("name", ["rain_window", "crickets_one", "telephone", "owl"])
def test_synthesis_is_deterministic_and_in_range(name: str) -> None:
    x = synthesise(name)
    assert np.array_equal(x, synthesise(name))
    assert x.shape == (round(RECIPES[name].duration_s * RATE),)
    assert np.max(np.abs(x)) == pytest.approx(10 ** (-3 / 20), rel=1e-5)


@pytest.mark.parametrize("name", ["wind_open", "bees", "siren_wail", "hum", "waves_beach"])
def test_loops_have_no_seam(name: str) -> None:
    x = synthesise(name).astype(np.float64)
    assert abs(x[0] - x[-1]) <= np.abs(np.diff(x)).max()
    kinks = np.abs(np.diff(np.concatenate([x, x[:2]]), 2))  # a change of slope at the seam shows here
    assert kinks[-2:].max() <= kinks[:-2].max()


def test_demo_recording_is_ten_seconds_of_stereo() -> None:
    with wave.open(str(ROOT / "examples" / "demo.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44_100)
        assert file.getnframes() == 441_000
        x = np.frombuffer(file.readframes(441_000), dtype="<i2")
    assert 8_000 < np.max(np.abs(x)) < 32_767
