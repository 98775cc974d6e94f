// What runs in the browser: choosing, dropping and recording audio; drawing, playing and comparing two states; keys.
// Python tells it things through `sdjCalls`; it tells Python by clicks and by NiceGUI's `emitEvent`. No build step.
import WaveSurfer from "wavesurfer";
import Regions from "/static/vendor/wavesurfer/regions.esm.js";
import Spectrogram from "/static/vendor/wavesurfer/spectrogram.esm.js";
import Timeline from "/static/vendor/wavesurfer/timeline.esm.js";
import Zoom from "/static/vendor/wavesurfer/zoom.esm.js";

const $ = (id) => document.getElementById(id);
const MAX_PIXELS = 40000; // of a zoomed drawing
const KEPT = 4; // decoded states
const FADE_S = 0.005; // from A to B without a click

// --- audio ---------------------------------------------------------------------------------------------------------

let context = null;
const buffers = new Map(); // URL to the promise of its AudioBuffer, in order of use

function audio() {
  context ||= new AudioContext();
  return context;
}

function decoded(url) {
  const known = buffers.get(url);
  if (known) buffers.delete(url);
  const promise =
    known ||
    fetch(url).then(async (answer) => {
      if (!answer.ok) throw new Error(`${answer.status}`);
      const bytes = await answer.arrayBuffer();
      // At the file's own rate, so that the spectrogram shows what is there; an offline context has any rate.
      const rate = new DataView(bytes).getUint32(24, true);
      return new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
    });
  promise.catch(() => buffers.delete(url));
  buffers.set(url, promise);
  for (const old of buffers.keys()) {
    if (buffers.size <= KEPT) break;
    if (!lanes.some((lane) => lane.url === old)) buffers.delete(old);
  }
  return promise;
}

// --- two lanes, one time -------------------------------------------------------------------------------------------

let sounds = [];
let active = 0;
let playing = false;
let at = 0; // seconds, while it doesn't play
let startedAt = 0;
let startedFrom = 0;
let loop = null; // [start, end] in seconds
let looping = false;
let zoom = 1;
let frame = 0;
const lanes = [0, 1].map((number) => ({
  number, url: "", buffer: null, peak: 0, drawing: null, regions: null, source: null, gain: null, picked: false, turn: 0,
}));

const duration = () => Math.max(0, ...lanes.map((lane) => lane.buffer?.duration || 0));

function now() {
  if (!playing) return at;
  let time = startedFrom + Math.max(0, context.currentTime - startedAt);
  if (looping && loop && startedFrom < loop[1] && time >= loop[1]) {
    time = loop[0] + ((time - loop[1]) % (loop[1] - loop[0]));
  }
  return Math.min(time, duration());
}

function silence() {
  for (const lane of lanes) {
    if (lane.source) {
      lane.source.onended = null;
      lane.source.stop();
      lane.source.disconnect();
      lane.gain.disconnect();
    }
    lane.source = lane.gain = null;
  }
}

function begin(from) {
  silence();
  const ready = lanes.filter((lane) => lane.buffer);
  if (!ready.length) return;
  startedFrom = from >= duration() - 0.01 ? 0 : from;
  startedAt = context.currentTime + 0.03; // both begin at the same sample
  for (const lane of ready) {
    lane.source = new AudioBufferSourceNode(context, { buffer: lane.buffer });
    lane.gain = new GainNode(context, { gain: lane.number === active ? 1 : 0 });
    lane.source.connect(lane.gain).connect(context.destination);
    if (looping && loop && startedFrom < loop[1]) {
      Object.assign(lane.source, { loop: true, loopStart: loop[0], loopEnd: loop[1] });
    }
    lane.source.start(startedAt, startedFrom);
  }
  const longest = ready.reduce((a, b) => (a.buffer.duration >= b.buffer.duration ? a : b));
  longest.source.onended = () => playing && stop(0);
  playing = true;
  show();
}

function stop(where = now()) {
  at = where;
  playing = false;
  silence();
  show();
}

async function toggle() {
  if (playing) return stop();
  await audio().resume();
  begin(at);
}

function seek(time) {
  const where = Math.min(Math.max(0, time), duration());
  if (playing) begin(where);
  else at = where;
  show();
}

function listenTo(number) {
  active = number;
  for (const lane of lanes) {
    lane.gain?.gain.setTargetAtTime(lane.number === active ? 1 : 0, context.currentTime, FADE_S);
  }
  say(`Now ${"AB"[active]}: ${select(active).selectedOptions[0]?.textContent || ""}`);
  show();
}

