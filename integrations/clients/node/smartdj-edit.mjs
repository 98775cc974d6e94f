#!/usr/bin/env node
// smartdj-edit: edits one recording on a SmartDJ server and tells what happens meanwhile.
//
// One bidirectional call, EditService.Edit, does it all. We send a header, the recording in chunks and its hash, and
// perhaps a cancel; the server sends events (what it hears, the plan, progress, warnings) and the bytes of the audio.

import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const USAGE = `usage: smartdj-edit HOST:PORT IN "instruction" OUT [--seed N] [--steps-dir DIR]
                    [--token-file FILE] [--tls-ca FILE] [--plan-step "remove the sound of X"]…`;
const CHUNK_BYTES = 256 * 1024;
const EXIT = { ok: 0, error: 1, usage: 2, question: 22, cancelled: 130 };

const protos = fileURLToPath(new URL('../../../protos', import.meta.url));
const files = ['smartdj/v1/edit.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'];
const definitions = protoLoader.loadSync(files, {
  includeDirs: [protos, join(protos, 'third_party')],
  keepCase: true, // names as in the .proto files
  longs: Number, // sizes of files stay far below 2^53
  enums: String,
  defaults: true,
  oneofs: true, // message.payload names the member that is set
});
const { EditService } = grpc.loadPackageDefinition(definitions).smartdj.v1;

/** A failure to show to the person: a stable code, one line, and what to do about it. */
class Problem extends Error {
  constructor(code, message, hint = '', exitCode = EXIT.error) {
    super(message);
    Object.assign(this, { code, hint, exitCode });
  }
}

/** Returns what a google.rpc.Status describes: its ErrorInfo has the code and hint, BadRequest the field. */
function problemOfStatus(status) {
  const detail = (name) => {
    const any = status.details.find(({ type_url }) => type_url.endsWith(`/google.rpc.${name}`));
    return any && definitions[`google.rpc.${name}`].deserialize(any.value);
  };
  const info = detail('ErrorInfo');
  const field = detail('BadRequest')?.field_violations[0]?.field ?? '';
  const code = info?.reason || grpc.status[status.code] || 'UNKNOWN';
  return new Problem(code.toLowerCase(), (field && `${field}: `) + status.message, info?.metadata.hint ?? '');
}

/** Returns the problem that ended a call. Its details, a google.rpc.Status, travel in the trailing metadata. */
function problemOfCall(error) {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  if (bytes) return problemOfStatus(definitions['google.rpc.Status'].deserialize(bytes));
  return problemOfStatus({ code: error.code, message: error.details, details: [] });
}

// What the person sees: lines on stderr, and below them one line of progress that is drawn over and over.
const screen = {
  line: '',
  stage: '',
  say(text) {
    process.stderr.write(`${this.line && '\r\x1b[K'}${text}\n${this.line}`);
  },
  progress({ stage, step_index, step_count, fraction, realtime_factor, left_s }) {
    const where = step_count ? `step ${(step_index ?? 0) + 1}/${step_count}: ${stage}` : stage;
    const speed = `${realtime_factor.toFixed(2)} × real time, ${Math.round(left_s)} s left`;
    const text = `${where} ${Math.round(fraction * 100)} %, ${speed}`;
    if (process.stderr.isTTY) {
      process.stderr.write(`\r${text}\x1b[K`);
      this.line = text;
    } else if (this.stage !== (this.stage = `${where} ${Math.floor(fraction * 10)}`)) {
      process.stderr.write(`${text}\n`); // a log gets a line per tenth of the work, not one per event
    }
  },
  rest() {
    if (this.line) process.stderr.write('\r\x1b[K');
    this.line = '';
  },
};

/** A file on its way in: it lies under another name in the folder it belongs to until it is whole. */
class PartFile {
  static alive = new Set(); // paths

  static async create(folder) {
    const part = new PartFile();
    part.path = join(folder, `.smartdj-${randomUUID()}.part`);
    part.handle = await open(part.path, 'wx');
    part.hash = createHash('sha256');
    part.size = 0;
    PartFile.alive.add(part.path);
    return part;
  }

  async write(bytes) {
    this.hash.update(bytes);
    this.size += bytes.length;
    await this.handle.writeFile(bytes);
  }

  /** Makes the bytes safe on disk and checks that they are the ones that were meant. */
  async finish(sha256) {
    await this.handle.sync();
    await this.handle.close();
    const found = this.hash.digest('hex');
    if (found !== sha256) {
      throw new Problem('data_loss', `the audio came damaged: its hash is ${found}, not ${sha256}`, 'run again');
    }
    this.sha256 = sha256;
  }

  /** Gives the file its name, which nobody may have yet: taking the name fails where it is taken. */
  async place(target) {
    await (await open(target, 'wx')).close();
    await rename(this.path, target);
    const folder = await open(dirname(target));
    await folder.sync().finally(() => folder.close());
  }

  async drop() {
    await this.handle.close().catch(() => {});
    await rm(this.path, { force: true });
    PartFile.alive.delete(this.path);
  }
}

