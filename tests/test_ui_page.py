"""The page in headless Chromium, with a stub for an agent: what a person does there, by mouse, finger and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, FileChooser, Page, expect

from smartdj_agent.audio import read_audio
from smartdj_agent.plan import plan_from_json, plan_from_yaml
from tests.live_server import SLOW, live_server
from tests.stub_agent import LONG_STEPS
from tests.ui_browser import (
    bring,
    chromium,
    headline,
    lanes_ready,
    looking,
    page_program,
    plan,
    recording,
    run,
    wired,
)


class House(NamedTuple):
    """What all tests here share."""

    browser: Browser
    address: str
    walk: Path
    log: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with live_server(folder / "data", devices=SLOW, library=(folder,)) as live:
        live.ready()
        with page_program("--server", live.running.address) as address, chromium() as browser:
            yield House(browser, address, recording(folder / "walk.wav", 4.0), folder / "log.txt")


@pytest.fixture
def page(house: House) -> Iterator[Page]:
    with looking(house.browser, house.address) as page:
        yield page


def steps(page: Page) -> list[str]:
    return page.locator(".steps .text input").evaluate_all("inputs => inputs.map((input) => input.value)")


def test_the_whole_path(page: Page, house: House) -> None:
    bring(page, house.walk)
    plan(page, "make it calm")
    expect(page.locator(".heard .label")).to_have_text("dog barking")
    expect(page.locator(".heard .sure")).to_have_text("90 %")
    expect(page.locator(".heard .direction")).to_have_text("unclear")
    assert steps(page) == ["remove the sound of dog barking", "turn down the volume of wind by 6 dB"]

    page.get_by_role("button", name="Move step 2 up").click()
    page.get_by_role("switch", name="Step 1 is carried out").click()
    page.get_by_role("button", name="Add a step").click()
    page.locator(".steps .text input").nth(2).fill("remove")
    expect(page.locator(".fault:visible")).to_contain_text("Write")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    page.locator(".steps .text input").nth(2).fill("remove the sound of rain")
    expect(page.locator(".fault:visible")).to_have_count(0)
    page.get_by_role("button", name="Add a step").click()
    page.get_by_role("button", name="Delete step 4").click()

    page.get_by_role("button", name="Run", exact=True).click()
    headline(page, "Step 1 of 2")
    expect(page.locator(".headline")).to_have_text(re.compile(r"denoising, about \d+ s left"))
    headline(page, "Done.")
    lanes_ready(page)
    titles = page.locator(".lane select").first.locator("option").all_inner_texts()
    assert titles == [
        "Original", "After step 1: remove the sound of dog barking", "After step 2: remove the sound of rain", "Result",
    ]  # fmt: skip
    state = page.evaluate("smartdj()")
    assert [lane["key"] for lane in state["lanes"]] == ["original", "result"]
    assert state["lanes"][1]["rms"] == pytest.approx(state["lanes"][0]["rms"] / 4, rel=0.01)

    with page.expect_download() as download:
        page.get_by_role("button", name="Download the result").click()
    assert download.value.suggested_filename == "walk-smartdj.wav"
    np.testing.assert_array_equal(read_audio(download.value.path()).samples, read_audio(house.walk).samples / 4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the plan as YAML").click()
    saved = plan_from_yaml(download.value.path().read_text(encoding="utf-8"))
    assert [step.enabled for step in saved.steps] == [False, True, True]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the plan as JSON").click()
    assert plan_from_json(download.value.path().read_text(encoding="utf-8")) == saved
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").click()
    assert "remove the sound of rain" in download.value.path().read_text(encoding="utf-8")

    page.locator(".jobs a", has_text="make it calm").first.click()
    wired(page)
    headline(page, "Done.")
    lanes_ready(page)
    assert len(steps(page)) == 3


def test_cancel_stops_the_work(page: Page, house: House) -> None:
    """That it stops within one denoising step is measured in test_ui_desk.py, without a browser's own time."""
    bring(page, house.walk)
    page.get_by_role("button", name="Add a step").click()
    page.locator(".steps .text input").fill("remove the sound of long rain")
    page.get_by_role("button", name="Run", exact=True).click()
    headline(page, "denoising")
    page.get_by_role("button", name="Cancel").click()
    headline(page, "Cancelled.")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    expect(page.locator(".error")).to_be_hidden()
    told = house.log.read_text().splitlines()
    closed = max(number for number, line in enumerate(told) if "apply closed" in line)
    begun = max(number for number, line in enumerate(told) if line.endswith("step 0"))
    assert begun < closed
    assert sum("denoised" in line for line in told[begun:closed]) < LONG_STEPS