function setLoop(region, on = true) {
  const length = duration();
  if (region) {
    const start = Math.min(Math.max(0, Math.min(...region)), length);
    const end = Math.min(Math.max(...region), length);
    loop = end - start >= 0.02 ? [start, end] : null;
  } else {
    loop = null;
  }
  looping = on && loop !== null;
  const time = now();
  drawLoop();
  if (playing) begin(looping && (time < loop[0] || time > loop[1]) ? loop[0] : time);
  show();
}

function toggleLoop() {
  if (loop) {
    const time = now();
    looping = !looping;
    if (playing) begin(time);
    else if (looping && (at < loop[0] || at > loop[1])) at = loop[0];
    show();
  } else {
    setLoop([0, duration()]);
  }
  say(looping ? "Loop on" : "Loop off");
}

// --- drawing -------------------------------------------------------------------------------------------------------

const box = (number) => document.querySelector(`.lane[data-lane="${number}"]`);
const select = (number) => box(number).querySelector("select");
const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

function fitted() {
  const width = box(0).querySelector(".drawing").clientWidth || 600;
  return { width, perSecond: width / (duration() || 1) };
}

async function load(number, url) {
  const lane = lanes[number];
  if (lane.url === url && (lane.buffer || lane.drawing)) return;
  const turn = ++lane.turn;
  lane.url = url;
  box(number).classList.add("loading");
  const time = now();
  const wasPlaying = playing;
  try {
    const buffer = await decoded(url);
    if (turn !== lane.turn) return;
    lane.buffer = buffer;
    lane.peak = peakOf(buffer);
    draw(lane);
    if (wasPlaying && playing) begin(time);
    box(number).classList.remove("failed");
  } catch (failure) {
    if (turn !== lane.turn) return;
    lane.buffer = null;
    lane.url = "";
    box(number).classList.add("failed");
  }
  box(number).classList.remove("loading");
  show();
}

function draw(lane) {
  lane.drawing?.destroy();
  const buffer = lane.buffer;
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  const height = channels.length > 1 ? 56 : 112;
  lane.regions = Regions.create();
  const spectrogram = Spectrogram.create({
    height, splitChannels: channels.length > 1, labels: true, scale: "mel", fftSamples: 1024, windowFunc: "hann",
    frequencyMax: buffer.sampleRate / 2, gainDB: 25, rangeDB: 90,
    labelsBackground: "rgba(0, 0, 0, 0.45)", labelsColor: "#fff", labelsHzColor: "#fff",
  });
  const { perSecond } = fitted();
  const drawing = WaveSurfer.create({
    container: box(lane.number).querySelector(".drawing"),
    height: 96, waveColor: colour("--wave"), progressColor: colour("--wave-past"), cursorColor: colour("--cursor"),
    cursorWidth: 2, maxPeak: 1, sampleRate: buffer.sampleRate, minPxPerSec: zoom * perSecond, autoScroll: true,
    autoCenter: false, dragToSeek: false,
    plugins: [lane.regions, ruler(buffer.duration), Zoom.create({ scale: 0.25, maxZoom: MAX_PIXELS / buffer.duration }), spectrogram],
  });
  lane.drawing = drawing;
  lane.regions.enableDragSelection({ color: colour("--loop") });
  lane.regions.on("region-created", (region) => {
    if (region.id === "loop" || region.id.startsWith("touched")) return;
    const drawn = [region.start, region.end];
    region.remove();
    setLoop(drawn);
  });
  lane.regions.on("region-updated", (region) => region.id === "loop" && setLoop([region.start, region.end], looping));
  drawing.on("interaction", (time) => seek(time));
  drawing.on("zoom", (perSecond) => zoomTo(perSecond / fitted().perSecond, lane));
  drawing.on("scroll", () => follow(lane));
  // Not by URL: what is drawn is what is played, decoded once.
  drawing.load("", channels, buffer.duration);
  drawing.once("ready", () => {
    scale();
    drawLoop();
    const sound = sounds.find((one) => one.url === lane.url);
    (sound?.touched || []).forEach(([start, end], index) => {
      const region = lane.regions.addRegion({
        id: `touched-${index}`, start, end, color: colour("--touched"), drag: false, resize: false,
      });
      Object.assign(region.element.style, { pointerEvents: "none", height: "6px", top: "0" });
    });
    show();
  });
}

