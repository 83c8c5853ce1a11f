/**
 * Parameters as people read them: units, note names, and where a value lies on a slider.
 * Knows neither the page nor the server.
 */

/**
 * A parameter as GET /api/run tells it, in raw units; low to high is what was trained on.
 * @typedef {object} Parameter
 * @property {string} name
 * @property {string | null} units
 * @property {number} low
 * @property {number} high
 * @property {"linear" | "log" | "log1p"} scale
 * @property {"linear" | "previous"} interp
 * @property {"clip" | "allow" | "error"} outside
 * @property {boolean} category
 * @property {string[]} categories names of the values 0, 1, 2 ...
 * @property {number[]} values those that were trained on, as far as they are few
 * @property {number} initial
 * @property {string} [label] of what is no parameter of the network, such as the temperature: then nothing was trained
 * @property {boolean} [whole] whether it is a whole number
 * @property {string} [told] what stands below its slider
 */

const NOTES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
const SHORT = { hertz: "Hz", frequency: "Hz", seconds: "s", dB: "dB", cents: "cents", midiPitch: "MIDI" };
const MAPPED = { linear: (x) => x, log: Math.log, log1p: Math.log1p };
const UNMAPPED = { linear: (x) => x, log: Math.exp, log1p: Math.expm1 };
const BEYOND = 0.2; // of the range, where a parameter may leave it

/** @param {number} note MIDI note number, fractions allowed @returns {string} such as "A4" or "A4 −12 cents" */
export function noteName(note) {
  const nearest = Math.round(note);
  const cents = Math.round(100 * (note - nearest));
  const name = NOTES[((nearest % 12) + 12) % 12] + (Math.floor(nearest / 12) - 1);
  return cents ? `${name} ${cents > 0 ? "+" : "−"}${Math.abs(cents)} ¢` : name;
}

/** @param {number} hertz @returns {number} MIDI note number */
export const noteOf = (hertz) => 69 + 12 * Math.log2(hertz / 440);

/** @param {number} note @returns {number} hertz */
export const hertzOf = (note) => 440 * 2 ** ((note - 69) / 12);

/** @param {Parameter} parameter @returns {string} its unit as it stands behind a number */
export function unitText(parameter) {
  if (parameter.category || !parameter.units) return "";
  return SHORT[parameter.units] ?? parameter.units;
}

/** @param {Parameter} parameter @returns {boolean} whether its values are pitches in hertz */
export const inHertz = (parameter) => parameter.units === "hertz" || parameter.units === "frequency";

/** @param {Parameter} parameter @returns {number} digits behind the point that matter over its range */
function digits(parameter) {
  const range = Math.abs(parameter.high - parameter.low);
  return range > 0 ? Math.min(6, Math.max(0, 3 - Math.ceil(Math.log10(range)))) : 2;
}

/** @param {Parameter} parameter @param {number} value @returns {string} the bare number, or the category's name */
export function valueText(parameter, value) {
  if (parameter.category) return parameter.categories[value] ?? String(value);
  return String(Number(value.toFixed(digits(parameter))));
}

/** @param {Parameter} parameter @param {number} value @returns {string} what a reader of the number wants to know too */
export function noteText(parameter, value) {
  if (parameter.whole && value === 0) return "off";
  if (parameter.units === "midiPitch") return noteName(value);
  if (inHertz(parameter) && value > 0) return noteName(noteOf(value));
  return "";
}

/** @param {Parameter} parameter @param {number} value @returns {string} number, unit and note */
export function fullText(parameter, value) {
  return [valueText(parameter, value), unitText(parameter), noteText(parameter, value)].filter(Boolean).join(" ");
}

/** @param {Parameter} parameter @returns {[number, number]} what can be asked for; beyond low and high where it may */
export function reach(parameter) {
  if (parameter.category || parameter.outside !== "allow") return [parameter.low, parameter.high];
  const [start, stop] = [parameter.low, parameter.high].map(MAPPED[parameter.scale]);
  const more = BEYOND * (stop - start);
  return [UNMAPPED[parameter.scale](start - more), UNMAPPED[parameter.scale](stop + more)];
}