def test_a_bad_file_is_refused_with_advice_and_a_good_one_still_works(page: Page, house: House, tmp_path: Path) -> None:
    bad = tmp_path / "notes.wav"
    bad.write_text("These are words, not sounds. " * 20)
    page.set_input_files("#file", bad)
    expect(page.locator(".error strong")).to_have_text("Audio can't be read")
    expect(page.locator(".error")).to_contain_text("notes.wav")
    expect(page.locator(".error .hint")).not_to_be_empty()
    shown = page.locator("body").inner_text()
    assert "Traceback" not in shown
    assert str(tmp_path) not in shown
    bring(page, house.walk)
    expect(page.locator(".error")).to_be_hidden()


def test_a_question_is_answered_by_a_click(page: Page, house: House) -> None:
    bring(page, house.walk)
    page.fill("textarea", "something unclear")
    page.get_by_role("button", name="Write the plan").click()
    expect(page.locator(".question p")).to_have_text("Which one?")
    page.get_by_role("button", name="the wind").click()
    headline(page, "This is the plan")
    assert page.input_value("textarea") == "the wind"


def test_recording_and_what_only_the_browser_can_read(page: Page) -> None:
    """What MediaRecorder makes is Matroska, which the server can't read: the browser converts it."""
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#busy")).to_have_text(re.compile(r"Recording, \d+:(?!00\.[0-5])"))  # more than half a second
    page.get_by_role("button", name="Stop recording").click()
    expect(page.locator(".file")).to_have_text(re.compile(r"recording-.*\.wav"))
    lanes_ready(page)
    state = page.evaluate("smartdj()")["lanes"][0]
    assert 0.4 < state["duration"] < 30
    assert state["rms"] > 1e-4  # Chromium's own microphone beeps


def test_a_reload_picks_up_the_running_job(page: Page, house: House) -> None:
    bring(page, house.walk)
    page.fill("textarea", "be patient")  # the stub then listens for minutes
    page.get_by_role("button", name="Write the plan").click()
    headline(page, "Listening")
    page.reload()
    wired(page)
    headline(page, "Listening")
    lanes_ready(page)
    assert page.input_value("textarea") == "be patient"
    page.get_by_role("button", name="Cancel").click()
    headline(page, "Cancelled.")


def test_two_states_play_in_step_and_one_key_goes_between_them(page: Page, house: House) -> None:
    bring(page, house.walk)
    page.get_by_role("button", name="Add a step").click()
    page.locator(".steps .text input").fill("remove the sound of wind")
    run(page)
    lanes_ready(page)
    page.locator("h1").click()
    page.keyboard.press("k")
    page.wait_for_function("smartdj().playing && smartdj().time > 0.2")
    assert page.evaluate("smartdj().lanes.map((lane) => lane.gain)") == [1, 0]
    page.keyboard.press("x")
    page.wait_for_function("smartdj().lanes[1].gain > 0.99 && smartdj().lanes[0].gain < 0.01")
    expect(page.get_by_role("button", name="Listen to B", exact=True)).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("smartdj().playing")  # it went on meanwhile

    page.locator("[data-loop]").first.wait_for(state="detached")  # nothing was listened to: no planner in this job
    drawing = page.locator(".drawing").first.bounding_box()
    assert drawing is not None
    y = drawing["y"] + 40
    page.mouse.move(drawing["x"] + 0.25 * drawing["width"], y)
    page.mouse.down()
    for share in (0.3, 0.4, 0.5):
        page.mouse.move(drawing["x"] + share * drawing["width"], y)
    page.mouse.up()
    page.wait_for_function("smartdj().looping")
    assert page.evaluate("smartdj().loop") == pytest.approx([1.0, 2.0], abs=0.1)
    page.wait_for_function("smartdj().time > 1.5")
    page.wait_for_function("smartdj().time < 1.4")  # around again
    page.keyboard.press("l")
    page.wait_for_function("!smartdj().looping")
    page.keyboard.press("k")
    page.wait_for_function("!smartdj().playing")

    page.keyboard.press("Home")
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.evaluate("smartdj().zoom") == 4
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("smartdj().time") == pytest.approx(3.0, abs=0.01)
    page.wait_for_function("((a, b) => a > 0 && Math.abs(a - b) < 2)(...smartdj().lanes.map((lane) => lane.scroll))")
    page.keyboard.press("0")
    assert page.evaluate("smartdj().zoom") == 1
    page.locator(".lane select").nth(1).select_option("original")
    page.wait_for_function("smartdj().lanes[0].rms === smartdj().lanes[1].rms")


def write_step(page: Page, text: str) -> None:
    """Write the first step anew, by keys, and leave its field."""
    page.locator(".steps .text input").first.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    page.wait_for_timeout(500)  # the server answers the change with the list drawn anew; keys are lost meanwhile


