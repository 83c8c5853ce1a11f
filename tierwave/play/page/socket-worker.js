/**
 * Holds the WebSocket, so that drawing never keeps the sound waiting: asks the server for just so many samples as are
 * about to be played, plays curves by setting values block by block, and keeps what came.
 *
 * From the page: {to: "..."} as in `answer` below. To the page: the server's messages as they are, and {type: "link", up},
 * {type: "take", ...}, {type: "received", ...}, {type: "curves", origin | ended}.
 */

import { readCells } from "./curve.js";
import { openSocket } from "./socket.js";

const TAIL = 10; // seconds that are kept when nothing is recorded
const POINT = 64; // bytes that a point of a curve takes in a message, at most
const AGAIN = [250, 500, 1000, 2000]; // ms until the next try to connect

/** @type {WebSocket | undefined} */
let socket;
/** @type {MessagePort | undefined} */
let worklet;
let settings = { where: "", rate: 0, block: 0, lead: 0, largest: Infinity, points: Infinity };
let tries = 0;
let closed = false; // by the page

/** What is played. run: 0 for nothing; position: samples that were heard, asked: that the server was asked for. */
let voice = { run: 0, position: 0, asked: 0, limit: Infinity, recording: false };
/** @type {{limit: number, recording: boolean} | null} what the next `started` begins */
let starting = null;
/** @type {string[]} pieces of a recording's CSV that have come */
let csv = [];
let kept = { first: 0, count: 0, blocks: /** @type {Float32Array[]} */ ([]) };
/** @type {{curves: {name: string, cells: Float64Array, steps: boolean}[], seconds: number, loop: boolean, origin: number, last: Record<string, number>} | null} */
let curves = null;

const tell = (message, transfer = []) => postMessage(message, { transfer });

function connect() {
  socket = openSocket(settings.where);
  socket.onopen = () => {
    tries = 0;
    csv = [];
    tell({ type: "link", up: true });
  };
  socket.onmessage = ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : receive(data));
  socket.onclose = () => {
    halt();
    if (closed) return;
    tell({ type: "link", up: false });
    setTimeout(connect, AGAIN[Math.min(tries++, AGAIN.length - 1)]);
  };
}

function send(message) {
  const isAwaited = message.type === "start" || message.type === "record";
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  else if (isAwaited) refuse(message.type, "The server is not there.");
}

/** A start; its curves before it, piece by piece, where they are too long for one message. */
function sendStart({ controls = {}, ...message }) {
  const drawn = Object.values(controls).reduce((sum, points) => sum + points.length, 0);
  const atOnce = Math.floor(settings.largest / POINT / 2); // and half a message for the rest
  if (drawn > settings.points) {
    refuse("start", `Its curves have ${drawn} points, and ${settings.points} may be played: play a shorter take.`);
  } else if (drawn <= atOnce) {
    send({ ...message, type: "start", controls });
  } else {
    for (const [name, points] of Object.entries(controls)) {
      for (let first = 0; first < points.length; first += atOnce) {
        send({ type: "curve", name, points: points.slice(first, first + atOnce) });
      }
    }
    send({ ...message, type: "start", drawn });
  }
}

/** Answer instead of the server. */
function refuse(to, sentence) {
  tell({ type: "error", to, message: sentence });
}

function halt() {
  voice = { ...voice, run: 0 };
  starting = null;
  curves = null;
  worklet?.postMessage({ halt: true });
}

/** What the server says. */
function hear(message) {
  if (message.type === "started" && starting) {
    voice = { run: message.run, position: 0, asked: 0, ...starting };
    kept = { first: 0, count: 0, blocks: [] };
    starting = null;
    worklet.postMessage({ run: voice.run, limit: voice.limit, lead: settings.lead });
    if (curves) beginCurves();
    demand();
  } else if (message.type === "set") {
    if (message.event && voice.run) worklet.postMessage({ event: message.event, sample: message.sample });
  } else if (message.type === "csv") {
    csv.push(message.text);
    return;
  } else if (message.type === "recorded") {
    const whole = csv.join("") + message.csv;
    csv = [];
    tell({ ...message, type: "take", csv: whole, samples: samples(0, Math.round(message.seconds * settings.rate)) });
    voice.recording = false; // not before, or its beginning might be gone
    return;
  }
  tell(message);
}

