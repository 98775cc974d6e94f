"""What a batch did, for programs (JSON) and for people (one page)."""

from __future__ import annotations

import json
import os
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartdj_agent import __version__
from smartdj_agent.batch.run import Batch
from smartdj_agent.batch.survey import LeftOut, Unit
from smartdj_agent.console import one_line
from smartdj_agent.errors import SmartDJError
from smartdj_agent.plan import plan_to_dict

SUMMARY_VERSION = 1
"""Raised when a key of the JSON changes its meaning or disappears."""

MAX_PLAYERS = 300
"""Most rows with players; a page of thousands would not open."""

STATES = {
    "done": "done",
    "done_before": "done by an earlier run",
    "nothing": "nothing to change",
    "failed": "failed",
    "left_out": "left out",
    "waiting": "not done yet",
}
"""What becomes of a recording or item, in words."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: ``finished``, ``stopped`` (by the person) or ``failed`` (for good), and how long it took."""

    state: str
    seconds: float
    started: str
    error: SmartDJError | None = None


def summarise(batch: Batch, before: frozenset[str], ending: Ending) -> dict[str, Any]:
    """Describe a run as plain values.

    Parameters
    ----------
    batch
        The run.
    before
        Ids of units that were done when it began.
    ending
        How it ended.

    Returns
    -------
    dict
        ``counts`` by state; ``recordings`` and ``projects`` (with ``items``), each with state, outputs relative to
        the folder, steps, notices and error.
    """
    found, request = batch.found, batch.request
    rows: dict[str, list[dict[str, Any]]] = {}
    for unit in found.units:
        rows.setdefault(unit.project, []).append(_unit_row(batch, unit, before))
    for left_out in found.left_out:
        rows.setdefault(left_out.project, []).append(_left_out_row(left_out))
    counts = Counter(row["state"] for group in rows.values() for row in group)
    projects = []
    known = {project.id for project in found.projects}
    for id in sorted({project for project in rows if project} | known):
        output = batch.project_outputs.get(id)
        error = batch.project_errors.get(id)
        projects.append(
            {
                "path": id,
                "output": None if output is None else output.relative_to(batch.manifest.root).as_posix(),
                "error": None if error is None else _error(error),
                "items": rows.get(id, []),
            }
        )
    return {
        "version": SUMMARY_VERSION,
        "program": f"smartdj {__version__}",
        "folder": str(batch.manifest.root),
        "state": ending.state,
        "error": None if ending.error is None else _error(ending.error),
        "started": ending.started,
        "seconds": round(ending.seconds, 3),
        "instruction": request.instruction,
        "plan": None if request.plan is None else plan_to_dict(request.plan),
        "seed": request.seed,
        "mode": request.mode,
        "preset": request.preset,
        "tracks": list(request.tracks),
        "counts": {state: counts.get(state, 0) for state in STATES},
        "recordings": sorted(rows.get("", []), key=lambda row: row["id"]),
        "projects": projects,
    }


def _unit_row(batch: Batch, unit: Unit, before: frozenset[str]) -> dict[str, Any]:
    record = batch.manifest.unit(unit.id, unit.key)
    row: dict[str, Any] = {
        "id": unit.id,
        "label": unit.label,
        "source": os.path.relpath(unit.path, batch.manifest.root),
        "duration_s": round(unit.duration_s, 3),
    }
    if record is None:
        return {**row, "state": "waiting"}
    if record["record"] == "failed":
        error = {name: record[name] for name in ("code", "message", "hint")}
        return {**row, "state": "failed", "error": error}
    state = "done_before" if unit.id in before else "done" if record["outputs"] else "nothing"
    return {
        **row,
        "state": state,
        "outputs": [output["final"] for output in record["outputs"]],
        "steps": record["steps"],
        "methods": record["methods"],
        "notices": record["notices"],
        "seconds": record["seconds"],
        "like": record.get("like"),
    }


def _left_out_row(left_out: LeftOut) -> dict[str, Any]:
    row = {"id": left_out.id, "label": one_line(left_out.label), "reason": left_out.reason}
    if left_out.error is None:
        return {**row, "state": "left_out"}
    return {**row, "state": "failed", "error": _error(left_out.error)}


def _error(error: SmartDJError) -> dict[str, str]:
    return {"code": str(error.code), "message": error.message, "hint": error.hint}


def to_json(summary: dict[str, Any]) -> str:
    """Return the summary as JSON; names that aren't Unicode are escaped."""
    return json.dumps(summary, indent=1, allow_nan=False) + "\n"


def to_html(summary: dict[str, Any], root: Path, folder: Path) -> str:
    """Return the summary as one page.

    Parameters
    ----------
    summary
        From `summarise`.
    root
        The folder that was worked on.
    folder
        Where the page will lie: its links are relative to it.
    """
    import jinja2

    def link(path: str) -> str:
        relative = os.path.relpath(root / path, folder).replace(os.sep, "/")
        return urllib.parse.quote(relative.encode("utf-8", "surrogateescape"))

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["link"] = link
    environment.filters["line"] = one_line
    environment.filters["time"] = duration
    rows = len(summary["recordings"]) + sum(len(project["items"]) for project in summary["projects"])
    page = environment.from_string(_PAGE)
    return page.render(run=summary, states=STATES, players=rows <= MAX_PLAYERS)


