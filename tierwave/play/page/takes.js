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
 * @property {boolean} saved whether there is a file of it
 */

export class Takes {
  /**
   * @param {number} rate of the sounds, in Hz
   * @param {string} prefix of the files' names
   * @param {{replay: (take: Take) => void, say: (sentence: string) => void, isThere: (checkpoint: string) => boolean}} page
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

  /** Whether some are nowhere but on this page. */
  get unsaved() {
    return this.takes.some(({ saved }) => !saved);
  }

  /** @param {import("./player.js").Recorded} recorded */
  add({ csv, seconds, samples, start, random_seed }) {
    this.count += 1;
    const whole = withMeta(csv, { random_seed, seconds }); // so that the file gives the same sound again
    const { controls } = readGestures(csv);
    this.takes.push({ name: `take ${this.count}`, seconds, start: { ...start, controls }, csv: whole, samples, saved: false });
    this.#show();
  }

  /** @param {File} file */
  async #load(file) {
    try {
      const csv = await file.text();
      const { seconds, checkpoint, ...start } = readGestures(csv);
      const isThere = this.page.isThere(checkpoint);
      const whole = isThere ? { ...start, checkpoint } : start;
      this.takes.push({ name: file.name, seconds, start: whole, csv, samples: null, saved: true });
      const other = checkpoint && !isThere ? ` Its ${checkpoint} is not here: it is played with the checkpoint that is chosen.` : "";
      this.page.say(`${file.name} is loaded: ${Object.keys(start.controls).join(", ")}, ${clock(seconds)}.${other}`);
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
    const save = (content, ending, type) => {
      download(`${file}.${ending}`, content, type);
      take.saved = true;
    };
    const button = (text, label, act, disabled = false) =>
      element("button", { type: "button", "aria-label": `${label} ${take.name}`, disabled, onclick: act }, text);
    return element("li", {},
      element("span", { class: "take-name" }, take.name),
      element("span", { class: "time" }, take.seconds ? clock(take.seconds) : "endless"),
      button("Replay", "Replay", () => this.page.replay(take)),
      button("Save wav", "Save the sound of", () => save(wavOf(take.samples, this.rate), "wav", "audio/wav"), !take.samples),
      button("Save CSV", "Save the gestures of", () => save(take.csv, "csv", "text/csv")),
      button("×", "Remove", () => {
        this.takes = this.takes.filter((each) => each !== take);
        this.#show();
      }));
  }
}
