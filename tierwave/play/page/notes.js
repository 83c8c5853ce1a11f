/**
 * Notes, from whatever keys they come, as values: pitch of one parameter, velocity of another. One note at a time, the
 * last one pressed; when it is let go the one before sounds again.
 */

import { hertzOf, inHertz, noteOf, valueAt } from "./units.js";

const SPREAD = [48, 72]; // the notes over which a parameter without a pitch is spread

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

export class Notes {
  /**
   * @param {import("./units.js").Parameter[]} parameters
   * @param {(name: string, value: number, event: Event) => void} turn
   */
  constructor(parameters, turn) {
    this.turn = turn;
    this.pitch = pitchOf(parameters);
    this.loudness = loudnessOf(parameters);
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
    if (velocity !== undefined && this.loudness) this.turn(this.loudness.name, valueAt(this.loudness, velocity), event);
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
    if (next !== undefined && next !== sounding) this.#sound(next, event);
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
