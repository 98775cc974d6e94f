"""The page while its server goes away and comes back: a banner, nothing lost, the job done in the end."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.live_server import SLOW, live_server
from tests.ui_browser import bring, chromium, headline, lanes_ready, looking, page_program, plan, recording


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    first = live_server(tmp_path / "data", devices=SLOW, drain_s=0.0)
    live = first.__enter__()
    live.ready()
    port = live.running.port
    walk = recording(tmp_path / "walk.wav")
    stopped = False
    try:
        with (
            page_program("--server", live.running.address) as address,
            chromium() as browser,
            looking(browser, address) as page,
        ):
            bring(page, walk)
            plan(page)
            page.get_by_role("button", name="Run", exact=True).click()
            headline(page, "Step 1 of 2")
            first.__exit__(None, None, None)  # in the middle of a step
            stopped = True
            expect(page.locator(".banner")).to_contain_text("The server is away. Nothing is lost")
            expect(page.locator(".server")).to_contain_text("away")
            expect(page.locator(".error")).to_be_hidden()
            assert page.input_value("textarea") == "make it calm"
            assert page.locator(".steps .text input").first.input_value() == "remove the sound of dog barking"
            with live_server(tmp_path / "data", port=port):
                expect(page.locator(".banner")).to_be_hidden()
                headline(page, "Done.")
                lanes_ready(page)
                assert [lane["key"] for lane in page.evaluate("smartdj().lanes")] == ["original", "result"]
                expect(page.locator(".jobs .state").first).to_have_text("done")
    finally:
        if not stopped:
            first.__exit__(None, None, None)
