"""Ship a training run: its weights as float16 into the package, with a model card made from its log.

    python -m training.ship listener --run runs/listener

The card's figures come from the run's own ``log.jsonl``; what must be said in words comes from ``training/cards/``.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from smartdj_agent.models.weights import SHIPPED

CARDS = Path(__file__).parent / "cards"


def read_log(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def licence_table(folders: list[Path]) -> str:
    """Licences of the training split's clips with their counts, as a Markdown table."""
    counts: Counter[str] = Counter()
    for folder in folders:
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            counts.update(row["licence"] for row in csv.DictReader(file) if row["split"] == "train")
    rows = [f"| {licence} | {count} |" for licence, count in counts.most_common()]
    return "\n".join(["| licence of a training clip | clips |", "| --- | ---: |", *rows])


def first_stage(settings: dict[str, Any]) -> list[str]:
    """What the run that this one started from took, in a line; nothing where it started afresh."""
    start = settings.get("start_from")
    if not start:
        return []
    run = Path(start).parent
    last = read_log(run)[-1]
    minutes = last["seconds"] / 60
    return [f"- It started from `{run}`: {last['step']} steps, {last['samples']} examples, {minutes:.0f} min"]


def model_card(role: str, run: Path, config: Path, parameters: int) -> str:
    """Write the card's text."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    lines = read_log(run)
    last = lines[-1]
    held_out = [line for line in lines if any(key.startswith("valid_") for key in line)]
    figures = held_out[-1] if held_out else {}
    folders = [Path(folder) for folder in settings["data"].get("folders", [])]
    parts = [
        f"# {role.capitalize()} of the preset `small`",
        (CARDS / f"{role}.md").read_text(encoding="utf-8").strip(),
        "## Training",
        f"- Command: `python -m training.{role} --config {config} --out {run}`",
        *first_stage(settings),
        f"- {parameters / 1e6:.2f} million trained parameters, stored as float16",
        f"- {last['step']} of {settings['loop']['steps']} planned steps, {last['samples']} examples, "
        f"{last['seconds'] / 60:.0f} minutes on two shared CPU cores (no GPU was at hand)",
        f"- Held-out figures at step {figures.get('step', 0)} (validation split, from the run's log):",
        *(f"  - {key.removeprefix('valid_')}: {value}" for key, value in figures.items() if key.startswith("valid_")),
    ]
    if folders:
        parts += ["## Licences of the training clips", licence_table(folders)]
    return "\n".join(parts) + "\n"


def ship(role: str, run: Path, config: Path, preset: str = "small") -> Path:
    """Copy a run's weights into the package as float16 and write its card; returns the folder."""
    target = SHIPPED / preset / role
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(run / "model", target)
    for notice in CARDS.glob(f"{role}-LICENSE-*"):  # of networks by others that are part of this one
        shutil.copyfile(notice, target / notice.name.removeprefix(f"{role}-"))
    parameters = 0
    for path in target.glob("*.safetensors"):
        state = load_file(path)
        parameters += sum(value.numel() for value in state.values())
        save_file({key: value.to(torch.float16) for key, value in state.items()}, path)
    card = model_card(role, run, config, parameters)
    (target / "README.md").write_text(card, encoding="utf-8")
    return target


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("role", choices=["listener", "planner", "codec", "editor"])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    config = arguments.config or Path(f"training/configs/{arguments.role}-small.yaml")
    print(ship(arguments.role, arguments.run, config))


if __name__ == "__main__":
    main()