// Times under the waveform; as many as are readable at any zoom.
function ruler(length) {
  const steps = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800];
  const step = steps.find((one) => length / one <= 12) || 3600;
  return Timeline.create({
    height: 20, timeInterval: step, primaryLabelInterval: step, secondaryLabelOpacity: 1,
    formatTimeCallback: (time) => (step < 1 ? clock(time) : clock(time).slice(0, -2)),
    style: { fontSize: "12px", color: colour("--soft") },
  });
}

// Both waveforms in one scale, so that what is quieter looks quieter.
function scale() {
  let peak = 0.05;
  for (const lane of lanes) peak = Math.max(peak, lane.buffer ? lane.peak : 0);
  for (const lane of lanes) {
    if (lane.drawing && lane.buffer && lane.drawing.options.maxPeak !== peak) lane.drawing.setOptions({ maxPeak: peak });
  }
}

function peakOf(buffer) {
  let peak = 0;
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    for (const sample of buffer.getChannelData(channel)) peak = Math.max(peak, Math.abs(sample));
  }
  return peak;
}

function drawLoop() {
  for (const lane of lanes) {
    const old = lane.regions?.getRegions().find((region) => region.id === "loop");
    if (!loop) old?.remove();
    else if (old) old.setOptions({ start: loop[0], end: loop[1] });
    else if (lane.buffer) {
      lane.regions?.addRegion({ id: "loop", start: loop[0], end: loop[1], color: colour("--loop"), drag: true, resize: true });
    }
  }
}

let zooming = false;
function zoomTo(factor, from = null) {
  if (zooming) return;
  zooming = true;
  const { width, perSecond } = fitted();
  zoom = Math.min(Math.max(1, factor), MAX_PIXELS / width);
  for (const lane of lanes) {
    if (lane.drawing && lane !== from && lane.buffer) {
      lane.drawing.zoom(zoom * perSecond);
      if (!from) lane.drawing.setScrollTime(Math.max(0, now() - width / (zoom * perSecond) / 2));
    }
  }
  zooming = false;
  show();
}

let following = false;
function follow(from) {
  if (following) return;
  following = true;
  for (const lane of lanes) {
    if (lane !== from && lane.drawing && lane.buffer) lane.drawing.setScroll(from.drawing.getScroll());
  }
  requestAnimationFrame(() => (following = false));
}

const clock = (time) => `${Math.floor(time / 60)}:${(time % 60).toFixed(1).padStart(4, "0")}`;

function show() {
  const time = now();
  for (const lane of lanes) {
    if (lane.buffer && lane.drawing) lane.drawing.setTime(Math.min(time, lane.buffer.duration));
    const button = box(lane.number)?.querySelector(".which");
    button?.setAttribute("aria-pressed", String(lane.number === active));
    box(lane.number)?.classList.toggle("active", lane.number === active);
  }
  if ($("clock")) {
    $("clock").textContent = `${clock(time)} / ${clock(duration())}`;
    $("play").textContent = playing ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", String(playing));
    $("loop").setAttribute("aria-pressed", String(looping));
    $("other").textContent = "BA"[active];
    $("loop-note").textContent = loop
      ? `Loop from ${clock(loop[0])} to ${clock(loop[1])}${looping ? "" : ", switched off"}. `
      : "Drag over a waveform, or use [ and ], to loop a part.";
  }
  if (playing && !frame) {
    frame = requestAnimationFrame(() => {
      frame = 0;
      if (playing) show();
    });
  }
}

function say(text) {
  if ($("say")) $("say").textContent = text;
}

// --- what Python tells ---------------------------------------------------------------------------------------------

function setSounds(listed) {
  const grown = listed.length !== sounds.length || listed[0]?.url !== sounds[0]?.url;
  if (listed[0]?.url !== sounds[0]?.url) {
    stop(0);
    loop = null;
    looping = false;
    zoom = 1;
    lanes.forEach((lane) => (lane.picked = false));
  }
  sounds = listed;
  $("compare-tools").hidden = !listed.length;
  $("compare-empty").hidden = listed.length > 0;
  if (!listed.length) return;
  lanes.forEach((lane) => {
    const choice = select(lane.number);
    const before = choice.value;
    choice.replaceChildren(...listed.map((sound) => new Option(sound.title, sound.key)));
    const kept = listed.some((sound) => sound.key === before);
    if (lane.picked && kept) choice.value = before;
    else choice.value = (lane.number === 0 ? listed[0] : listed[listed.length - 1]).key;
    load(lane.number, listed.find((sound) => sound.key === choice.value).url);
  });
  if (grown) show();
  $("compare").dataset.ready = "yes";
}

