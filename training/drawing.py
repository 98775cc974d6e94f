"""Drawings as files that appear only when they are whole."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from smartdj_agent.files import write_file


def save_png(figure: Figure, path: Path, *, dpi: int = 100) -> None:
    """Write a figure as a PNG, over an older one; the same figure gives the same bytes.

    Raises
    ------
    SmartDJError
        As `smartdj_agent.files.write_file`.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    write_file(path, image.getvalue(), overwrite=True)
