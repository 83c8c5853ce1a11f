/** What was recorded: a list of takes to play again and to save, and files of gestures that join it. */

import { byId, download, element } from "./elements.js";
import { readGestures, withMeta } from "./gestures-file.js";
import { clock } from "./units.js";
import { wavOf } from "./wav.js";

/**
 * @typedef {object} Take
 * @property {string} name
 * @property {number} seconds 0: it never ends by itself
 * @property {import("./player.js").Start} start what plays it again
 * @property {string} csv
 * @property {Float32Array | null} samples null until it was heard here
 */

export class Takes {
  /**
   * @param {number} rate of the sounds, in Hz
   * @param {string} prefix of the files' names
   * @param {{replay: (take: Take) => void, say: (sentence: string) => void}} page
   */
  constructor(rate, prefix, page) {
    this.rate = rate;
    this.prefix = prefix;
    this.page = page;
    /** @type {Take[]} */
    this.takes = [];
    this.count = 0;
    const file = byId("load");
    file.onchange = async () => {
      for (const each of file.files) await this.#load(each);
      file.value = "";
    };
    this.#show();
  }

  /** @param {import("./player.js").Recorded} recorded */
  add({ csv, seconds, samples, start, random_seed }) {
    this.count += 1;
    const whole = withMeta(csv, { random_seed, seconds }); // so that the file gives the same sound again
    this.takes.push({ name: `take ${this.count}`, seconds, start, csv: whole, samples });
    this.#show();
  }

  /** @param {File} file */
  async #load(file) {
    try {
      const csv = await file.text();
      const { controls, gestures, random_seed, seconds } = readGestures(csv);
      this.takes.push({ name: file.name, seconds, start: { controls, gestures, random_seed }, csv, samples: null });
      this.page.say(`${file.name} is loaded: ${Object.keys(controls).join(", ")}, ${clock(seconds)}.`);
      this.#show();
    } catch (error) {
      this.page.say(`${file.name}: ${error.message}`);
    }
  }

  /** @param {Take} take @param {Float32Array} samples what it sounds like */
  heard(take, samples) {
    take.samples = samples;
    this.#show();
  }

  #show() {
    byId("take-list").replaceChildren(...this.takes.map((take) => this.#row(take)));
    byId("no-takes").hidden = this.takes.length > 0;
  }

  #row(take) {
    const file = `${this.prefix}_${take.name.replace(/\.csv$/i, "").replace(/[^\p{L}\p{N}._-]+/gu, "_")}`;
    const button = (text, label, act, disabled = false) =>
      element("button", { type: "button", "aria-label": `${label} ${take.name}`, disabled, onclick: act }, text);
    return element("li", {},
      element("span", { class: "take-name" }, take.name),
      element("span", { class: "time" }, take.seconds ? clock(take.seconds) : "endless"),
      button("Replay", "Replay", () => this.page.replay(take)),
      button("Save wav", "Save the sound of", () => download(`${file}.wav`, wavOf(take.samples, this.rate), "audio/wav"), !take.samples),
      button("Save CSV", "Save the gestures of", () => download(`${file}.csv`, take.csv, "text/csv")),
      button("×", "Remove", () => {
        this.takes = this.takes.filter((each) => each !== take);
        this.#show();
      }));
  }
}
