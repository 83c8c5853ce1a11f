/** The spectrum of a few samples, and colours for it; the same for the live picture and for finished sounds. */

import { colour } from "./elements.js";

export const WINDOW = 2048; // samples
const FLOOR = -90; // dB below full scale that are still shown
const CEILING = -15; // of one sinusoid; music has many
const LOWEST = 40; // Hz, at the foot of the picture

const HANN = Float64Array.from({ length: WINDOW }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW));
const COSINES = Float64Array.from({ length: WINDOW / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / WINDOW));
const SINES = Float64Array.from({ length: WINDOW / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / WINDOW));
const REVERSED = reversedBits();
const real = new Float64Array(WINDOW);
const imaginary = new Float64Array(WINDOW);

function reversedBits() {
  const bits = Math.log2(WINDOW);
  return Uint16Array.from({ length: WINDOW }, (_, n) => {
    let reversed = 0;
    for (let bit = 0; bit < bits; bit++) reversed |= ((n >> bit) & 1) << (bits - 1 - bit);
    return reversed;
  });
}

/** The discrete Fourier transform in place (Cooley & Tukey 1965, radix 2); input in order of reversed bits. */
function transform() {
  for (let size = 2; size <= WINDOW; size *= 2) {
    const [half, stride] = [size / 2, WINDOW / size];
    for (let start = 0; start < WINDOW; start += size) {
      for (let k = 0; k < half; k++) {
        const [even, odd] = [start + k, start + k + half];
        const [c, s] = [COSINES[k * stride], SINES[k * stride]];
        const re = real[odd] * c - imaginary[odd] * s;
        const im = real[odd] * s + imaginary[odd] * c;
        real[odd] = real[even] - re;
        imaginary[odd] = imaginary[even] - im;
        real[even] += re;
        imaginary[even] += im;
      }
    }
  }
}

/**
 * @param {Float32Array} samples
 * @param {number} start the window's first sample; what lies outside of `samples` is silence
 * @returns {Float64Array} dB of the bins 0 to WINDOW / 2; a full-scale sinusoid has 0
 */
export function decibels(samples, start) {
  for (let n = 0; n < WINDOW; n++) {
    const from = REVERSED[n];
    real[n] = HANN[from] * (samples[start + from] ?? 0);
    imaginary[n] = 0;
  }
  transform();
  const scale = 4 / WINDOW; // of half the spectrum, and of the window's mean
  return Float64Array.from({ length: WINDOW / 2 + 1 }, (_, k) => 20 * Math.log10(scale * Math.hypot(real[k], imaginary[k]) + 1e-9));
}

/** Where frequencies stand in a picture: logarithmically from LOWEST to half the sample rate. */
export class Axis {
  /** @param {number} rate in Hz @param {number} rows pixels */
  constructor(rate, rows) {
    this.rows = rows;
    this.octaves = Math.log2(rate / 2 / LOWEST);
    const bins = Array.from({ length: rows + 1 }, (_, row) => (this.hertz(row) * WINDOW) / rate);
    /** the bins, fractions of them too, between which every row lies */
    this.spans = Array.from({ length: rows }, (_, row) => [bins[row + 1], bins[row]]);
  }

  /** @param {number} row from the top @returns {number} */
  hertz(row) {
    return LOWEST * 2 ** (this.octaves * (1 - row / this.rows));
  }

  /** @param {number} hertz @returns {number} row from the top */
  row(hertz) {
    return this.rows * (1 - Math.log2(hertz / LOWEST) / this.octaves);
  }

  /** @returns {number[]} the frequencies to write at the axis */
  marks() {
    return [100, 200, 500, 1000, 2000, 5000, 10000, 20000].filter((hertz) => this.row(hertz) > 12);
  }

  /**
   * One column of a spectrogram.
   * @param {Float64Array} spectrum as `decibels` gives it
   * @param {Uint8ClampedArray} pixels RGBA of a picture of `width` columns
   * @param {number} column
   * @param {number} width
   * @param {Uint8Array} palette
   */
  paint(spectrum, pixels, column, width, palette) {
    this.spans.forEach(([from, to], row) => {
      let level = -Infinity;
      if (to - from < 1) {
        const [bin, part] = [Math.floor(from), from - Math.floor(from)];
        level = spectrum[bin] + part * ((spectrum[bin + 1] ?? spectrum[bin]) - spectrum[bin]);
      } else {
        for (let bin = Math.floor(from); bin < to; bin++) level = Math.max(level, spectrum[bin]);
      }
      const shade = 3 * Math.round(255 * Math.min(1, Math.max(0, (level - FLOOR) / (CEILING - FLOOR))));
      pixels.set([palette[shade], palette[shade + 1], palette[shade + 2], 255], 4 * (row * width + column));
    });
  }
}

/** @returns {Uint8Array} 256 colours from silence to loud, as the theme has it */
export function palette() {
  const stops = colour("--heat").split(/\s+/).map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Uint8Array.from({ length: 256 * 3 }, (_, index) => {
    const place = (Math.floor(index / 3) / 255) * (stops.length - 1);
    const stop = Math.min(stops.length - 2, Math.floor(place));
    const [from, to] = [stops[stop][index % 3], stops[stop + 1][index % 3]];
    return Math.round(from + (place - stop) * (to - from));
  });
}

/** @param {number} hertz @returns {string} as short as an axis wants it */
export const hertzText = (hertz) => (hertz < 1000 ? `${hertz}` : `${hertz / 1000}k`);
