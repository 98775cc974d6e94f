"""Whole plans for the evaluation: an instruction, its plan by the designer, and what the plan exactly makes.

The editor is given the plan's steps, not the instruction: in the paper's Table 1, too, all editors get the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.listener import Listener
from smartdj_agent.steps import Operation, format_step
from training.clips import ClipStore
from training.designer import SceneKnowledge
from training.oracle import oracle_step
from training.synthesis import Example, ExampleKind, example_seed, make_example

LEAST_STEPS = 2
ATTEMPTS = 50
"""Designs that are drawn for one case until one is a plan: some are questions, a few have one step."""


@dataclass(frozen=True)
class PlanCase:
    """One recording and a plan of two to six steps.

    Attributes
    ----------
    index, seed
        Which case; `seed` is the editor's, too.
    example
        The recording, the plan, and the stems at each moment.
    """

    index: int
    seed: int
    example: Example

    @property
    def sounds(self) -> tuple[tuple[str, float], ...]:
        """Names and directions of what is there at first."""
        return tuple((event.label, event.azimuth_deg) for event in self.example.events if event.added_by is None)

    @property
    def text(self) -> str:
        """The plan in words, a line."""
        return "; ".join(format_step(step) for step in self.example.steps)


def make_plan_case(
    store: ClipStore, knowledge: SceneKnowledge, split: str, index: int, seed: int, duration_s: float
) -> PlanCase:
    """Make one case: a pure function of the store, the knowledge, the index and the seed.

    Parameters
    ----------
    store
        Clips of the split; they are varied as in training (`training.synthesis`).
    knowledge
        Of scenes and wordings.
    split
        Which of the knowledge's scenes and wordings are used.
    index, seed
        Which case.
    duration_s
        Length of the recording, seconds.

    Raises
    ------
    SmartDJError
        USAGE if the clips give no plan, as they have too few labels.
    """
    for attempt in range(ATTEMPTS):
        own_seed = example_seed(seed, "whole plan", split, ATTEMPTS * index + attempt)
        try:
            example = make_example(own_seed, ExampleKind.DECLARATIVE, store, knowledge, split, duration_s=duration_s)
        except ValueError as error:
            raise SmartDJError(
                ErrorCode.USAGE, f"No plan can be made of these clips: {error}", "Give more clip folders."
            ) from error
        if len(example.steps) >= LEAST_STEPS and np.any(example.final):
            return PlanCase(index, own_seed % 2**32, example)
    raise SmartDJError(
        ErrorCode.USAGE,
        f"{ATTEMPTS} designs in a row gave no plan of {LEAST_STEPS} or more steps.",
        "Give clip folders with more labels.",
    )


def oracle_plan(case: PlanCase, listener: Listener) -> np.ndarray:
    """Carry the plan out with ideal masks, step by step on its own results; what is added is the truth's own sound.

    A reverb's room is another than the truth's.
    """
    example = case.example
    current = example.source
    for (step, _), before, after in zip(example.trajectory, example.stems[:-1], example.stems[1:], strict=True):
        # Stems that a step leaves alone are the same arrays.
        changed = [slot for slot, track in enumerate(after) if track is not before[slot]]
        if not changed:
            continue
        was = np.sum([before[slot] for slot in changed], axis=0)
        others = np.sum(before, axis=0) - was
        if step.operation is Operation.ADD:
            current = current + np.sum([after[slot] for slot in changed], axis=0)
        elif step.operation is Operation.EXTRACT:
            current = oracle_step(current, step, others, was, listener, seed=case.seed)
        else:
            current = oracle_step(current, step, was, others, listener, seed=case.seed)
    return np.asarray(current, np.float32)
