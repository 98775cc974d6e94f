"""The page's program as a process, and a headless Chromium that looks at it, for tests and pictures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

from smartdj_agent.audio import Audio, write_audio

PATIENCE_MS = 180_000
"""Longest wait for anything: a busy machine is slow, and no test waits this long where all is well."""

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def page_program(*flags: str) -> Iterator[str]:
    """Run ``smartdj ui`` inside the block; yields the page's address. Nothing it says may be a traceback."""
    command = [sys.executable, "-m", "smartdj_agent.cli", "ui", "--port", "0", "--no-browser", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    address = ""
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            address = found[0]
            break
    assert address, "".join(said)
    listener = threading.Thread(target=lambda: said.extend(process.stderr or ()))
    listener.start()
    try:
        yield address
    finally:
        process.terminate()
        try:
            status = process.wait(60)
        finally:
            process.kill()
            listener.join()
    assert status == 0, "".join(said)
    assert "Traceback" not in "".join(said), "".join(said)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium inside the block; its microphone beeps by itself."""
    path = shutil.which("chromium")
    assert path, "chromium is not installed: .ci/run says how"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def looking(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Open the page in a fresh profile; no script may fail inside the block."""
    surroundings = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    page = surroundings.new_page()
    page.set_default_timeout(PATIENCE_MS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(address)
    wired(page)
    try:
        yield page
    finally:
        surroundings.close()
    assert not failures


def wired(page: Page) -> None:
    """Wait until the page's script has met the page."""
    page.wait_for_function("document.querySelector('#compare')?.dataset.wired === 'yes'")


def recording(path: Path, duration_s: float = 2.0, rate: int = 16_000) -> Path:
    """Write a small stereo recording: a tone that is louder on the left."""
    time = np.arange(round(duration_s * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    write_audio(path, Audio(np.stack([tone, 0.3 * tone]).astype(np.float32), rate), overwrite=True)
    return path


def bring(page: Page, path: Path) -> None:
    """Choose a file and wait until both lanes can play it."""
    page.set_input_files("#file", path)
    expect(page.locator(".file")).to_have_text(path.name)
    lanes_ready(page)


def lanes_ready(page: Page) -> None:
    """Wait until both lanes hold audio."""
    page.wait_for_function("window.smartdj && smartdj().lanes.every((lane) => lane.duration > 0)")
    expect(page.locator(".lane.loading")).to_have_count(0)


def headline(page: Page, text: str, *, timeout_ms: float = PATIENCE_MS) -> None:
    """Wait until the line that says what goes on holds a text."""
    expect(page.locator(".headline")).to_contain_text(text, timeout=timeout_ms)


def plan(page: Page, instruction: str = "make it calm", *, timeout_ms: float = PATIENCE_MS) -> None:
    """Type an instruction and wait for its plan."""
    page.fill("textarea", instruction)
    page.get_by_role("button", name="Write the plan").click()
    headline(page, "This is the plan", timeout_ms=timeout_ms)


def run(page: Page, *, timeout_ms: float = PATIENCE_MS) -> None:
    """Run the plan and wait for the end."""
    page.get_by_role("button", name="Run", exact=True).click()
    headline(page, "Done.", timeout_ms=timeout_ms)
