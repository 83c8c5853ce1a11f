/** What is heard, as it is heard: waveform and spectrogram, drawn only while it sounds. */

import { byId, colour, fitted } from "./elements.js";
import { Axis, WINDOW, decibels, hertzText, palette } from "./spectrum.js";

const WAVE_SECONDS = 0.03;
const FRAME_MS = 30; // between two pictures: smooth enough, and half the work of drawing at the screen's rate
const COLUMN_SECONDS = 0.0125; // of the spectrogram, so that it runs at the same speed on every screen

export class Scope {
  /** @param {import("./player.js").Player} player */
  constructor(player) {
    this.player = player;
    this.samples = new Float32Array(WINDOW);
    this.wave = byId("wave");
    this.picture = byId("spectrogram");
    this.axis = byId("spectrogram-axis");
    this.next = 0; // seconds on the audio clock of the next column
    this.drawn = 0; // ms, when the last picture was
    this.#theme();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#theme();
      this.#clear();
    });
    new ResizeObserver(() => this.#clear()).observe(this.picture);
    player.addEventListener("started", () => {
      this.next = player.context.currentTime;
      this.running ??= requestAnimationFrame((now) => this.#frame(now));
    });
  }

  /** Colours are asked for once: that makes the browser work out all styles. */
  #theme() {
    this.colours = palette();
    this.line = colour("--line");
    this.ink = colour("--accent");
  }

  #clear() {
    fitted(this.picture);
    fitted(this.wave);
    const { width, height } = this.picture;
    const paper = this.picture.getContext("2d");
    paper.fillStyle = `rgb(${this.colours.slice(0, 3).join()})`;
    paper.fillRect(0, 0, width, height);
    this.rows = new Axis(this.player.rate, height);
    this.#label();
    this.#drawWave();
  }

  #label() {
    fitted(this.axis);
    const pen = this.axis.getContext("2d");
    const unit = this.axis.width / (this.axis.clientWidth || this.axis.width);
    pen.clearRect(0, 0, this.axis.width, this.axis.height);
    pen.font = `${10 * unit}px ${getComputedStyle(this.axis).fontFamily}`;
    pen.fillStyle = colour("--faint");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const hertz of this.rows.marks()) pen.fillText(hertzText(hertz), this.axis.width - 5 * unit, this.rows.row(hertz));
  }

  #frame(now) {
    this.running = undefined;
    if (!this.player.playing) return;
    this.running = requestAnimationFrame((next) => this.#frame(next));
    if (now - this.drawn < FRAME_MS) return;
    this.drawn = now;
    this.player.tap.getFloatTimeDomainData(this.samples);
    this.#drawWave();
    this.#drawColumns();
  }

  /** From a rising zero crossing on, so that a steady tone stands still. */
  #drawWave() {
    const { width, height } = this.wave;
    const count = Math.min(WINDOW / 2, Math.round(WAVE_SECONDS * this.player.rate));
    let start = 1;
    while (start < WINDOW - count && !(this.samples[start - 1] <= 0 && this.samples[start] > 0)) start++;
    if (start === WINDOW - count) start = 0;
    const pen = this.wave.getContext("2d");
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = this.line;
    pen.fillRect(0, height / 2, width, 1);
    pen.strokeStyle = this.ink;
    pen.lineWidth = 1.5 * (window.devicePixelRatio || 1);
    pen.lineJoin = "round";
    pen.beginPath();
    for (let n = 0; n < count; n++) pen.lineTo((n / (count - 1)) * width, height * (0.5 - 0.48 * this.samples[start + n]));
    pen.stroke();
  }

  #drawColumns() {
    const now = this.player.context.currentTime;
    const count = Math.min(this.picture.width, Math.floor((now - this.next) / COLUMN_SECONDS));
    if (count < 1) return;
    this.next += count * COLUMN_SECONDS;
    const { width, height } = this.picture;
    const pen = this.picture.getContext("2d");
    pen.drawImage(this.picture, -count, 0);
    const column = pen.createImageData(1, height);
    this.rows.paint(decibels(this.samples, 0), column.data, 0, 1, this.colours);
    for (let each = 1; each <= count; each++) pen.putImageData(column, width - each, 0);
  }
}
