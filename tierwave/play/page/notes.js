/**
 * Notes, from whatever keys they come, as values: pitch of one parameter, velocity of another. One note at a time, the
 * last one pressed; when it is let go the one before sounds again, and without one before loudness falls.
 */

import { hertzOf, inHertz, noteOf, positionOf, valueAt } from "./units.js";

const SPREAD = [48, 72]; // the notes over which a parameter without a pitch is spread
const RELEASE_MS = 60; // in which loudness falls
const RELEASE_STEPS = 5; // between which the network's own ramps lie

/** @param {import("./units.js").Parameter[]} parameters @returns {import("./units.js").Parameter | undefined} what keys play unless told otherwise */
export function pitchOf(parameters) {
  const free = parameters.filter((parameter) => !parameter.category && parameter.low !== parameter.high);
  return (
    free.find(({ units }) => units === "midiPitch") ??
    free.find((parameter) => inHertz(parameter) && /pitch|f0|freq|fundamental/i.test(parameter.name)) ??
    free.find(({ name }) => /^(p|pitch|note|midi|f0)$/i.test(name))
  );
}

/** @param {import("./units.js").Parameter[]} parameters @returns {import("./units.js").Parameter | undefined} what velocity plays */
export function loudnessOf(parameters) {
  const free = parameters.filter((parameter) => !parameter.category && parameter.low !== parameter.high);
  return (
    free.find(({ units }) => units === "velocity" || units === "amplitude") ??
    free.find(({ name, units }) => units === "dB" || units === "energy" || /^(a|amp|amplitude|level|loudness|rmse?|volume|velocity)$/i.test(name))
  );
}

/** @param {import("./units.js").Parameter} parameter @param {number} note @returns {number} */
export function valueOfNote(parameter, note) {
  if (inHertz(parameter)) return hertzOf(note);
  if (playsNotes(parameter)) return note;
  return valueAt(parameter, (note - SPREAD[0]) / (SPREAD[1] - SPREAD[0]));
}

/** @param {import("./units.js").Parameter} parameter @returns {boolean} whether a note has a pitch of its own there */
export function playsNotes(parameter) {
  const numbered = /^(p|pitch|note|midi)$/i.test(parameter.name) && !parameter.units && parameter.low >= 0 && parameter.high <= 127;
  return parameter.units === "midiPitch" || numbered || inHertz(parameter);
}

/** @param {import("./units.js").Parameter} parameter @returns {[number, number]} the notes that were trained on */
export function notesOf(parameter) {
  if (!playsNotes(parameter)) return [SPREAD[0], SPREAD[1]];
  const ends = [parameter.low, parameter.high];
  const [low, high] = inHertz(parameter) ? ends.map((hertz) => noteOf(Math.max(hertz, 8))) : ends;
  return [Math.ceil(low - 0.01), Math.floor(high + 0.01)];
}

/**
 * Sliders as notes move them.
 * @typedef {object} Sliders
 * @property {(name: string, value: number, event: Event) => void} turn
 * @property {(name: string) => number} value where one stands
 * @property {(name: string) => boolean} drawn whether a curve moves it, which a released key leaves alone
 */

/** Loudness that falls when no key is held, and comes back with the next one. */
export class Gate {
  /** @param {import("./units.js").Parameter} parameter @param {Sliders} sliders */
  constructor(parameter, sliders) {
    this.parameter = parameter;
    this.sliders = sliders;
    this.used = true;
    /** @type {number | null} where the slider stood when it was closed; null: it is open */
    this.level = null;
    this.told = NaN; // where it has put the slider
  }

  /** @param {boolean} on whether it closes; off: it opens, for good @param {Event} event */
  use(on, event) {
    this.used = on;
    if (!on) this.open(event);
  }

  /** @param {Event} event */
  close(event) {
    const stood = this.sliders.value(this.parameter.name);
    if (!this.used || this.level !== null || this.sliders.drawn(this.parameter.name)) return;
    this.level = stood;
    this.#fall(1, event);
  }

  /** @param {Event} event @param {number} [level] where to; otherwise where it stood, unless it was moved meanwhile */
  open(event, level) {
    const moved = !this.#untouched();
    const stood = level ?? (moved ? null : this.level);
    clearTimeout(this.falling);
    this.level = null;
    if (stood !== null) this.sliders.turn(this.parameter.name, stood, event);
  }

  #untouched() {
    return this.sliders.value(this.parameter.name) === this.told;
  }

  #fall(step, event) {
    const [low, high] = [this.parameter.low, this.level].map((value) => positionOf(this.parameter, value));
    const position = low + (high - low) * (1 - step / RELEASE_STEPS);
    this.sliders.turn(this.parameter.name, valueAt(this.parameter, position), event);
    this.told = this.sliders.value(this.parameter.name);
    if (step === RELEASE_STEPS) return;
    this.falling = setTimeout(() => this.#untouched() && this.#fall(step + 1, new Event("release")), RELEASE_MS / RELEASE_STEPS);
  }
}

export class Notes {
  /**
   * @param {import("./units.js").Parameter[]} parameters
   * @param {Sliders} sliders
   */
  constructor(parameters, sliders) {
    this.turn = sliders.turn;
    this.pitch = pitchOf(parameters);
    this.loudness = loudnessOf(parameters);
    this.gate = this.loudness && new Gate(this.loudness, sliders);
    /** @type {number[]} */
    this.held = [];
    this.bent = 0; // semitones
    this.pedal = false; // whether notes that are let go are held
    /** @type {Set<number>} those that the pedal holds */
    this.waiting = new Set();
    /** @type {(() => void)[]} called when what is held changes */
    this.listeners = [];
  }

  /** @param {number} note @param {number | undefined} velocity 0 to 1 @param {Event} event */
  press(note, velocity, event) {
    if (!this.pitch) return;
    this.waiting.delete(note);
    this.held = [...this.held.filter((each) => each !== note), note];
    if (this.loudness !== this.pitch) this.gate?.open(event, velocity === undefined ? undefined : valueAt(this.loudness, velocity));
    this.#sound(note, event);
    this.#tell();
  }

  /** @param {number} note @param {Event} event */
  release(note, event) {
    if (!this.held.includes(note)) return;
    if (this.pedal) {
      this.waiting.add(note);
      return;
    }
    const sounding = this.held.at(-1);
    this.held = this.held.filter((each) => each !== note);
    const next = this.held.at(-1);
    if (next === undefined && this.loudness !== this.pitch) this.gate?.close(event);
    else if (next !== undefined && next !== sounding) this.#sound(next, event);
    this.#tell();
  }

  /** @param {number} semitones that all notes are off, until it is bent again @param {Event} event */
  bend(semitones, event) {
    this.bent = semitones;
    if (this.last !== undefined) this.#sound(this.last, event);
  }

  /** @param {boolean} down whether notes that are let go sound on @param {Event} event */
  sustain(down, event) {
    this.pedal = down;
    if (down) return;
    for (const note of [...this.waiting]) this.release(note, event);
    this.waiting.clear();
  }

  #sound(note, event) {
    this.last = note;
    if (this.pitch) this.turn(this.pitch.name, valueOfNote(this.pitch, note + this.bent), event);
  }

  #tell() {
    for (const listener of this.listeners) listener();
  }
}