/** A block of sound: 16 bytes of header, then float32. */
function receive(data) {
  const [, run, first, count] = new Uint32Array(data, 0, 4);
  if (run !== voice.run) return; // of a run that was given up
  const block = new Float32Array(data, 16, count);
  kept.blocks.push(block.slice());
  kept.count += count;
  while (!voice.recording && kept.count - kept.blocks[0].length >= TAIL * settings.rate) {
    const gone = kept.blocks.shift().length;
    kept.first += gone;
    kept.count -= gone;
  }
  worklet.postMessage({ run, first, samples: block }, [data]);
}

/** Samples [first, stop) as far as they are kept. */
function samples(first, stop) {
  const whole = new Float32Array(kept.count);
  let at = 0;
  for (const block of kept.blocks) {
    whole.set(block, at);
    at += block.length;
  }
  return whole.slice(Math.max(0, first - kept.first), Math.max(0, stop - kept.first));
}

/** Ask for what lies ahead of the loudspeaker, whole blocks, each with the values that its curves have there. */
function demand() {
  const wanted = Math.min(voice.limit, voice.position + settings.lead);
  let until = voice.asked;
  while (until < wanted) {
    const values = curves && valuesAt(until);
    if (values) {
      if (until > voice.asked) send({ type: "more", until });
      send({ type: "set", event: 0, values });
      voice.asked = until;
    }
    until = Math.min(until + settings.block, voice.limit);
  }
  if (until > voice.asked) send({ type: "more", until });
  voice.asked = until;
}

function beginCurves() {
  curves.origin = voice.asked;
  tell({ type: "curves", origin: curves.origin });
}

/** What the curves set at a sample, or null where nothing changes. */
function valuesAt(sample) {
  const passed = (sample - curves.origin) / settings.rate / curves.seconds;
  const fraction = curves.loop ? passed % 1 : Math.min(1, passed);
  const { last } = curves;
  const changed = {};
  for (const { name, cells, steps } of curves.curves) {
    const value = readCells(cells, fraction, steps);
    if (last[name] !== value) changed[name] = last[name] = value;
  }
  if (!curves.loop && passed >= 1) {
    curves = null;
    tell({ type: "curves", ended: true });
  }
  return Object.keys(changed).length ? changed : null;
}

const answer = {
  open({ to, ...given }) {
    settings = given;
    connect();
  },
  worklet({ port }) {
    worklet = port;
    worklet.onmessage = ({ data }) => {
      if (data.run !== voice.run) return;
      voice.position = data.position;
      demand();
    };
  },
  start({ message, limit, recording, curves: drawn }) {
    halt();
    starting = { limit: limit ?? Infinity, recording };
    if (drawn) curves = { ...drawn, origin: 0, last: {} };
    sendStart(message);
  },
  stop() {
    halt();
    send({ type: "stop" });
  },
  set({ values, event }) {
    if (curves) curves.curves = curves.curves.filter(({ name }) => !(name in values)); // the hand wins at once
    if (voice.run) send({ type: "set", event, values });
  },
  takeOver({ checkpoint }) {
    send({ type: "take_over", checkpoint });
  },
  record() {
    send({ type: "record" });
  },
  curves({ drawn }) {
    const running = curves;
    curves = drawn && { ...drawn, origin: running?.origin ?? 0, last: {} };
    if (curves && !running && voice.run) beginCurves();
  },
  lead({ lead }) {
    settings.lead = lead;
    worklet?.postMessage({ lead });
    if (voice.run) demand(); // or a worklet that waits for more would wait for ever
  },
  received({ id }) {
    const sound = samples(0, Infinity);
    tell({ type: "received", id, run: voice.run, first: kept.first, samples: sound }, [sound.buffer]);
  },
  close() {
    closed = true;
    socket?.close();
  },
};

onmessage = ({ data }) => answer[data.to](data);
