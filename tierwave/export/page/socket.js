/**
 * In place of `tierwave/play/page/socket.js` in an exported page: what the server would say is said by this worker
 * itself, in the same words (`tierwave/play/protocol.py`).
 */

import { Voice } from "./voice.js";

const BLOCK = 256; // samples that are made at a time, between which something is set
const PACE_MS = 1000;
const TWAV = 0x56415754; // "TWAV", little-endian

class Socket {
  /** @param {import("./voice.js").Instrument} instrument */
  constructor(instrument) {
    this.instrument = instrument;
    this.readyState = WebSocket.OPEN;
    this.run = 0;
    this.until = 0;
    /** @type {Voice | null} */
    this.voice = null;
    // A message to ourselves lets those of the page come in between two blocks; a timer would wait for 4 ms.
    this.again = new MessageChannel();
    this.again.port1.onmessage = () => this.#play();
    this.isPlaying = false;
    setTimeout(() => this.onopen());
  }

  onopen = () => {};
  onclose = () => {};
  /** @param {{data: string | ArrayBuffer}} message */
  onmessage = (message) => {};

  close() {
    this.voice = null;
  }

  /** @param {string} text */
  send(text) {
    const { type, ...message } = JSON.parse(text);
    try {
      this.#do(type, message);
    } catch (error) {
      this.#say({ type: "error", to: type, message: error.message });
    }
  }

  #say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }

  #do(type, message) {
    const { voice } = this;
    if (type === "start") {
      this.voice = null;
      this.voice = new Voice(this.instrument, message);
      this.until = 0;
      this.run += 1;
      this.pace = { told: performance.now(), samples: 0, ms: 0, late: 0 };
      this.#say({ type: "started", run: this.run, random_seed: this.voice.seed, remarks: this.voice.remarks });
    } else if (type === "stop") {
      this.voice = null;
      this.#say({ type: "stopped" });
    } else if (!voice) {
      throw new Error(`nothing plays yet: send start before ${type}`);
    } else if (type === "more") {
      this.until = Math.max(this.until, message.until);
      if (!this.isPlaying) this.#play();
    } else if (type === "set") {
      this.#say({ type: "set", event: message.event, ...voice.set(message.values) });
    } else if (type === "record") {
      this.#say({ type: "recorded", ...voice.record() });
    }
  }

  #play() {
    const { voice, run, pace, instrument } = this;
    this.isPlaying = voice !== null && voice.made < this.until;
    if (!this.isPlaying) return;
    const first = voice.made;
    const count = Math.min(BLOCK, this.until - first);
    const began = performance.now();
    const samples = voice.render(count);
    const now = performance.now();
    const data = new ArrayBuffer(16 + 4 * count);
    new Uint32Array(data, 0, 4).set([TWAV, run, first % 2 ** 32, count]);
    new Float32Array(data, 16).set(samples);
    pace.samples += count;
    pace.ms += now - began;
    pace.late += Number(now - began > (1000 * count) / instrument.sound.sample_rate);
    this.again.port2.postMessage(null);
    this.onmessage({ data });
    if (now - pace.told < PACE_MS) return;
    pace.told = now;
    const speed = (1000 * pace.samples) / instrument.sound.sample_rate / pace.ms;
    this.#say({ type: "pace", speed, late_blocks: pace.late });
  }
}

/** @param {any} where the instrument @returns {any} what serves as a WebSocket */
export const openSocket = (where) => new Socket(where);
