/**
 * What controls mean, and how their values become a network's inputs, as in `tierwave.controls.schema` and, of a pitch by
 * which a network looks back, in `tierwave.audio.lookback`.
 */

const ROUNDING = 1e-6;
const SHORTEST = 8; // samples; of a shorter period several make a lag
const MAPPED = { linear: (x) => x, log: Math.log, log1p: Math.log1p };
const ABOVE = { linear: -Infinity, log: 0, log1p: -1 };

/**
 * @typedef {object} Parameter
 * @property {string} name
 * @property {number} lo the raw value that the network sees as 0
 * @property {number} hi that it sees as 1
 * @property {"linear" | "log" | "log1p"} scale
 * @property {"linear" | "previous"} interp
 * @property {"clip" | "allow" | "error"} outside
 * @property {boolean} category
 * @property {string[]} categories
 * @property {number[]} values that were trained on, as far as that is known
 * @property {number} initial
 */

const short = (value) => String(Number(value.toPrecision(6)));

/** @param {Parameter} parameter @returns {[number, number, number]} the ends of the range, and what rounding may add */
function endsOf({ lo, hi }) {
  const [low, high] = [Math.min(lo, hi), Math.max(lo, hi)];
  return [low, high, ROUNDING * Math.max(Math.abs(low), Math.abs(high), high - low)];
}

const isBeyond = (parameter, value) => {
  const [low, high, slack] = endsOf(parameter);
  return !(value >= low - slack && value <= high + slack);
};

/** @param {Parameter} parameter @param {number} value @returns {number} within the range, where nothing else is allowed */
export function bounded(parameter, value) {
  const [low, high] = endsOf(parameter);
  return parameter.outside === "allow" && low < high ? value : Math.min(high, Math.max(low, value));
}

/** @param {Parameter} parameter @param {number} value raw @returns {number} as the network sees it */
export function normalised(parameter, value) {
  const { lo, hi, scale, outside } = parameter;
  if (lo === hi) return 0;
  const [low, high] = endsOf(parameter);
  const inside = outside === "allow" && isBeyond(parameter, value) ? value : Math.min(high, Math.max(low, value));
  const [start, stop, here] = [lo, hi, inside].map(MAPPED[scale]);
  return Math.fround((here - start) / (stop - start));
}

/**
 * @param {Parameter} parameter
 * @param {number | string} value raw, or the name of a category
 * @returns {number}
 * @throws {Error} a sentence, for a value that is not allowed
 */
export function allowed(parameter, value) {
  const { name, categories, values, outside, scale } = parameter;
  const [low, high] = endsOf(parameter);
  const number = categories.includes(/** @type {string} */ (value)) ? categories.indexOf(/** @type {string} */ (value)) : Number(value);
  if (!Number.isFinite(number)) throw new Error(`${name} is ${value}: give a number${categories.length ? ` or one of ${categories.join(", ")}` : ""}`);
  if (parameter.category && values.length && !values.some((seen) => Math.abs(seen - number) <= 1e-8 + 1e-5 * Math.abs(number))) {
    const known = values.map((seen) => categories[seen] ?? short(seen)).join(", ");
    throw new Error(`${name} is ${categories[number] ?? short(number)}, which never occurred in training; give one of ${known}`);
  }
  if (isBeyond(parameter, number) && (low === high || outside === "error")) {
    throw new Error(`${name} is ${short(number)}, and it must lie within ${short(low)} to ${short(high)}`);
  }
  if (outside === "allow" && number <= ABOVE[scale]) throw new Error(`${name}: ${short(number)} has no place on a ${scale} scale: give more`);
  return number;
}

/** @param {Parameter} parameter @param {number[]} values @returns {string} a sentence where some are clipped; "" */
export function clipped(parameter, values) {
  const worst = values.find((value) => isBeyond(parameter, value));
  if (worst === undefined || parameter.outside !== "clip") return "";
  const [low, high] = endsOf(parameter);
  return `${parameter.name}: ${short(worst)} lies outside the trained range ${short(low)} to ${short(high)}: clipped.`;
}

const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/**
 * @param {{size: number, encoding: "number" | "one_hot" | "sinusoids"}} inputs
 * @param {number} value 0 to 1
 * @param {Float32Array} target takes it from `at` on
 * @param {number} at
 */
export function encode({ size, encoding }, value, target, at) {
  if (encoding === "one_hot") {
    const chosen = even(Math.fround(value * (size - 1)));
    for (let index = 0; index < size; index++) target[at + index] = Number(index === chosen);
    return;
  }
  target[at] = value;
  const waves = size >> 1;
  for (let wave = 0; wave < waves; wave++) {
    const phase = Math.fround(value * Math.fround(Math.PI * 2 ** wave));
    target[at + 1 + wave] = Math.sin(phase);
    target[at + 1 + waves + wave] = 1 - Math.fround(Math.cos(phase));
  }
}

/**
 * @typedef {object} Lookback by which control a network looks back, and how far
 * @property {number} column of the control among those of its tier
 * @property {number} period in samples, where the control is 0
 * @property {number} octaves from there to where it is 1
 * @property {number} limit the longest lag in samples
 */

/**
 * @param {Lookback} lookback
 * @param {number} value of its control, 0 to 1
 * @returns {number} the lag in samples; 0 where nothing is looked up
 */
export function lag({ period, octaves, limit }, value) {
  const one = period * 2 ** (-octaves * value);
  const found = one * Math.max(1, Math.ceil(SHORTEST / one));
  return found > limit ? 0 : Math.fround(found);
}