def duration(seconds: float) -> str:
    """Return a length of time for people: ``8 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>SmartDJ batch: {{ run.folder|line }}</title>
<style>
:root { --page:#f6f7f9; --card:#fff; --ink:#1c2126; --soft:#5a6570; --faint:#d5dae0; --good:#1b7f4b; --warn:#9a5b00;
  --bad:#b3261e; }
@media (prefers-color-scheme: dark) { :root { --page:#101317; --card:#191e24; --ink:#e6eaee; --soft:#9ba6b1;
  --faint:#39424c; --good:#5fcf97; --warn:#f0b354; --bad:#ff8f86; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink); font:16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width:1120px; margin:0 auto; padding:1.5rem 1rem 4rem; }
h1 { font-size:1.5rem; line-height:1.25; margin:.2rem 0 .4rem; overflow-wrap:anywhere; }
h2 { font-size:1.1rem; margin:2rem 0 .6rem; overflow-wrap:anywhere; }
.soft { color:var(--soft); } .card { background:var(--card); border:1px solid var(--faint); border-radius:10px;
  padding:1rem; margin:0 0 1rem; overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-size:.925rem; }
th, td { text-align:left; padding:.4rem .8rem .4rem 0; border-bottom:1px solid var(--faint); vertical-align:top;
  overflow-wrap:anywhere; }
td:first-child { min-width:11rem; }
th { color:var(--soft); font-weight:600; white-space:nowrap; } tr:last-child td { border-bottom:none; }
.number { text-align:right; white-space:nowrap; font-variant-numeric:tabular-nums; }
.done, .done_before { color:var(--good); } .failed { color:var(--bad); } .left_out, .waiting { color:var(--warn); }
.state { white-space:nowrap; font-weight:600; } ol { margin:0; padding-left:1.2rem; } 
audio { width:14rem; height:32px; }
.counts { display:flex; flex-wrap:wrap; gap:.4rem 2rem; } .counts b { font-size:1.3rem; display:block; }
a { color:inherit; } p { margin:.3rem 0; }
</style>
</head>
<body><main>
{% macro rows(list) %}
<div class="card"><table>
<thead><tr><th>recording</th><th class="number">length</th><th>what was done</th><th>state</th>
{% if players %}<th>listen</th>{% endif %}</tr></thead><tbody>
{% for row in list %}
<tr><td>{{ row.label|line }}</td>
<td class="number">{% if row.duration_s is defined %}{{ "%.1f"|format(row.duration_s) }} s{% endif %}</td>
<td>{% if row.steps %}<ol>{% for step in row.steps %}<li>{{ step|line }}
<span class="soft">{{ row.methods[loop.index0]|line }}</span></li>{% endfor %}</ol>{% endif %}
{% for notice in row.notices or [] %}<p class="soft">{{ notice|line }}</p>{% endfor %}
{% if row.error %}<p>{{ row.error.message|line }}<br><span class="soft">{{ row.error.hint|line }}</span></p>
{% elif row.reason %}<p>{{ row.reason|line }}</p>{% endif %}
{% if row.like %}<p class="soft">the same samples as {{ row.like|line }}</p>{% endif %}
{% if row.outputs %}<p><a href="{{ row.outputs[-1]|link }}">{{ row.outputs[-1]|line }}</a></p>{% endif %}</td>
<td class="state {{ row.state }}">{{ states[row.state] }}</td>
{% if players %}<td>{% if row.outputs %}
{{ "its media" if "#" in row.id else "before" }} <audio controls preload="none" src="{{ row.source|link }}"></audio><br>
after <audio controls preload="none" src="{{ row.outputs[-1]|link }}"></audio>{% endif %}</td>{% endif %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
<p class="soft">{{ run.program }} · {{ run.started }} · {{ run.seconds|time }}</p>
<h1>{{ run.folder|line }}</h1>
<p>{% if run.instruction %}“{{ run.instruction|line }}”{% else %}By a plan of
{{ run.plan.steps|length }} step{{ "" if run.plan.steps|length == 1 else "s" }}{% endif %}{{ " " }}
<span class="soft">seed {{ run.seed }}, {{ run.mode }}, {{ run.preset }}{% if run.tracks %}, tracks
{{ run.tracks|join(", ")|line }}{% endif %}</span></p>
{% if run.state != "finished" %}<p class="failed">This run was {{ "stopped" if run.state == "stopped" else
"ended by an error" }}{% if run.error %}: {{ run.error.message|line }}{% endif %}. Run the same command again to go
on.</p>{% endif %}
<div class="card counts">{% for state, number in run.counts.items() if number %}
<div class="{{ state }}"><b>{{ number }}</b>{{ states[state] }}</div>{% endfor %}</div>
{% if run.recordings %}<h2>Recordings</h2>{{ rows(run.recordings) }}{% endif %}
{% for project in run.projects %}
<h2>{{ project.path|line }}{% if project.output %} → <a href="{{ project.output|link }}">{{ project.output|line }}</a>
{% endif %}</h2>
{% if project.error %}<p class="failed">{{ project.error.message|line }} ({{ project.error.hint|line }})</p>{% endif %}
{{ rows(project["items"]) }}
{% endfor %}
</main></body></html>
"""
