"""Make ``examples/demo.wav``: ten seconds of a yard by a street, from recordings of the bank's test split.

No model of ours has trained on these recordings. Each is placed by the released spatial rule, so its
direction is known. The same bank gives the same bytes.

Run with ``python -m training.demo_recording --bank BANK``.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from smartdj_agent.spatial import place

RATE = 44_100
"""Sampling rate of the recording, Hz."""

DURATION_S = 10.0
"""Its length."""


@dataclass(frozen=True)
class Event:
    """One sound of the scene.

    Attributes
    ----------
    path
        Clip, relative to the bank.
    starts_s
        When it sounds; more than one time repeats it.
    azimuth_deg
        Direction, negative = left.
    gain_db
        Peak relative to half of full scale, before it is placed.
    fade_s
        Fade in and out, for sounds that are already going on.
    """

    path: str
    starts_s: tuple[float, ...]
    azimuth_deg: float
    gain_db: float
    fade_s: float = 0.0


SCENE = (
    Event("car_engine/fluid-soundfont-gs__bank1_prog125_key60_vel110.flac", (0.0, 4.6), 90.0, -6.0, fade_s=1.2),
    Event("dog_barking/openclonk-data__wipf_ocg_aroof.flac", (0.9, 1.5, 4.2, 4.75, 7.1), -90.0, 2.0),
    Event(
        "footsteps_on_stone/openclonk-data__movement_ocg_stephard3.flac",
        tuple(round(2.2 + 0.58 * k, 2) for k in range(9)),
        45.0,
        -3.0,
    ),
    Event("door_creaking/openclonk-data__structures_ocg_hingecreak1.flac", (5.6,), -45.0, -2.0),
    Event("gate_opening_or_closing/minetest-data__doors_fencegate_close.flac", (7.6,), -45.0, 0.0),
    Event("person_laughing/openclonk-data__adventurer_ocg_laughter3.flac", (8.3,), 0.0, -1.0),
)
"""Everything that is heard in the recording."""


def check_split(bank: Path) -> None:
    """See that every clip is in the test split of the bank's manifest.

    Raises
    ------
    ValueError
        Naming the first clip that is not.
    """
    with (bank / "manifest.csv").open(encoding="utf-8", newline="") as file:
        splits = {row["path"]: row["split"] for row in csv.DictReader(file)}
    for event in SCENE:
        if splits.get(event.path) != "test":
            raise ValueError(f"{event.path} is not in the test split of {bank}.")


def render(bank: Path) -> np.ndarray:
    """The scene, (2, n) float32 at `RATE`."""
    n = round(DURATION_S * RATE)
    mix = np.zeros((2, n), dtype=np.float64)
    for event in SCENE:
        clip, rate = soundfile.read(bank / event.path, dtype="float64")
        clip = soxr.resample(clip, rate, RATE, quality="VHQ")
        clip = clip * (0.5 * 10 ** (event.gain_db / 20) / np.max(np.abs(clip)))
        if event.fade_s:
            ramp = np.linspace(0.0, 1.0, round(event.fade_s * RATE))
            clip[: len(ramp)] *= ramp
            clip[-len(ramp) :] *= ramp[::-1]
        for start_s in event.starts_s:
            mono = np.zeros(n)
            at = round(start_s * RATE)
            piece = clip[: n - at]
            mono[at : at + len(piece)] = piece
            mix += place(mono.astype(np.float32), event.azimuth_deg, RATE)
    return mix.astype(np.float32)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the demo recording from clips of the bank's test split.")
    parser.add_argument("--bank", type=Path, default=Path("data/bank"), help="folder of the clip bank")
    parser.add_argument("--out", type=Path, default=Path("examples/demo.wav"), help="file to write")
    arguments = parser.parse_args()
    if not (arguments.bank / "manifest.csv").is_file():
        print(f"{arguments.bank} is not a clip bank; give one with --bank.", file=sys.stderr)
        return 2
    check_split(arguments.bank)
    mix = render(arguments.bank)
    peak = float(np.max(np.abs(mix)))
    if peak > 1.0:
        print(f"The scene peaks at {peak:.2f} of full scale; lower a gain.", file=sys.stderr)
        return 1
    part = arguments.out.with_suffix(".part")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(part, np.round(mix.T * 32_767).astype(np.int16), RATE, format="WAV", subtype="PCM_16")
    os.replace(part, arguments.out)
    print(f"{arguments.out}: {DURATION_S:g} s, {RATE} Hz, stereo, 16 bit, peak {20 * np.log10(peak):.1f} dBFS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
