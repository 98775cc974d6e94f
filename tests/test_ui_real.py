"""The whole path with real audio, the networks that ship, the page's own server and a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smartdj_agent.audio import read_audio
from tests.ui_browser import chromium, looking, page_program
from tests.ui_pictures import ROOT, edit_demo


def test_the_whole_path_with_the_networks_that_ship(tmp_path: Path) -> None:
    with (
        page_program("--data-dir", str(tmp_path / "data")) as address,
        chromium() as browser,
        looking(browser, address) as page,
    ):
        edit_demo(page)
        assert page.locator(".heard li").count() > 0
        assert page.locator(".step.done").count() == page.locator(".step").count() > 0
        state = page.evaluate("smartdj()")
        assert [lane["key"] for lane in state["lanes"]] == ["original", "result"]
        assert state["lanes"][0]["rms"] != state["lanes"][1]["rms"]
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the result").click()
        result, source = read_audio(download.value.path()), read_audio(ROOT / "examples" / "demo.wav")
        assert result.format == source.format
        assert result.samples.shape == source.samples.shape
        assert np.any(result.samples != source.samples)
        heard = read_audio(ROOT / "examples" / "demo.wav").samples[0]
        assert abs(state["lanes"][0]["rms"] - np.sqrt(np.mean(np.square(heard)))) < 1e-4
    assert (tmp_path / "data" / "jobs.db").exists()
