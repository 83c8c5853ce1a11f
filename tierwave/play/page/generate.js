/**
 * Whole sounds, or curves of a run that makes those: ask the server, look, listen, and put checkpoints side by side.
 */

import { byId, colour, download, element, fitted } from "./elements.js";
import { askSound } from "./server.js";
import { Axis, WINDOW, decibels, palette } from "./spectrum.js";
import { clock, labelOf } from "./units.js";

const AMOUNTS = ["seconds", "temperature", "top_k", "top_p", "bias"]; // fields of the form that are numbers

export class Generator {
  /**
   * @param {any} run what GET /api/run tells
   * @param {(sentence: string) => void} say
   * @param {() => object} steered what the sliders say, as fields of the order
   */
  constructor(run, say, steered) {
    this.run = run;
    this.say = say;
    this.steered = steered;
    /** @type {AbortController | null} */
    this.asking = null;
    /** @type {AudioContext | undefined} */
    this.context = undefined;
    /** @type {(() => void) | null} ends the sound that is heard */
    this.silence = null;
    /** @type {HTMLElement | null} the button that began it */
    this.heard = null;
    const takes = ["seconds", "temperature", ...run.takes];
    for (const name of AMOUNTS) byId(`for-${name}`).hidden = !takes.includes(name);
    byId("for-text").hidden = !run.reads_text;
    byId("generate-temperature").value = String(run.kind === "spectrogram" ? 1 : run.temperature.initial);
    byId("with-sliders").hidden = !run.parameters.length;
    this.#checkpoints();
    byId("order").onsubmit = (event) => {
      event.preventDefault();
      if (this.asking) this.asking.abort();
      else this.#generate();
    };
  }

  /** The newest is chosen, and the best beside it if it is another. */
  #checkpoints() {
    const { checkpoints, checkpoint } = this.run;
    this.#list((name) => name === checkpoint || checkpoints.some((each) => each.name === name && each.best));
  }

  /** The run has other checkpoints now; those that were chosen still are. */
  list() {
    const chosen = this.#chosen();
    this.#list((name) => chosen.includes(name));
  }

  #list(isChosen) {
    const [legend] = byId("checkpoints").children;
    byId("checkpoints").replaceChildren(legend, ...this.run.checkpoints.map(({ name, label }) => {
      return element("label", {}, element("input", { type: "checkbox", value: name, checked: isChosen(name) }), label);
    }));
  }

  /** @returns {string[]} names of checkpoints */
  #chosen() {
    return [...byId("checkpoints").querySelectorAll("input:checked")].map(({ value }) => value);
  }

  #order() {
    const order = { ...this.steered() };
    for (const name of AMOUNTS) {
      const value = byId(`generate-${name}`).valueAsNumber;
      if (!byId(`for-${name}`).hidden && Number.isFinite(value)) order[name] = value;
    }
    const text = byId("generate-text").value.trim();
    if (!byId("for-text").hidden && text) order.text = text;
    const seed = byId("generate-seed").valueAsNumber;
    order.random_seed = seed >= 0 ? Math.floor(seed) : crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
    return order;
  }

  async #generate() {
    const chosen = this.#chosen();
    if (!chosen.length) {
      this.say("Choose a checkpoint first.");
      return;
    }
    const order = this.#order();
    const row = element("div", { class: "results" });
    byId("results").prepend(row);
    this.asking = new AbortController();
    byId("generate-go").textContent = "Cancel";
    try {
      for (const checkpoint of chosen) {
        const label = labelOf(this.run.checkpoints, checkpoint);
        this.say(`Generating with ${label} …`);
        const result = await this.#made({ ...order, checkpoint }, label);
        result.append(this.#remove(result, label));
        row.append(result);
      }
      this.say("Done.");
    } catch (error) {
      this.say(error.name === "AbortError" ? "Cancelled." : error.message);
    }
    if (!row.children.length) row.remove();
    this.asking = null;
    byId("generate-go").textContent = "Generate";
  }

  /** A button to take a result away. */
  #remove(result, label) {
    const button = element("button", { type: "button", class: "remove", "aria-label": `Remove the result of ${label}` }, "×");
    button.onclick = () => {
      const row = result.parentElement;
      if (result.contains(this.heard)) this.silence?.();
      result.remove();
      if (!row.children.length && !this.asking) row.remove();
    };
    return button;
  }

  async #made(order, label) {
    const began = performance.now();
    const made = await askSound(order, this.asking.signal);
    const told = `seed ${order.random_seed}, made in ${((performance.now() - began) / 1000).toFixed(1)} s`;
    const file = `${this.run.id}_${order.checkpoint}_${order.random_seed}`;
    return made instanceof ArrayBuffer ? this.#soundCard(label, told, file, made) : curvesCard(label, told, file, made);
  }

  async #soundCard(label, told, file, wav) {
    const sound = await new OfflineAudioContext(1, 1, this.run.sample_rate).decodeAudioData(wav.slice(0));
    const canvas = element("canvas", { class: "picture", role: "img", "aria-label": `Waveform and spectrogram of ${label}` });
    const head = element("div", { class: "playhead", hidden: true });
    const frame = element("div", { class: "frame" }, canvas, head);
    const button = element("button", { type: "button", "aria-label": `Play ${label}` }, "Play");
    const play = (from) => this.#play(sound, from, button, head);
    button.onclick = () => (button.textContent === "Stop" ? this.silence() : play(0));
    frame.onclick = (event) => play((event.offsetX / canvas.clientWidth) * sound.duration);
    new ResizeObserver(() => fitted(canvas) && paintSound(canvas, sound)).observe(canvas);
    const save = element("button", { type: "button", "aria-label": `Save the sound of ${label}` }, "Save wav");
    save.onclick = () => download(`${file}.wav`, wav, "audio/wav");
    return card(label, `${clock(sound.duration)}, ${told}`, frame, element("div", { class: "line" }, button, save));
  }

  #play(sound, from, button, head) {
    this.silence?.();
    this.heard = button;
    this.context ??= new AudioContext({ sampleRate: this.run.sample_rate });
    this.context.resume();
    const source = new AudioBufferSourceNode(this.context, { buffer: sound });
    source.connect(this.context.destination);
    const began = this.context.currentTime - from;
    const follow = () => {
      head.style.left = `${100 * Math.min(1, (this.context.currentTime - began) / sound.duration)}%`;
      if (!head.hidden) requestAnimationFrame(follow);
    };
    this.silence = () => {
      source.onended = null;
      source.stop();
      head.hidden = true;
      button.textContent = "Play";
      this.silence = null;
    };
    source.onended = () => this.silence();
    source.start(0, from);
    button.textContent = "Stop";
    head.hidden = false;
    follow();
  }
}

