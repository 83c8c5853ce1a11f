/** The controls of a sound while it is made: curves drawn beforehand, and values set live, as in `tierwave.controls.live`. */

import { allowed, bounded, normalised } from "./schema.js";
import { Track } from "./tracks.js";

const POINT_SECONDS = 0.004;
const LARGEST = 3.4028234663852886e38;
const LARGEST_WHOLE = 2 ** 31 - 1;

/** One control: drawn until the first ramp has begun, then ramps and what they lead to. */
class Control {
  /** @param {string} name @param {import("./schema.js").Parameter | null} parameter null: temperature or top_k @param {Track} drawn @param {boolean} averaged */
  constructor(name, parameter, drawn, averaged) {
    this.name = name;
    this.parameter = parameter;
    this.interp = parameter?.interp ?? (name === "top_k" ? "previous" : "linear");
    this.drawn = drawn;
    this.averaged = averaged;
    /** @type {{start: number, stop: number, old: number, next: number}[]} */
    this.ramps = [];
    this.readUntil = -Infinity; // seconds
  }

  /** @param {number | string} value @returns {number} what is set @throws {Error} a sentence */
  allowed(value) {
    if (this.parameter) return bounded(this.parameter, allowed(this.parameter, value));
    const number = Number(value);
    if (!(number >= 0 && number <= LARGEST)) throw new Error(`${this.name} is ${value}, and it must be 0 or more`);
    if (this.name === "top_k" && !(Number.isInteger(number) && number <= LARGEST_WHOLE)) {
      throw new Error(`top_k is ${value}, and it must be a whole number, 0 or more (0 switches it off)`);
    }
    return number;
  }

  get current() {
    return this.ramps.length ? this.ramps.at(-1).next : this.drawn.at(Math.max(0, this.readUntil), this.interp);
  }

  set(value, start, stop) {
    while (this.ramps.length && this.ramps.at(-1).start >= start) this.ramps.pop();
    const old = this.ramps.length ? this.ramps.at(-1).next : this.drawn.at(start, this.interp);
    if (!this.ramps.length || value !== old) this.ramps.push({ start, stop, old, next: value });
  }

  /** How many ramps begin before a time. */
  #begun(seconds) {
    let [low, high] = [0, this.ramps.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ramps[middle].start < seconds) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @returns {number[]} what the network sees at (first + i) / rate */
  seen(first, count, rate) {
    const [begin, end] = [first / rate, (first + count - 1) / rate];
    this.readUntil = Math.max(this.readUntil, end);
    const before = this.#begun(begin) - 1;
    const until = this.#begun(end) - 1;
    const see = (value) => (this.parameter ? normalised(this.parameter, bounded(this.parameter, Math.fround(value))) : Math.fround(value));
    const held = (value) => Array(count).fill(see(value));
    if (until < 0) return this.drawn.isConstant ? held(this.drawn.values[0]) : this.#drawn(first, count, rate).map(see);
    if (before === until && begin >= this.ramps[until].stop) return held(this.ramps[until].next);
    const moved = pointsOf(this.ramps.slice(Math.max(before, 0), until + 1)).resampled(first, count, rate, this.interp, false);
    if (before < 0 && !this.drawn.isConstant) {
      const here = moved.findIndex((_, index) => (first + index) / rate > this.ramps[0].start);
      const length = here < 0 ? count : here;
      moved.splice(0, length, ...this.#drawn(first, length, rate));
    }
    return moved.map(see);
  }

  #drawn(first, count, rate) {
    return this.drawn.resampled(first, count, rate, this.interp, this.averaged);
  }

  /** @returns {[number, number][]} the whole as points */
  recorded() {
    const drawn = this.drawn.times.map((time, index) => [time, this.drawn.values[index]]);
    if (!this.ramps.length) return /** @type {[number, number][]} */ (drawn);
    const played = this.ramps.flatMap(({ start, stop, old, next }) => [[start, old], [stop, next]]);
    const all = [...drawn.filter(([time]) => time <= this.ramps[0].start), ...played];
    const isNew = ([time, value], index) => !index || time > all[index - 1][0] || value !== all[index - 1][1];
    return /** @type {[number, number][]} */ (all.filter(isNew));
  }
}

function pointsOf(ramps) {
  return new Track(ramps.flatMap(({ start, stop }) => [start, stop]), ramps.flatMap(({ old, next }) => [old, next]));
}

export class Ramps {
  /**
   * @param {import("./schema.js").Parameter[]} parameters
   * @param {number} sampleRate
   * @param {Record<string, Track>} drawn of all parameters, of temperature and of top_k
   * @param {boolean} averaged
   */
  constructor(parameters, sampleRate, drawn, averaged) {
    this.sampleRate = sampleRate;
    this.point = Math.max(1, Math.round(POINT_SECONDS * sampleRate)); // samples
    /** @type {Map<string, Control>} */
    this.controls = new Map();
    const amounts = ["temperature", "top_k"].filter((name) => !parameters.some((each) => each.name === name));
    const kinds = [...parameters.map((each) => [each.name, each]), ...amounts.map((name) => [name, null])];
    for (const name of Object.keys(drawn)) {
      if (!kinds.some(([known]) => known === name)) throw new Error(`there is no control ${name}: there are ${kinds.map(([known]) => known).join(", ")}`);
    }
    for (const [name, parameter] of kinds) {
      const control = new Control(name, parameter, drawn[name], averaged && parameter !== null);
      const each = parameter?.category || drawn[name].isConstant ? new Set(drawn[name].values) : drawn[name].values;
      for (const value of each) control.allowed(value);
      this.controls.set(name, control);
    }
  }

  /** @param {string} name @returns {Control} @throws {Error} a sentence where there is none */
  of(name) {
    const control = this.controls.get(name);
    if (!control) throw new Error(`there is no ${name} to set: there are ${[...this.controls.keys()].join(", ")}`);
    return control;
  }

  /**
   * Set values from `position` on, the number of samples made so far.
   * @param {number} position @param {Record<string, number | string>} values
   * @returns {number} seconds by which all of them have arrived
   */
  set(position, values) {
    const wanted = Object.entries(values).map(([name, value]) => /** @type {const} */ ([this.of(name), this.of(name).allowed(value)]));
    let arrived = position / this.sampleRate;
    for (const [control, value] of wanted) {
      const point = this.#pointAfter(position, control.readUntil);
      control.set(value, this.#seconds(point), this.#seconds(point + 1));
      arrived = Math.max(arrived, this.#seconds(point + 1));
    }
    return arrived;
  }

  #seconds(point) {
    return (point * this.point) / this.sampleRate;
  }

  #pointAfter(position, seconds) {
    let point = Math.ceil(position / this.point);
    if (seconds > this.#seconds(point)) {
      point = Math.max(point, Math.floor((seconds * this.sampleRate) / this.point));
      while (this.#seconds(point) < seconds) point += 1;
    }
    return point;
  }
}
