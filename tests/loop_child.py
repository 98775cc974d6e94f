"""One of several processes that train one model, for `tests.test_training_processes`: started as torchrun would."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from tests.test_training_loop import CONFIG, Line
from training.loop import train


class Dying(Line):
    """Dies, like a machine that is switched off, at the loss whose number `DIE_AT` gives."""

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        """As the line's."""
        if len(self.losses) == int(os.environ.get("DIE_AT", "-1")):
            os._exit(9)
        return super().loss(batch)


if __name__ == "__main__":
    train(Dying(), replace(CONFIG, log_every=1), Path(sys.argv[1]))