def test_everything_by_keyboard_alone(page: Page, house: House) -> None:
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Shortcuts")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.wait_for_timeout(500)  # Playwright doesn't say when it has begun to look out for choosers
    page.keyboard.press("o")
    while not choosers:
        page.wait_for_timeout(20)
    choosers[0].set_files(house.walk)
    lanes_ready(page)
    page.keyboard.press("i")
    page.keyboard.type("make it calm")
    page.keyboard.press("Control+Enter")
    headline(page, "This is the plan")
    focused = "(document.activeElement.getAttribute('aria-label') || document.activeElement.innerText).trim()"
    page.wait_for_function(f"{focused} === 'Run'")  # the focus is where one goes on

    page.get_by_role("button", name="Move step 2 up").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.steps .text input').value.includes('wind')")
    page.wait_for_function(f"{focused} === 'Move step 1 down'")  # at the top: on the way back
    page.get_by_role("switch", name="Step 2 is carried out").focus()
    page.keyboard.press("Space")
    expect(page.locator(".step.off")).to_have_count(1)

    # From the top, Tab reaches everything in the order in which it is read, and shows where it is.
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.locator("h1").click()
    names = []
    for _ in range(18):
        page.keyboard.press("Tab")
        names.append(page.evaluate(focused))
        # The ring of a field is drawn with the next frame, which may be a while off on a busy machine.
        page.wait_for_function(
            "[document.activeElement, document.activeElement.closest('.q-field__control')].filter(Boolean)"
            ".map((e) => getComputedStyle(e)).some((s) => s.outlineWidth === '3px' || s.boxShadow.includes('3px'))"
        )
    wanted = ["New", "Shortcuts", "Choose a file", "Record", "Write the plan", "Options", "Step 1", "Delete step 1",
              "Add a step", "Run"]  # fmt: skip
    places = [names.index(name) for name in wanted]
    assert places == sorted(places)

    write_step(page, "remove the sound of long rain")
    page.keyboard.press("r")
    headline(page, "Step 1 of 1: denoising")
    page.keyboard.press("c")
    headline(page, "Cancelled.")
    write_step(page, "remove the sound of rain")
    page.keyboard.press("r")
    headline(page, "Done.")
    page.keyboard.press("k")
    page.wait_for_function("smartdj().playing")
    page.keyboard.press("k")
    page.wait_for_function("!smartdj().playing")


LATE = """
() => {
  const button = Object.assign(document.createElement("button"), {id: "late", innerText: "Late", disabled: true});
  document.body.append(button);
  document.activeElement.blur();
  sdjFocus("late", true);
  setTimeout(() => { button.disabled = false; }, 400);
}
"""


def test_the_focus_waits_for_what_comes_late_unless_somebody_acts(page: Page) -> None:
    page.evaluate(LATE)
    page.wait_for_function("document.activeElement.id === 'late'")
    page.evaluate("document.getElementById('late').remove()")
    page.evaluate(LATE)
    page.locator("h1").click()
    page.wait_for_timeout(800)
    assert page.evaluate("document.activeElement.id") != "late"


CONTRAST = """
() => {
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = numbers(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; }
    return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility() || e.closest(".drawing, [disabled], .disabled, .q-field--disabled")) continue;
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || e.matches("input, textarea");
    if (!own) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([e.tagName, e.className, e.textContent.slice(0, 30), ratio]);
  }
  return poor;
}
"""

SMALL = """
() => [...document.querySelectorAll("button, a, select, summary, input:not([type=file]), textarea, [role=switch]")]
  .filter((e) => e.checkVisibility() && !e.matches(".hidden") && !e.closest("[role=switch] *"))
  .filter((e) => { const box = (e.closest(".q-field__control") || e).getBoundingClientRect();
    return Math.round(box.height) < 44 || Math.round(box.width) < 44; })
  .map((e) => e.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize(("width", "height"), [(820, 1180), (1180, 820)])
def test_readable_and_touchable_on_a_tablet(house: House, width: int, height: int) -> None:
    scheme = "dark" if width < height else "light"
    size = {"width": width, "height": height}
    with looking(house.browser, house.address, viewport=size, has_touch=True, color_scheme=scheme) as page:
        bring(page, house.walk)
        plan(page)
        page.locator(".steps .text input").first.fill("remove")
        expect(page.locator(".fault:visible")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the screen"
        assert page.evaluate(SMALL) == []
        assert page.evaluate(CONTRAST) == []
        page.get_by_role("button", name="Choose a file").tap(trial=True)


def test_what_was_heard_can_be_looped(page: Page, house: House) -> None:
    bring(page, house.walk)
    plan(page)
    page.get_by_role("button", name=re.compile("^Loop dog barking, unclear, 90 % sure")).click()
    page.wait_for_function("smartdj().looping")
    assert page.evaluate("smartdj().loop") == pytest.approx([0.0, 4.0])


def test_an_address_of_nobody_begins_anew(page: Page, house: House) -> None:
    page.goto(f"{house.address}?at=nobody")
    wired(page)
    headline(page, "Begin with a recording.")