const calls = {
  sounds: setSounds,
  address: (key) => history.replaceState(null, "", `/?at=${encodeURIComponent(key)}`),
};

function handle([what, value]) {
  const run = () => ($("compare") ? (wire(), calls[what](value)) : setTimeout(run, 30));
  run();
}

// --- recordings ----------------------------------------------------------------------------------------------------

let sending = 0;

function busy(text) {
  if ($("busy")) $("busy").textContent = text;
}

async function post(name, body, convertible) {
  const key = new URLSearchParams(location.search).get("at") || "";
  const query = new URLSearchParams({ name, at: key, convertible: String(convertible) });
  const answer = await fetch(`/upload?${query}`, { method: "POST", body });
  return answer.ok ? null : await answer.json();
}

async function take(name, blob, direct = true) {
  const turn = ++sending;
  try {
    busy(`Reading ${name} …`);
    let refused = direct ? await post(name, blob, true) : { unread: true, error: null };
    if (refused?.unread) {
      busy(`Converting ${name} …`);
      const wav = await converted(blob);
      if (wav) refused = await post(name.replace(/(\.[^.]*)?$/, ".wav"), wav, false);
      else refused.error ||= { code: "audio_unreadable", message: "the recording can't be read", hint: "record again" };
      if (refused?.error && !wav) emitEvent("sdj_refused", refused.error);
    }
  } catch (failure) {
    emitEvent("sdj_refused", {
      code: "server_unreachable", message: `${name} could not be sent to the page's program`,
      hint: "look whether `smartdj ui` still runs, then load the page again",
    });
  }
  if (turn === sending) busy("");
}

// What the server can't read, the browser perhaps can: decoded here, sent as 16-bit WAV.
async function converted(blob) {
  try {
    const buffer = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(await blob.arrayBuffer());
    return wave(buffer);
  } catch (failure) {
    return null;
  }
}

function wave(buffer) {
  const channels = Math.min(2, buffer.numberOfChannels);
  const view = new DataView(new ArrayBuffer(44 + 2 * channels * buffer.length));
  const text = (where, letters) => [...letters].forEach((letter, i) => view.setUint8(where + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, view.byteLength - 8, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, channels, true);
  view.setUint32(24, buffer.sampleRate, true); view.setUint32(28, 2 * channels * buffer.sampleRate, true);
  view.setUint16(32, 2 * channels, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, view.byteLength - 44, true);
  for (let channel = 0; channel < channels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let index = 0; index < samples.length; index++) {
      const value = Math.round(32767 * Math.min(1, Math.max(-1, samples[index])));
      view.setInt16(44 + 2 * (channels * index + channel), value, true);
    }
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

let recorder = null;

async function record() {
  if (recorder) return recorder.stop();
  let stream;
  try {
    // As it sounds: what makes speech clear for calls would spoil it.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (failure) {
    emitEvent("sdj_refused", {
      code: "device_unavailable", message: "the microphone can't be used",
      hint: "plug one in, and allow this page to use it (the sign beside the address)",
    });
    return;
  }
  const exact = "audio/webm;codecs=pcm";
  const parts = [];
  recorder = new MediaRecorder(stream, MediaRecorder.isTypeSupported(exact) ? { mimeType: exact } : {});
  const began = Date.now();
  const ticking = setInterval(() => busy(`Recording, ${clock((Date.now() - began) / 1000)}`), 200);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    clearInterval(ticking);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    label("record", "Record");
    take(`recording-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.wav`, new Blob(parts), false);
  };
  recorder.start(250);
  label("record", "Stop recording");
}

function label(id, text) {
  const span = $(id).querySelector("span, div") || $(id);
  span.textContent = text;
  $(id).setAttribute("aria-pressed", String(recorder !== null));
}

// --- keys and wires ------------------------------------------------------------------------------------------------

const typing = (element) => element.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");
const pressing = (element) => element.closest?.("button, a, summary, input, select, [role=switch], [role=radio], [role=radiogroup]");
const visible = (element) => element.offsetParent !== null && !element.disabled;
const ALIASES = { "=": "+", "_": "-", K: "k" };

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest?.(".wish")) {
    event.preventDefault();
    // Once what was typed last has arrived.
    setTimeout(() => document.querySelector('[data-key="p"]')?.click(), 150);
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if ([...document.querySelectorAll(".q-dialog")].some((dialog) => dialog.checkVisibility())) return;
  const key = ALIASES[event.key] || event.key;
  const acts = {
    " ": () => toggle(),
    ArrowLeft: () => seek(now() - (event.shiftKey ? 0.1 : 1)),
    ArrowRight: () => seek(now() + (event.shiftKey ? 0.1 : 1)),
    Home: () => seek(0),
    i: () => document.querySelector("textarea.instruction, .instruction textarea, .wish textarea")?.focus(),
  };
  if (acts[key]) {
    if (pressing(event.target) && key !== "i" && key !== "Home") return; // a key of that control itself
    event.preventDefault();
    acts[key]();
    return;
  }
  const target = document.querySelector(`[data-key="${CSS.escape(key.toLowerCase())}"]`);
  if (target && visible(target)) {
    event.preventDefault();
    target.click();
  }
});