/** @param {Parameter} parameter @param {number} value @returns {number} where it lies on the slider, 0 to 1 */
export function positionOf(parameter, value) {
  const [start, stop, here] = [...reach(parameter), value].map(MAPPED[parameter.scale]);
  return stop === start ? 0 : Math.min(1, Math.max(0, (here - start) / (stop - start)));
}

/** @param {Parameter} parameter @param {number} position 0 to 1 @returns {number} the value there; the nearest category */
export function valueAt(parameter, position) {
  const [start, stop] = reach(parameter).map(MAPPED[parameter.scale]);
  const value = UNMAPPED[parameter.scale](start + Math.min(1, Math.max(0, position)) * (stop - start));
  return parameter.category ? nearest(choices(parameter), value) : parameter.whole ? Math.round(value) : value;
}

/** @param {Parameter} parameter @returns {number[]} the values of a category: those that occurred, as far as that is known */
export function choices({ categories, values }) {
  return values.length ? [...values].sort((a, b) => a - b) : categories.map((_, index) => index);
}

/** @param {Parameter} parameter @param {number} value @returns {number} the nearest value that can be asked for */
export function within(parameter, value) {
  if (parameter.category) return nearest(choices(parameter), value);
  const [low, high] = reach(parameter);
  const inside = Math.min(high, Math.max(low, value));
  return parameter.whole ? Math.round(inside) : inside;
}

/** @param {Parameter} parameter @param {number} value that was asked for @returns {string} what to say where another is taken; "" */
export function clippedText(parameter, value) {
  const taken = within(parameter, value);
  if (Math.abs(taken - value) <= 1e-6 * Math.max(1, Math.abs(value)) || (parameter.whole && taken === Math.round(value))) return "";
  const [low, high] = parameter.category ? [] : reach(parameter).map((end) => valueText(parameter, end));
  const range = parameter.category ? "is none of its values" : `lies outside the ${parameter.label ? "" : "trained "}range ${low} to ${high}`;
  const told = [Number(value.toPrecision(6)), unitText(parameter)].filter((word) => word !== "").join(" ");
  return `${parameter.label ?? parameter.name}: ${told} ${range}: ${fullText(parameter, taken)} is taken.`;
}

/** @param {number[]} values @param {number} value @returns {number} */
function nearest(values, value) {
  return values.reduce((best, each) => (Math.abs(each - value) < Math.abs(best - value) ? each : best));
}

/**
 * Break-points as generate.py's --control takes them: "64", "0:64, 1.5:76", or names of categories for values.
 * @param {Parameter} parameter
 * @param {string} text
 * @returns {[number, number][]} [seconds, value] as they are written, in order of time
 * @throws {Error} with a sentence
 */
export function parsePoints(parameter, text) {
  const points = text.split(",").filter((part) => part.trim()).map((part) => {
    const [, time, word] = /^(?:\s*([^:]*?)\s*:)?\s*(.*?)\s*$/.exec(part);
    const named = parameter.categories.indexOf(word);
    const value = named >= 0 ? named : Number(word);
    const seconds = time === undefined ? 0 : Number(time);
    if (word === "" || time === "" || !Number.isFinite(value) || !(seconds >= 0 && Number.isFinite(seconds))) {
      throw new Error(`"${part.trim()}" is no break-point: write seconds:value, such as 0:64, 1.5:76`);
    }
    return /** @type {[number, number]} */ ([seconds, value]);
  });
  if (!points.length) throw new Error("There is no break-point: write seconds:value, such as 0:64, 1.5:76");
  if (points.some(([seconds], index) => index && seconds < points[index - 1][0])) {
    throw new Error("The times of the break-points must not fall");
  }
  return points;
}

/** @param {Parameter} parameter @param {[number, number][]} points @returns {string} what `parsePoints` reads */
export function pointsText(parameter, points) {
  return points.map(([seconds, value]) => `${Number(seconds.toFixed(3))}:${valueText(parameter, value)}`).join(", ");
}

/** @param {number} seconds @returns {string} such as "1:05.3" */
export function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

/** @param {{name: string, label: string}[]} checkpoints @param {string} name of one, which may be gone @returns {string} */
export const labelOf = (checkpoints, name) => checkpoints.find((each) => each.name === name)?.label ?? name;
