/**
 * One sound while it is played: started, rendered, steered in between, recorded. The same sound as that of generate.py
 * with the same seed and int8 weights, up to the rounding of sums.
 *
 * A tier is a network on a timeline in seconds: its step k lies at k / rate, and a control of it comes from the person at
 * the page or from an earlier tier, as in `conditioning/cascade.py`; a SampleRNN is one tier.
 */

import { Network } from "./network.js";
import { Ramps } from "./ramps.js";
import { allowed, clipped, encode, lag } from "./schema.js";
import { Track } from "./tracks.js";

const EARLIER = 4; // steps of a tier before those that a lower tier reads, for interpolation
const LARGEST_SEED = 2 ** 31;

/**
 * @typedef {object} Sound what is played, as `webpage.py` describes it
 * @property {number} sample_rate
 * @property {string} checkpoint
 * @property {import("./schema.js").Parameter[]} parameters of all tiers
 * @property {string[]} steered names of those that come from the person
 * @property {TierAbout[]} tiers
 */

/**
 * @typedef {object} TierAbout
 * @property {number} rate Hz
 * @property {number} controls_ahead how many steps before a value lie the controls that lead to it
 * @property {string[]} generates names of controls; none: sound
 * @property {string[]} conditioned_on
 * @property {{size: number, encoding: "number" | "one_hot" | "sinusoids"}[]} encoders of these
 * @property {import("./schema.js").Lookback | null} lookback of a network whose last input is a control's lag
 * @property {number[]} amplitudes of its codes
 * @property {import("./network.js").About} network
 */

/** @typedef {{sound: Sound, weights: ArrayBuffer, engine: WebAssembly.Module}} Instrument */

class Tier {
  /** @param {Voice} voice @param {Instrument} instrument @param {number} index @param {number | null} topP */
  constructor(voice, { sound, weights, engine }, index, topP) {
    const about = sound.tiers[index];
    this.voice = voice;
    this.about = about;
    this.rate = about.rate;
    const last = sound.tiers.length - 1;
    const seed = BigInt(voice.seed) * (index === last ? 1n : 1_000_003n) + (index === last ? 0n : BigInt(index + 1));
    this.network = new Network(engine, about.network, weights, BigInt.asUintN(64, seed), topP ?? 1);
    this.parameters = about.generates.map((name) => sound.parameters.find((each) => each.name === name));
    this.isSound = about.generates.length === 0;
    this.generated = 0;
    /** @type {number[][]} of each feature its steps, normalised */
    this.steps = about.generates.map(() => []);
  }

  /** The next steps. @param {number} count @returns {Int32Array | Float32Array} */
  generate(count) {
    const { voice, about, generated: first } = this;
    const { inputs } = about.network;
    const controls = new Float32Array(count * inputs);
    let column = 0;
    about.conditioned_on.forEach((name, index) => {
      const values = voice.control(name, first - about.controls_ahead, count, this.rate);
      for (let step = 0; step < count; step++) encode(about.encoders[index], values[step], controls, step * inputs + column);
      column += about.encoders[index].size;
      if (index !== about.lookback?.column) return;
      for (let step = 0; step < count; step++) controls[(step + 1) * inputs - 1] = lag(about.lookback, values[step]);
    });
    const amount = (name) => voice.ramps.controls.get(name).seen(first, count, this.rate);
    const has = (name) => this.isSound && !voice.ramps.controls.get(name).parameter;
    const temperature = has("temperature") ? Float32Array.from(amount("temperature")) : new Float32Array(count).fill(voice.start.temperature);
    const topK = has("top_k") ? Int32Array.from(amount("top_k")) : new Int32Array(count).fill(this.isSound ? voice.start.top_k : 0);
    const made = this.network.run({ controls, temperature, topK });
    this.steps.forEach((steps, feature) => {
      for (let step = 0; step < count; step++) steps.push(made[step * this.steps.length + feature]);
    });
    this.generated += count;
    return made;
  }

