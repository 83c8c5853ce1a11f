/**
 * The page's side of the sound: starts and stops a voice, sets values, and reports how long they took to be heard.
 *
 * worker (WebSocket) --blocks--> worklet (ring) --> volume --> loudspeaker; what the scope shows is tapped before the
 * volume. Knows no element of the page.
 */

import { startWorker, whereSound, workletUrl } from "./server.js";

const FADE = 0.012; // seconds, so that start and stop do not click
const LATENCIES = 2000; // that are remembered

const ANSWERS = { start: "started", record: "take" }; // what is waited for, by what was sent

const SILENT = { position: 0, buffered: 0, underruns: 0 };

/**
 * @typedef {object} Start
 * @property {Record<string, number>} [values] of parameters
 * @property {number} [temperature]
 * @property {number | null} [top_k]
 * @property {number | null} [random_seed]
 * @property {string | null} [checkpoint]
 * @property {number} [blend] how much of the other run's weights is blended in, 0 to 1
 * @property {Record<string, [number, number][]>} [controls] curves, [seconds, value]
 * @property {boolean} [gestures] whether they were recorded, and give the same sound again
 */

/**
 * @typedef {object} Curves
 * @property {{name: string, cells: Float64Array, steps: boolean}[]} curves
 * @property {number} seconds
 * @property {boolean} loop
 */

/**
 * @typedef {object} Recorded
 * @property {string} csv
 * @property {Start} start what plays the same again, with the curves of the CSV
 * @property {number} random_seed
 * @property {number} seconds
 * @property {Float32Array} samples
 * @property {string[]} [remarks] why it does not play the same again
 */

/**
 * Events, each with its message as `detail`: link, started, stopped, ended, values, remarks, plays, pace, position, curves,
 * error.
 */
export class Player extends EventTarget {
  /** @param {{sample_rate: number, block: number, lead_seconds: number, largest_message: number, most_points: number}} run */
  constructor(run) {
    super();
    this.rate = run.sample_rate;
    this.block = run.block;
    this.lead = run.lead_seconds;
    this.playing = false;
    this.wanted = false; // false: what is being started is to be stopped
    /** samples that were heard in this run, that wait to be, and how often there were none. */
    this.position = SILENT;
    this.run = 0; // which of its runs the server plays
    /** @type {number[]} ms from an event to the first sample that carries its value, the newest last */
    this.latencies = [];
    this.events = 0;
    /** @type {Map<number, number>} Date.now() of the events that were not heard yet */
    this.waiting = new Map();
    /** @type {Map<string, (message: any) => void>} what answers are waited for */
    this.answers = new Map();
    this.worker = startWorker();
    this.worker.onmessage = ({ data }) => this.#hear(data);
    this.#tell("open", { where: whereSound(), rate: this.rate, block: this.block, lead: this.#leadSamples(), largest: run.largest_message, points: run.most_points });
  }