/** Reads the command line. */
function readArguments() {
  const text = { type: 'string' };
  const options = {
    seed: text,
    'steps-dir': text,
    'token-file': text,
    'tls-ca': text,
    'plan-step': { ...text, multiple: true },
    help: { type: 'boolean' },
  };
  try {
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    if (values.help) {
      process.stdout.write(`${USAGE}\n`);
      process.exit(EXIT.ok);
    }
    if (positionals.length !== 4) throw new Error(`four arguments are needed, not ${positionals.length}`);
    const seed = Number(values.seed ?? 0);
    if (!/^\d+$/.test(values.seed ?? '0') || seed >= 2 ** 32) {
      throw new Error('--seed needs a whole number below 4294967296');
    }
    const [address, input, instruction, output] = positionals;
    const loopback = /^(localhost|127\.[\d.]+|\[::1\]):\d+$/.test(address);
    if (values['token-file'] && !values['tls-ca'] && !loopback) {
      throw new Error('--token-file needs --tls-ca: the token would cross the network for all to read');
    }
    return { ...values, address, input, instruction, output, seed };
  } catch (error) {
    throw new Problem('usage', error.message, USAGE, EXIT.usage);
  }
}

/** Fails in the first second rather than the last: nothing is ever overwritten. */
function checkFiles({ input, output, 'steps-dir': stepsDir }) {
  if (!statSync(input, { throwIfNoEntry: false })?.isFile()) {
    throw new Problem('audio_not_found', `${input} is not a file`, 'give the name of a recording');
  }
  if (lstatSync(output, { throwIfNoEntry: false })) {
    throw new Problem('output_exists', `${output} already exists`, 'give another name');
  }
  if (!stepsDir) return;
  mkdirSync(stepsDir, { recursive: true });
  if (readdirSync(stepsDir).length) {
    throw new Problem('output_exists', `${stepsDir} is not empty`, 'give another folder to --steps-dir');
  }
}

/** All that we ever say, in order. Whoever writes these messages waits for the line, so we never read ahead of it. */
async function* requests(wanted, interrupt) {
  const { input, instruction, seed, 'plan-step': texts } = wanted;
  const wish = texts ? { plan: { instruction, steps: texts.map((text) => ({ text })) } } : { instruction };
  yield {
    header: {
      request_id: randomUUID(),
      spec: {
        ...wish,
        mode: 'MODE_PRESERVE',
        seed,
        output_encoding: 'OUTPUT_ENCODING_SOURCE',
        source_name: basename(input),
      },
      delivery: wanted['steps-dir'] ? 'DELIVERY_EVERY_STEP' : 'DELIVERY_RESULT',
      on_disconnect: 'ON_DISCONNECT_CANCEL',
    },
  };
  const hash = createHash('sha256');
  for await (const data of createReadStream(input, { highWaterMark: CHUNK_BYTES })) {
    if (interrupt.asked) break;
    hash.update(data);
    yield { data };
  }
  if (!interrupt.asked) yield { audio_end: { sha256: hash.digest('hex') } };
  await interrupt.happens; // forever, in most runs; our half of the stream stays open for it
  yield { cancel: {} };
}

/** Writes the messages one by one: each waits until the one before has gone into the transport. */
async function sendAll(call, messages) {
  const ended = new Promise((resolve) => call.once('status', () => resolve('ended')));
  for await (const message of messages) {
    const written = new Promise((resolve) => call.write(message, resolve));
    if ((await Promise.race([written, ended])) === 'ended') return;
  }
  call.end();
}

const percent = (share) => `${Math.round(share * 100)} %`;

/** What to show for each kind of event. */
const show = {
  queued: ({ position }) => screen.say(`waiting: ${position} before this one`),
  progress: (event) => screen.progress(event),
  listened({ sounds }) {
    for (const { label, confidence, start_s, end_s, azimuth_deg, _azimuth_deg } of sounds) {
      const place = _azimuth_deg ? `, ${azimuth_deg.toFixed(0)}°` : ''; // _azimuth_deg: whether it is set
      screen.say(`heard: ${label} (${percent(confidence)}, ${start_s.toFixed(1)}–${end_s.toFixed(1)} s${place})`);
    }
  },
  step_planned: ({ index, step }) => screen.say(`plan: ${index + 1}. ${step.text}`),
  plan_ready: ({ plan }) => screen.say(`the plan has ${plan.steps.length} step(s)`),
  step_started: ({ index, count, device, step }) => screen.say(`step ${index + 1}/${count} on ${device}: ${step.text}`),
  step_finished({ elapsed_s, realtime_factor, method, confidence }) {
    screen.rest();
    const speed = `${elapsed_s.toFixed(1)} s (${realtime_factor.toFixed(2)} × real time)`;
    screen.say(`  done in ${speed}, ${method}, ${percent(confidence)} sure`);
  },
  warning: ({ message, hint }) => screen.say(`warning: ${message}${hint && ` (${hint})`}`),
};

/** Returns a name like "01-remove-dog-barking.wav", as the command line of SmartDJ itself gives. */
function stepFileName(index, step, extension) {
  const operation = step.operation ?? 'step';
  const sound = (step[operation]?.sound ?? '').toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-');
  const slug = sound.replace(/^-/, '').slice(0, 48).replace(/-$/, '');
  return `${String(index + 1).padStart(2, '0')}-${operation}-${slug || 'sound'}${extension}`;
}