let wired = false;
function wire() {
  if (wired) return;
  wired = true;
  $("play").onclick = toggle;
  $("swap").onclick = () => listenTo(1 - active);
  $("loop").onclick = toggleLoop;
  $("loop-start").onclick = () => setLoop([now(), loop && loop[1] > now() ? loop[1] : duration()], true);
  $("loop-end").onclick = () => setLoop([loop && loop[0] < now() ? loop[0] : 0, now()], true);
  $("zoom-in").onclick = () => zoomTo(zoom * 2);
  $("zoom-out").onclick = () => zoomTo(zoom / 2);
  $("zoom-fit").onclick = () => zoomTo(1);
  lanes.forEach((lane) => {
    const here = box(lane.number);
    here.querySelector(".which").onclick = () => listenTo(lane.number);
    here.querySelector(".save").onclick = () => emitEvent("sdj_save", { key: select(lane.number).value });
    select(lane.number).onchange = () => {
      lane.picked = true;
      load(lane.number, sounds.find((sound) => sound.key === select(lane.number).value).url);
    };
  });
  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => {
    const file = $("file").files[0];
    if (file) take(file.name, file);
    $("file").value = "";
  };
  $("record").onclick = record;
  document.addEventListener("click", (event) => {
    const span = event.target.closest?.("[data-loop]");
    if (!span) return;
    const [start, end] = JSON.parse(span.dataset.loop);
    setLoop([start, end]);
    if (!playing) at = loop ? loop[0] : at;
    show();
  });
  let resting = 0;
  new ResizeObserver(() => {
    clearTimeout(resting);
    resting = setTimeout(() => zoomTo(zoom), 200);
  }).observe(box(0));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => lanes.forEach((lane) => lane.buffer && draw(lane)));
  show();
  $("compare").dataset.wired = "yes";
}

for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop")?.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || $("drop")?.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop")?.classList.remove("over");
  const file = event.dataTransfer?.files[0];
  if (file) take(file.name, file);
});

// Brings the focus to an element, with `onlyLost` only where nothing that can be seen has it.
// What shows or enables it may come after this call on a busy machine, so it is tried for a while; whoever presses or
// touches something meanwhile has decided.
let focusing = 0;
for (const act of ["keydown", "pointerdown"]) document.addEventListener(act, () => { focusing += 1; }, true);
window.sdjFocus = (id, onlyLost) => {
  const call = ++focusing, until = Date.now() + 5000;
  const attempt = () => {
    if (call !== focusing) return;
    const has = document.activeElement, lost = !has || has === document.body || !visible(has);
    if (lost || !onlyLost) {
      $(id)?.focus();
      if (!onlyLost && document.activeElement === $(id)) return;
    }
    if (Date.now() < until) setTimeout(attempt, 60);
  };
  setTimeout(attempt, 60);
};

// For tests, and for whoever is curious in the console.
window.smartdj = () => ({
  playing, active: "AB"[active], time: now(), loop, looping, zoom,
  lanes: lanes.map((lane) => ({
    key: select(lane.number)?.value, duration: lane.buffer?.duration || 0, rate: lane.buffer?.sampleRate || 0,
    gain: lane.gain?.gain.value ?? null, scroll: lane.drawing?.getScroll() ?? 0,
    rms: lane.buffer ? Math.sqrt(lane.buffer.getChannelData(0).reduce((sum, x) => sum + x * x, 0) / lane.buffer.length) : 0,
  })),
});

const waiting = (window.sdjCalls ||= []);
window.sdjCalls = { push: handle };
waiting.forEach(handle);
