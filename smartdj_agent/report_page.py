# ruff: noqa: E501 -- markup and style sheet
"""The page of a report: a jinja2 template, rendered with autoescape by `smartdj_agent.report.build_report`."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:">
<title>SmartDJ report: {{ run.source.name }}</title>
<style>
:root { --page:#f6f7f9; --card:#fff; --ink:#1c2126; --soft:#5a6570; --faint:#d5dae0; --wave:#3b6ea8; --mark:#d9480f;
  --changed:#b0357c; --good:#1b7f4b; --warn:#9a5b00; }
@media (prefers-color-scheme: dark) { :root { --page:#101317; --card:#191e24; --ink:#e6eaee; --soft:#9ba6b1;
  --faint:#39424c; --wave:#7fb0e8; --mark:#ff8a4c; --changed:#ee7fc0; --good:#5fcf97; --warn:#f0b354; } }
@media print { :root { --page:#fff; --card:#fff; --ink:#000; --soft:#444; --faint:#bbb; --wave:#3b6ea8;
  --mark:#d9480f; --changed:#b0357c; --good:#1b7f4b; --warn:#9a5b00; }
  audio, .listen { display:none !important; } .card { border:none !important; padding:0 !important; }
  article { break-inside:avoid; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink); font:16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width:1120px; margin:0 auto; padding:1.5rem 1rem 4rem; }
h1 { font-size:1.5rem; line-height:1.25; margin:.2rem 0 .4rem; overflow-wrap:anywhere; }
h2 { font-size:1.15rem; margin:2rem 0 .6rem; } h3 { font-size:1.05rem; margin:0 0 .6rem; overflow-wrap:anywhere; }
.soft { color:var(--soft); } .small { font-size:.875rem; }
.card { background:var(--card); border:1px solid var(--faint); border-radius:10px; padding:1rem; margin:0 0 1rem; }
.scroll { overflow-x:auto; } table { border-collapse:collapse; width:100%; font-size:.925rem; }
th, td { text-align:left; padding:.4rem .7rem .4rem 0; border-bottom:1px solid var(--faint); vertical-align:top; }
th { font-weight:600; color:var(--soft); white-space:nowrap; } tr:last-child td { border-bottom:none; }
.number { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap; }
td.text { overflow-wrap:anywhere; min-width:14rem; } .off { color:var(--soft); text-decoration:line-through; }
.good { color:var(--good); } .warn { color:var(--warn); } .bar { height:.4rem; background:var(--faint); border-radius:2px; }
.bar i { display:block; height:100%; background:var(--wave); border-radius:2px; }
.players { display:grid; gap:.8rem; grid-template-columns:repeat(auto-fit, minmax(15rem, 1fr)); margin:.6rem 0; }
.players figure { margin:0; } figcaption { font-size:.875rem; color:var(--soft); } audio { width:100%; min-height:40px; }
figure.picture { margin:.6rem 0; } figure.picture svg { width:100%; height:auto; display:block; }
svg text { font-family:system-ui, "Segoe UI", Roboto, sans-serif !important; }
dl { display:grid; grid-template-columns:max-content 1fr; gap:.25rem 1rem; margin:0; font-size:.925rem; }
dt { color:var(--soft); } dd { margin:0; overflow-wrap:anywhere; } code { font-size:.85em; }
.facts { display:grid; grid-template-columns:repeat(auto-fit, minmax(9rem, 1fr)); gap:.6rem 1.2rem; }
.facts div b { display:block; font-size:1.02rem; font-weight:600; font-variant-numeric:tabular-nums; }
.facts span { font-size:.8rem; color:var(--soft); }
a { color:inherit; }
</style>
</head>
<body>
{% macro player(caption, sound, id="") %}
<figure><figcaption>{{ caption }}{% if sound.note %} <span>({{ sound.note }})</span>{% endif %}</figcaption>
<audio controls preload="none"{% if id %} id="{{ id }}"{% endif %} src="{{ sound|flac }}"></audio></figure>
{% endmacro %}
{% macro repeated(caption, id, note) %}
<figure><figcaption>{{ caption }}{% if note %} <span>({{ note }})</span>{% endif %}</figcaption>
<audio controls preload="none" data-like="{{ id }}"></audio></figure>
{% endmacro %}
{% macro fact(name, value, class="") %}
<div><span>{{ name }}</span><b{% if class %} class="{{ class }}"{% endif %}>{{ value }}</b></div>
{% endmacro %}
<main>
<header>
<p class="soft small">SmartDJ report · {{ run.source.name }} · {{ run.created }}</p>
<h1>{{ run.instruction or "Steps given by hand" }}</h1>
<p class="soft">{{ run.source.duration_s|clock }}, {{ run.source.sample_rate|integer }} Hz,
{{ run.source.channels }} channel{{ "" if run.source.channels == 1 else "s" }}, {{ run.source.container }}
{{ run.source.subtype }} · {{ run.steps|length }} step{{ "" if run.steps|length == 1 else "s" }} in
{{ run.editing_s|clock }} ({{ run.realtime_factor|decimals(2) }} × real time) on {{ run.device or "–" }}</p>
</header>

{% if run.notices %}
<section class="card" aria-label="Notices">
{% for notice in run.notices %}
<p class="small"><b class="warn">Note</b> {{ notice.message }}{% if notice.hint %}
<span class="soft">– {{ notice.hint }}</span>{% endif %}</p>
{% endfor %}
</section>
{% endif %}

<section class="listen card">
<div class="players">
{{ player("Original", run.player_source, "a0") }}
{% if run.steps %}
{{ repeated("Result", "a" ~ run.steps|length, run.steps[-1].player_after.note) }}
{% endif %}
</div>
<noscript><p class="small soft">Without scripts the result is the player “after” of the last step.</p></noscript>
</section>

<h2>Plan</h2>
<section class="card scroll">
<table>
<thead><tr><th></th><th>Step</th><th>How</th><th class="number">Sure</th><th class="number">Seconds</th><th>Share</th></tr>
</thead><tbody>
{% for item, text, done in rows %}
<tr><td class="number">{{ loop.index }}</td>
<td class="text{{ '' if item.enabled else ' off' }}">
{% if done %}<a href="#step-{{ item.id }}">{{ text }}</a>{% else %}{{ text }}{% endif %}</td>
{% if done %}
<td>{{ done.method }}</td><td class="number">{{ (100 * done.confidence)|decimals(0) }} %</td>
<td class="number">{{ done.seconds|decimals(1) }}</td>
<td style="min-width:5rem"><div class="bar" style="margin-top:.5rem"><i
 style="width:{{ (100 * done.seconds / slowest)|round|int if slowest else 0 }}%"></i></div></td>
{% else %}
<td class="soft">{{ "not carried out" if item.enabled else "switched off" }}</td><td></td><td></td><td></td>
{% endif %}
</tr>
{% endfor %}
</tbody></table>
</section>

{% if run.heard %}
<h2>What the listener heard</h2>
<section class="card scroll">
<table>
<thead><tr><th>Sound</th><th class="number">Sure</th><th>Direction</th><th>When</th><th class="number">Level</th></tr>
</thead><tbody>
{% for sound in run.heard %}
<tr><td class="text">{{ sound.label }}</td><td class="number">{{ (100 * sound.confidence)|decimals(0) }} %</td>
<td>{{ sound.azimuth_deg|direction }}</td><td>{{ sound.start_s|clock }} – {{ sound.end_s|clock }}</td>
<td class="number">{{ sound.level_db|db }}FS</td></tr>
{% endfor %}
</tbody></table>
</section>
{% endif %}

{% if whole %}
<h2>The whole edit</h2>
<section class="card"><figure class="picture">{{ whole|safe }}</figure>
<p class="small soft">Original, result, and what all steps together changed. All rows share their axes and colours.</p>
</section>
{% endif %}

<h2>Step by step</h2>
{% for step in run.steps %}
{% set m = step.measures %}
<article class="card" id="step-{{ step.step_id }}">
<h3>{{ loop.index }}. {{ step.text }}</h3>
<div class="players listen">
{% if step.player_before %}{{ player("Before", step.player_before) }}
{% else %}{{ repeated("Before", "a" ~ loop.index0,
  run.player_source.note if loop.first else loop.previtem.player_after.note) }}{% endif %}
{{ player("After", step.player_after, "a" ~ loop.index) }}
{{ player("What changed", step.player_difference) }}
</div>
<figure class="picture">{{ pictures[step.step_id]|safe }}</figure>
<p class="small soft">Dashed lines and tint mark the span that the step may touch: {{ step.touched_s|spans }}.</p>
<div class="facts">
{{ fact("How", step.method) }}
{{ fact("Sure of the sound", (100 * step.confidence)|decimals(0) ~ " %") }}
{{ fact("Time taken", step.seconds|decimals(1) ~ " s (" ~ step.realtime_factor|decimals(2) ~ " × real time)") }}
{{ fact("Samples changed", m.changed|integer ~ " (" ~ (100 * m.changed / m.total if m.total else 0)|decimals(1) ~ " %)") }}
{{ fact("Changed outside the span", m.changed_outside|integer, "warn" if m.changed_outside else "good") }}
{{ fact("Difference, RMS", m.difference_dbfs|db ~ "FS") }}
{{ fact("Difference, peak", m.difference_peak_dbfs|db ~ "FS") }}
{{ fact("Peak before → after", m.peak_before_dbfs|db ~ "FS → " ~ m.peak_after_dbfs|db ~ "FS") }}
{% if m.itd_before_ms is not none or m.itd_after_ms is not none %}
{{ fact("Time between ears, before → after", m.itd_before_ms|decimals(2) ~ " → " ~ m.itd_after_ms|decimals(2) ~ " ms") }}
{{ fact("Level between ears, before → after", m.ild_before_db|decimals(1) ~ " → " ~ m.ild_after_db|db) }}
{% endif %}
</div>
</article>
{% endfor %}
{% if run.source.channels == 2 %}
<p class="small soft">Time and level between the ears are measured on the whole recording within the span; positive means
that the left ear hears it first, or louder.</p>
{% endif %}

<h2>How it was made</h2>
<section class="card">
<dl>
<dt>Recording</dt><dd>{{ run.source.name }}, SHA-256 of its samples <code>{{ run.source.sha256 }}</code></dd>
<dt>Command</dt><dd>smartdj {{ run.command }}</dd>
<dt>Mode</dt><dd>{{ run.mode }}</dd>
<dt>Preset</dt><dd>{{ run.preset }}</dd>
<dt>Seed</dt><dd>{{ run.seed }}</dd>
<dt>Device</dt><dd>{{ run.device or "–" }}</dd>
{% if run.plan %}
<dt>Planner</dt><dd>{{ run.plan.provenance.planner or "none: the plan was given" }}</dd>
<dt>Editor</dt><dd>{{ run.plan.provenance.editor or "–" }}</dd>
{% endif %}
<dt>Time</dt><dd>listening {{ run.listening_s|decimals(1) }} s, planning {{ run.planning_s|decimals(1) }} s,
editing {{ run.editing_s|decimals(1) }} s</dd>
<dt>Software</dt><dd>SmartDJ Agent {{ run.version }}; {{ run.machine }}</dd>
</dl>
{% if run.models %}
<div class="scroll" style="margin-top:1rem"><table>
<thead><tr><th>Model</th><th>Role</th><th class="number">Parameters</th><th>SHA-256</th></tr></thead><tbody>
{% for model in run.models %}
<tr><td>{{ model.name }}</td><td>{{ model.role }}</td><td class="number">{{ model.parameters|integer }}</td>
<td><code>{{ model.sha256[:16] }}</code></td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
</section>
</main>
<script>
for (const copy of document.querySelectorAll("audio[data-like]")) {
  const original = document.getElementById(copy.dataset.like);
  if (original) copy.src = original.src;
}
document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);
</script>
</body>
</html>
"""