/** Edits; returns the exit code. */
async function main() {
  const wanted = readArguments();
  checkFiles(wanted);

  const interrupt = { asked: 0 };
  interrupt.happens = new Promise((resolve) => {
    const stop = () => {
      if (interrupt.asked) {
        // The second time: leave at once, but leave nothing lying about.
        for (const path of PartFile.alive) rmSync(path, { force: true });
        process.exit(EXIT.cancelled);
      }
      interrupt.asked = performance.now();
      screen.say('cancelling … (Ctrl-C again to leave at once)');
      resolve();
    };
    process.on('SIGINT', stop).on('SIGTERM', stop);
  });

  const { 'tls-ca': authority, 'token-file': tokenFile, 'steps-dir': stepsDir } = wanted;
  const { createInsecure, createSsl } = grpc.credentials;
  const credentials = authority ? createSsl(readFileSync(authority)) : createInsecure();
  const metadata = new grpc.Metadata();
  if (tokenFile) metadata.set('authorization', `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`);
  const client = new EditService(wanted.address, credentials);
  const call = client.Edit(metadata);
  let unsent; // a fault of our own half, such as a recording that can't be read
  sendAll(call, requests(wanted, interrupt)).catch((error) => {
    unsent = error;
    call.cancel();
  });

  const started = new Map(); // steps by number, for the names of their files
  const steps = [];
  let part; // the newest audio; after the last step this is the result
  let summary, question, failed;

  /** Takes in some bytes of the audio after a step. */
  async function receive({ sha256, step_index, offset_bytes, data, last }) {
    if (offset_bytes === 0) {
      await part?.drop();
      part = await PartFile.create(dirname(wanted.output));
    }
    if (!part || part.size !== offset_bytes) throw new Problem('data_loss', 'the audio came with a gap', 'run again');
    await part.write(data);
    if (!last) return;
    await part.finish(sha256);
    if (stepsDir) {
      const copy = await PartFile.create(stepsDir);
      try {
        for await (const bytes of createReadStream(part.path, { highWaterMark: CHUNK_BYTES })) await copy.write(bytes);
        await copy.finish(sha256);
        const name = stepFileName(step_index, started.get(step_index) ?? {}, extname(wanted.output));
        await copy.place(join(stepsDir, name));
      } finally {
        await copy.drop();
      }
    }
  }

  try {
    try {
      for await (const { payload, event, audio } of call) {
        if (payload === 'audio') {
          await receive(audio);
          continue;
        }
        const kind = event.event; // undefined for an event newer than our .proto files
        const what = event[kind];
        show[kind]?.(what);
        if (kind === 'step_started') started.set(what.index, what.step);
        if (kind === 'step_finished') {
          const { sha256, audio_sha256 } = what.audio;
          steps.push({ index: what.index, text: what.step.text, sha256, audio_sha256, elapsed_s: what.elapsed_s });
        }
        if (kind === 'summary') summary = what;
        if (kind === 'question') question = what;
        if (kind === 'failed') failed = what;
      }
      if (failed) throw problemOfStatus(failed.error);
    } catch (error) {
      if (unsent) throw unsent;
      if (!interrupt.asked) throw error.metadata ? problemOfCall(error) : error;
    }
    screen.rest();
    const print = (report) => process.stdout.write(`${JSON.stringify(report)}\n`);
    if (interrupt.asked) {
      screen.say('cancelled');
      const cancel_to_end_s = (performance.now() - interrupt.asked) / 1000;
      print({ result_sha256: null, audio_sha256: null, steps, cancel_to_end_s });
      return EXIT.cancelled;
    }
    if (question) {
      screen.say([question.text, ...question.choices.map((choice) => `  - ${choice}`)].join('\n'));
      return EXIT.question;
    }
    if (!summary?.result || part?.sha256 !== summary.result.sha256) {
      throw new Problem('data_loss', 'the server ended without the result', 'run again');
    }
    await part.place(wanted.output);
    const speed = `${summary.elapsed_s.toFixed(1)} s, ${summary.realtime_factor.toFixed(2)} × real time`;
    screen.say(`wrote ${wanted.output} (${steps.length} step(s), ${speed})`);
    const { sha256, audio_sha256 } = summary.result;
    print({ result_sha256: sha256, audio_sha256, steps, cancel_to_end_s: null });
    return EXIT.ok;
  } finally {
    call.on('error', () => {}); // what comes after the end is of no interest
    call.cancel();
    client.close();
    await part?.drop();
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  screen.rest();
  // A file that can't be read or written tells so by itself; anything else that is no Problem is a bug.
  if (error instanceof Problem) screen.say(`error: ${error.code}: ${error.message}`);
  else screen.say(`error: ${error.syscall ? `system: ${error.message}` : error.stack}`);
  if (error.hint) screen.say(error.hint === USAGE ? USAGE : `hint: ${error.hint}`);
  process.exitCode = error.exitCode ?? EXIT.error;
}
