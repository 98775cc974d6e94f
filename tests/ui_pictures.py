"""Pictures of the page for the documents: ``python -m tests.ui_pictures docs/ui``.

A real run: the demo recording, the networks that ship, headless Chromium, and the page's own server, or with
``--server HOST:PORT`` behind the folder one that has its networks loaded already.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.ui_browser import bring, chromium, headline, lanes_ready, looking, page_program, plan, run

ROOT = Path(__file__).parent.parent
INSTRUCTION = "remove the dog and add seagulls on the left"
REAL_MS = 900_000
"""Longest wait for the real networks on a busy machine."""


def edit_demo(page: Page) -> None:
    """Edit the demo recording by one sentence, to the end."""
    page.set_default_timeout(REAL_MS)
    bring(page, ROOT / "examples" / "demo.wav")
    plan(page, INSTRUCTION, timeout_ms=REAL_MS)
    run(page, timeout_ms=REAL_MS)
    lanes_ready(page)


def main(folder: Path, *flags: str) -> None:
    """Write ``desktop.png`` and ``tablet.png``; `flags` are those of ``smartdj ui``, by default a fresh data folder."""
    with (
        tempfile.TemporaryDirectory() as data,
        page_program(*(flags or ("--data-dir", data))) as address,
        chromium() as browser,
    ):
        with looking(browser, address, viewport={"width": 1280, "height": 1000}) as page:
            edit_demo(page)
            page.keyboard.press("Home")
            page.locator("[data-loop]").first.click()
            page.locator(".lane .which").nth(1).click()
            page.mouse.move(0, 0)
            page.wait_for_timeout(1500)  # until spectrograms and transitions are drawn
            _take(page, folder / "desktop.png")
            job = page.url
        tablet = {"width": 820, "height": 1180}
        with looking(browser, job, viewport=tablet, has_touch=True, color_scheme="dark") as page:
            headline(page, "Done.")
            lanes_ready(page)
            page.wait_for_timeout(1500)
            _take(page, folder / "tablet.png")


def _take(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    shrink(path)


def shrink(path: Path) -> None:
    """Reduce a picture to 256 colours, which spectrograms bear well: a third of the size."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
