"""Makes the two layouts that are too repetitive to write by hand: `python integrations/osc/templates/build.py`.

`smartdj.open-stage-control.json` is for Open Stage Control (File > Open), `smartdj.tosc` for TouchOSC (version 2).
"""

from __future__ import annotations

import json
import uuid
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
STEPS = 8
SLOTS = 8
SERVER = "127.0.0.1:9110"


def open_stage_control() -> str:
    """The page `SmartDJ`: instruction, plan with its steps, transport, slots; beside it the script that fills it."""
    widgets: list[dict[str, Any]] = []

    def add(type: str, id: str, left: int, top: int, width: int, height: int, **more: Any) -> None:
        place = {"left": left, "top": top, "width": width, "height": height}
        widgets.append({"type": type, "id": id, **place, "bypass": False, "target": [SERVER], **more})

    add(
        "input",
        "source",
        10,
        10,
        380,
        40,
        label="recording",
        address="/smartdj/source/load",
        typeTags="s",
    )
    add("input", "instruction", 400, 10, 590, 40, label="what it shall become", address="/smartdj/plan", typeTags="s")
    add("text", "state", 10, 60, 380, 30, value="idle", bypass=True)
    add("fader", "progress", 400, 60, 590, 30, horizontal=True, interaction=False, bypass=True)
    for number in range(1, STEPS + 1):
        top = 100 + 44 * (number - 1)
        common = {"address": "/smartdj/step/set", "preArgs": [f"step{number}", number]}
        add("button", f"step_{number}_on", 10, top, 40, 40, label=str(number), mode="toggle", **{
            **common, "preArgs": [f"step{number}", number, "enable"]})  # fmt: skip
        add("text", f"step_{number}", 55, top, 535, 40, value="", align="left", bypass=True)
        for field, left, low, high in (("gain_db", 600, -24, 24), ("pan", 735, -1, 1), ("wet", 870, 0, 1)):
            scale = {"min": low, "max": high}
            fader = {**common, "preArgs": [f"step{number}", number, field], "range": scale, "horizontal": True}
            add("fader", f"step_{number}_{field}", left, top, 120, 40, **fader)
    top = 100 + 44 * STEPS + 10
    for place, (word, address) in enumerate(
        (("run", "run"), ("cancel", "cancel"), ("play", "play"), ("stop", "stop"), ("tap", "tap"))
    ):
        add("button", word, 10 + 198 * place, top, 188, 60, label=word, mode="push", address=f"/smartdj/{address}")
    for number in range(1, SLOTS + 1):
        add("button", f"slot_{number}", 10 + 123 * (number - 1), top + 70, 115, 80, label=f"slot {number}", mode="push",
            address="/smartdj/slot/fire", preArgs=[str(number)])  # fmt: skip
    add("text", "message", 10, top + 160, 980, 40, value="", align="left", bypass=True)
    page = {"type": "tab", "id": "smartdj_page", "label": "SmartDJ", "widgets": widgets}
    root = {"type": "root", "id": "root", "widgets": [], "tabs": [page]}
    session = {"createdWith": "Open Stage Control", "version": "1.25.0", "type": "session", "content": root}
    return json.dumps(session, indent=1) + "\n"


def touch_osc() -> bytes:
    """Instruction-free: levels, switches, pads; compressed XML, as TouchOSC 2 stores it."""
    root = ElementTree.Element("lexml", version="3")
    page = _node(root, "GROUP", "smartdj", (0, 0, 1024, 768))
    children = ElementTree.SubElement(page, "children")
    for number in range(1, STEPS + 1):
        left = 10 + 126 * (number - 1)
        start = [("CONSTANT", "INTEGER", str(number)), ("CONSTANT", "STRING", "gain_db")]
        fader = _node(children, "FADER", f"gain{number}", (left, 10, 116, 400))
        _message(fader, "/smartdj/step/set", [*start, ("VALUE", "FLOAT", "x")], (-24, 12))
        start[1] = ("CONSTANT", "STRING", "enable")
        button = _node(children, "BUTTON", f"on{number}", (left, 420, 116, 80), buttonType="1")
        _message(button, "/smartdj/step/set", [*start, ("VALUE", "FLOAT", "x")], (0, 1))
        pad = _node(children, "BUTTON", f"slot{number}", (left, 510, 116, 120))
        _message(pad, "/smartdj/slot/fire", [("CONSTANT", "STRING", str(number)), ("VALUE", "FLOAT", "x")], (0, 1))
    for place, word in enumerate(("run", "cancel", "play", "stop", "tap", "subscribe")):
        button = _node(children, "BUTTON", word, (10 + 168 * place, 640, 158, 110))
        # A lease needs its port: TouchOSC listens at the one that its connection names, 9111 here.
        value = ("CONSTANT", "INTEGER", "9111") if word == "subscribe" else ("VALUE", "FLOAT", "x")
        _message(button, f"/smartdj/{word}", [value], (0, 1))
    return zlib.compress(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _node(
    parent: ElementTree.Element, type: str, name: str, frame: tuple[int, int, int, int], **more: str
) -> ElementTree.Element:
    node = ElementTree.SubElement(parent, "node", ID=str(uuid.uuid5(uuid.NAMESPACE_URL, f"smartdj/{name}")), type=type)
    properties = ElementTree.SubElement(node, "properties")
    for key, kind, value in (("name", "s", name), *((key, "i", value) for key, value in more.items())):
        entry = ElementTree.SubElement(properties, "property", type=kind)
        ElementTree.SubElement(entry, "key").text = key
        ElementTree.SubElement(entry, "value").text = value
    entry = ElementTree.SubElement(properties, "property", type="r")
    ElementTree.SubElement(entry, "key").text = "frame"
    value = ElementTree.SubElement(entry, "value")
    for axis, size in zip("xywh", frame, strict=True):
        ElementTree.SubElement(value, axis).text = str(size)
    return node


def _message(
    node: ElementTree.Element, address: str, arguments: list[tuple[str, str, str]], scale: tuple[float, float]
) -> None:
    osc = ElementTree.SubElement(ElementTree.SubElement(node, "messages"), "osc")
    for key, value in (("enabled", "1"), ("send", "1"), ("receive", "0"), ("feedback", "0"), ("connections", "00001")):
        ElementTree.SubElement(osc, key).text = value
    triggers = ElementTree.SubElement(osc, "triggers")
    trigger = ElementTree.SubElement(triggers, "trigger")
    ElementTree.SubElement(trigger, "var").text = "x"
    ElementTree.SubElement(trigger, "condition").text = "ANY"
    _partials(ElementTree.SubElement(osc, "path"), [("CONSTANT", "STRING", address)], (0, 1))
    _partials(ElementTree.SubElement(osc, "arguments"), arguments, scale)


def _partials(parent: ElementTree.Element, partials: list[tuple[str, str, str]], scale: tuple[float, float]) -> None:
    for type, conversion, value in partials:
        partial = ElementTree.SubElement(parent, "partial")
        low, high = scale if type == "VALUE" else (0, 1)
        made = {"type": type, "conversion": conversion, "value": value, "scaleMin": str(low), "scaleMax": str(high)}
        for key, text in made.items():
            ElementTree.SubElement(partial, key).text = text


def main() -> None:
    (HERE / "smartdj.open-stage-control.json").write_text(open_stage_control(), encoding="utf-8")
    (HERE / "smartdj.tosc").write_bytes(touch_osc())


if __name__ == "__main__":
    main()