  #tell(to, message = {}, transfer = []) {
    this.worker.postMessage({ to, ...message }, transfer);
  }

  #leadSamples() {
    return Math.round(this.lead * this.rate);
  }

  /** The audio graph; only a gesture of the person at the page may make it sound. */
  async #prepare() {
    if (!this.source) {
      this.context ??= new AudioContext({ sampleRate: this.rate, latencyHint: "interactive" });
      if (!this.context.audioWorklet) {
        throw new Error("This browser gives sound to pages of its own machine and to https only: take a tunnel (docs/playing.md).");
      }
      await this.context.audioWorklet.addModule(workletUrl());
      this.source = new AudioWorkletNode(this.context, "tierwave-player", { numberOfInputs: 0 });
      this.source.port.onmessage = ({ data }) => this.#heard(data);
      this.fade = new GainNode(this.context, { gain: 0 });
      this.tap = new AnalyserNode(this.context, { fftSize: 2048 });
      this.volume = new GainNode(this.context, { gain: this.loudness });
      this.source.connect(this.fade).connect(this.tap).connect(this.volume).connect(this.context.destination);
      const channel = new MessageChannel();
      this.source.port.postMessage({ port: channel.port1 }, [channel.port1]);
      this.#tell("worklet", { port: channel.port2 }, [channel.port2]);
    }
    await this.context.resume();
  }

  loudness = 0.8;

  /** @param {number} gain 0 to 1 */
  setVolume(gain) {
    this.loudness = gain;
    this.volume?.gain.setTargetAtTime(gain, this.context.currentTime, FADE);
  }

  /** @param {number} seconds of sound that lie ready; more is safer, less answers sooner */
  setLead(seconds) {
    this.lead = seconds;
    this.#tell("lead", { lead: this.#leadSamples() });
  }

  /**
   * Begin a voice at sample 0.
   * @param {Start} asked
   * @param {{seconds?: number, recording?: boolean, curves?: Curves}} [how] seconds: where it ends by itself
   * @returns {Promise<any>} the server's `started`; rejected with its sentence. Where it was stopped meanwhile, nothing
   *   plays
   */
  start(asked, how = {}) {
    this.wanted = true;
    // One after the other: an answer must be that to the start that was sent last.
    this.begun = (this.begun ?? Promise.resolve()).catch(() => {}).then(() => this.#start(asked, how));
    return this.begun;
  }

  /** @param {Start} asked @param {{seconds?: number, recording?: boolean, curves?: Curves}} how */
  async #start(asked, { seconds, recording = false, curves }) {
    clearTimeout(this.stopping);
    await this.#prepare();
    const limit = seconds ? Math.max(1, Math.round(seconds * this.rate)) : undefined; // 0: it never ends
    this.waiting.clear();
    this.position = SILENT;
    this.run = 0;
    this.#tell("start", { message: asked, limit, recording, curves });
    let started;
    try {
      started = await this.#answer("started");
    } catch (error) {
      this.#end(); // what played before has ended too
      throw error;
    }
    if (!this.wanted) {
      this.#end();
      return started;
    }
    this.playing = true;
    this.run = started.run;
    this.#fadeTo(1);
    this.#emit("started", started);
    return started;
  }

  /** End the voice and free it on the server. */
  stop() {
    this.wanted = false;
    if (!this.playing) return;
    this.playing = false;
    this.#fadeTo(0);
    this.stopping = setTimeout(() => this.#end(), 4000 * FADE);
    this.#emit("stopped");
  }

  #end() {
    this.#tell("stop");
    this.context.suspend();
    if (!this.playing) return;
    this.playing = false;
    this.#emit("stopped");
  }

  /**
   * @param {Record<string, number>} values
   * @param {Event} [event] that asked for it: how long it takes to be heard is measured from there
   */
  set(values, event) {
    if (!this.playing) return;
    this.events += 1;
    this.waiting.set(this.events, Date.now() - (event ? performance.now() - event.timeStamp : 0));
    this.#tell("set", { values, event: this.events });
  }

  /** @param {number} share of the other run's weights, to which those that play move for a while */
  setBlend(share) {
    if (this.playing) this.#tell("set", { values: { blend: share }, event: 0 });
  }

  /** @param {string | null} checkpoint that the sound goes over to, null: the newest; `plays` or `error` tells of it */
  takeOver(checkpoint) {
    this.#tell("takeOver", { checkpoint });
  }

  /** @param {Curves | null} drawn play these from now on, or go on with these; null: end */
  setCurves(drawn) {
    this.#tell("curves", { drawn });
  }

  /** @returns {Promise<Recorded>} what was played since the start */
  record() {
    this.#tell("record");
    return this.#answer("take");
  }

  /** @returns {Promise<{run: number, first: number, samples: Float32Array}>} the last seconds that the server sent */
  received() {
    this.#tell("received");
    return this.#answer("received");
  }

  /** @returns {number} seconds from the worklet to the loudspeaker, as far as the browser knows */
  get outputSeconds() {
    return (this.context?.baseLatency ?? 0) + (this.context?.outputLatency ?? 0);
  }

  /** The page goes away. */
  close() {
    this.#tell("close");
  }

  #fadeTo(gain) {
    this.fade.gain.setTargetAtTime(gain, this.context.currentTime, FADE / 2);
  }

  #answer(type) {
    return new Promise((resolve, reject) => {
      this.answers.set(type, (message) => (message.type === type ? resolve(message) : reject(new Error(message.message))));
    });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #give(type, message) {
    const answer = this.answers.get(type);
    this.answers.delete(type);
    answer?.(message);
    return answer !== undefined;
  }

  /** What the worker says. */
  #hear(message) {
    if (message.type === "link") {
      if (!message.up) this.#lost();
      this.#emit("link", message);
    } else if (message.type === "error") {
      if (!this.#give(ANSWERS[message.to], message)) this.#emit("error", message);
    } else if (this.#give(message.type, message) || message.type === "stopped") {
      return;
    } else if (message.type === "set") {
      if (message.remarks.length) this.#emit("remarks", message);
    } else {
      this.#emit(message.type, message);
    }
  }

  #lost() {
    for (const type of [...this.answers.keys()]) this.#give(type, { message: "The server is gone." });
    if (!this.playing) return;
    this.playing = false;
    this.context.suspend();
    this.#emit("stopped");
  }

  /** What the worklet says. */
  #heard(message) {
    if (message.event) {
      const asked = this.waiting.get(message.event);
      this.waiting.delete(message.event);
      if (asked === undefined) return;
      this.latencies.push(message.time - asked);
      if (this.latencies.length > LATENCIES) this.latencies.shift();
    } else if (message.ended) {
      if (message.ended === this.run) this.#emit("ended");
    } else if (message.run === this.run) {
      this.position = message;
      this.#emit("position", message);
    }
  }
}