  /** A generated control at (first + i) / rate. */
  read(name, first, count, rate) {
    const feature = this.about.generates.indexOf(name);
    const parameter = this.parameters[feature];
    const reach = Math.max(0, Math.ceil(((first + count - 1) / rate) * this.rate - 1e-9));
    if (reach >= this.generated) this.generate(reach + 1 - this.generated);
    const start = Math.max(0, Math.floor((first / rate) * this.rate) - EARLIER);
    const stop = Math.min(this.generated, Math.ceil(((first + count - 1) / rate) * this.rate) + 2);
    const values = this.steps[feature].slice(start, stop).map((value) => (parameter.outside === "allow" ? value : Math.min(1, Math.max(0, value))));
    const times = values.map((_, index) => (start + index) / this.rate);
    return new Track(times, values).resampled(first, count, rate, parameter.interp, true).map(Math.fround);
  }
}

export class Voice {
  /**
   * @param {Instrument} instrument
   * @param {any} start as `tierwave.play.protocol.Start`, and top_p
   * @throws {Error} a sentence, for what cannot be started
   */
  constructor(instrument, { random_seed, temperature = 0.75, top_k, top_p, values = {}, controls = {}, gestures = true }) {
    const { sound } = instrument;
    this.instrument = instrument;
    this.seed = random_seed ?? Math.floor(Math.random() * LARGEST_SEED);
    this.start = { temperature, top_k: top_k ?? 0, gestures };
    this.made = 0; // samples
    this.parameters = sound.steered.map((name) => sound.parameters.find((each) => each.name === name));
    const first = Object.fromEntries(this.parameters.map(({ name, initial }) => [name, initial]));
    const amounts = { temperature, top_k: top_k ?? 0 };
    /** @type {Record<string, Track>} */
    const drawn = {};
    for (const [name, value] of Object.entries({ ...amounts, ...first, ...values })) {
      const parameter = this.parameters.find((each) => each.name === name);
      drawn[name] = new Track([0], [parameter ? allowed(parameter, value) : Number(value)]);
    }
    for (const [name, points] of Object.entries(controls)) drawn[name] = new Track(points.map(([time]) => time), points.map(([, value]) => value));
    this.ramps = new Ramps(this.parameters, sound.sample_rate, drawn, !gestures);
    this.remarks = this.#clipped(Object.fromEntries(Object.entries(drawn).map(([name, track]) => [name, track.values])));
    this.tiers = sound.tiers.map((_, index) => new Tier(this, instrument, index, top_p));
    this.last = this.tiers.at(-1);
  }

  #clipped(values) {
    return this.parameters.map((each) => (each.name in values ? clipped(each, values[each.name]) : "")).filter(Boolean);
  }

  /** What the networks see of a control at (first + i) / rate. */
  control(name, first, count, rate) {
    if (this.instrument.sound.steered.includes(name)) return this.ramps.of(name).seen(first, count, rate);
    return this.tiers.find(({ about }) => about.generates.includes(name)).read(name, first, count, rate);
  }

  /** @param {number} samples @returns {Float32Array} the next ones */
  render(samples) {
    const { amplitudes } = this.last.about;
    const sound = Float32Array.from(this.last.generate(samples), (code) => amplitudes[code]);
    this.made += samples;
    return sound;
  }

  /** @param {Record<string, number | string>} values @returns {{sample: number, values: Record<string, number>, remarks: string[]}} */
  set(values) {
    const arrived = this.ramps.set(this.made, values);
    return {
      sample: Math.ceil(arrived * this.instrument.sound.sample_rate - 1e-6),
      values: Object.fromEntries(Object.keys(values).map((name) => [name, this.ramps.of(name).current])),
      remarks: this.#clipped(Object.fromEntries(Object.entries(values).map(([name, value]) => [name, [Number(value)]]))),
    };
  }

  /** @returns {any} what was played, as a CSV and as the message that starts it again */
  record() {
    const { sample_rate, checkpoint } = this.instrument.sound;
    const { temperature, top_k, gestures } = this.start;
    const seconds = this.made / sample_rate;
    const about = { gestures, sample_rate, random_seed: this.seed, seconds, checkpoint, temperature, top_k };
    const quoted = (text) => (/[",;\t\r\n]|^ | $/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const rows = [`#meta,${quoted(JSON.stringify(about))}`, "name,time,value"];
    for (const control of this.ramps.controls.values()) {
      for (const [time, value] of control.recorded()) rows.push(`${quoted(control.name)},${time},${value}`);
    }
    return {
      csv: `${rows.join("\n")}\n`, random_seed: this.seed, seconds,
      start: { type: "start", temperature, top_k, gestures, checkpoint, random_seed: this.seed },
    };
  }
}