function card(label, told, ...content) {
  return element("article", { class: "card result" }, element("h3", {}, label), element("p", { class: "told" }, told), ...content);
}

/** Waveform above, spectrogram below. */
function paintSound(canvas, sound) {
  const samples = sound.getChannelData(0);
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  const top = Math.round(height / 4);
  pen.fillStyle = colour("--accent");
  for (let x = 0; x < width; x++) {
    const part = samples.subarray(Math.floor((x / width) * samples.length), Math.max(1, Math.ceil(((x + 1) / width) * samples.length)));
    let [low, high] = [0, 0];
    for (const value of part) [low, high] = [Math.min(low, value), Math.max(high, value)];
    pen.fillRect(x, (top / 2) * (1 - high), 1, Math.max(1, (top / 2) * (high - low)));
  }
  const picture = pen.createImageData(width, height - top);
  const axis = new Axis(sound.sampleRate, height - top);
  const colours = palette();
  for (let x = 0; x < width; x++) {
    const start = Math.round((x / width) * samples.length) - WINDOW / 2;
    axis.paint(decibels(samples, start), picture.data, x, width, colours);
  }
  pen.putImageData(picture, 0, top);
}

/** Curves, each in a strip of its own between its lowest and highest value. */
function curvesCard(label, told, file, made) {
  const strips = Object.entries(made.curves).flatMap(([tier, curves]) =>
    Object.entries(curves).map(([name, points]) => {
      const canvas = element("canvas", { class: "strip", role: "img", "aria-label": `${name} over time` });
      new ResizeObserver(() => fitted(canvas) && paintCurve(canvas, points)).observe(canvas);
      return element("figure", {}, element("figcaption", {}, `${tier}: ${name}`), canvas);
    }));
  const saves = Object.entries(made.csv).map(([tier, text]) =>
    element("button", { type: "button", onclick: () => download(`${file}_${tier}.csv`, text, "text/csv") }, `Save ${tier}.csv`));
  return card(label, told, ...strips, element("div", { class: "line" }, ...saves));
}

function paintCurve(canvas, points) {
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  const values = points.map(([, value]) => value);
  const [low, high, last] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b)), points.at(-1)[0]];
  const unit = width / (canvas.clientWidth || width);
  const margin = 12 * unit;
  pen.strokeStyle = colour("--accent");
  pen.lineWidth = 1.5 * unit;
  pen.beginPath();
  for (const [time, value] of points) {
    pen.lineTo((time / (last || 1)) * width, height - margin - ((value - low) / (high - low || 1)) * (height - 2 * margin));
  }
  pen.stroke();
  pen.fillStyle = colour("--faint");
  pen.font = `${10 * unit}px ${getComputedStyle(canvas).fontFamily}`;
  pen.fillText(String(Number(high.toPrecision(4))), 2 * unit, 10 * unit);
  pen.fillText(String(Number(low.toPrecision(4))), 2 * unit, height - 2 * unit);
}
