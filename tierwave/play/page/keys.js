/** Computer keys and the piano on the screen. */

import { byId, element } from "./elements.js";
import { notesOf } from "./notes.js";
import { noteName } from "./units.js";

// By where they are, not by what is written on them: two rows of every keyboard, as white and black keys.
const ROW = [
  "KeyA", "KeyW", "KeyS", "KeyE", "KeyD", "KeyF", "KeyT", "KeyG", "KeyY", "KeyH", "KeyU", "KeyJ", "KeyK", "KeyO", "KeyL",
  "KeyP", "Semicolon",
]; // prettier-ignore
const LETTERS = "AWSEDFTGYHUJKOLP;";
const FEWEST = 12; // semitones on the piano
const MOST = 36;

const isBlack = (note) => [1, 3, 6, 8, 10].includes(note % 12);

/** @param {EventTarget | null} target @returns {boolean} whether it wants letters for itself */
const takesText = (target) =>
  target instanceof HTMLElement && target.matches("input:not([type=range], [type=radio], [type=checkbox]), select, textarea");

/** @param {EventTarget | null} target @returns {boolean} whether the space key presses or switches it */
const takesSpace = (target) =>
  target instanceof HTMLElement && target.matches("button, summary, input[type=checkbox], input[type=radio]");

export class Keys {
  /**
   * @param {import("./notes.js").Notes} notes
   * @param {{toggle: () => void, record: () => void}} page
   */
  constructor(notes, page) {
    this.notes = notes;
    this.page = page;
    /** @type {Map<string, number>} the notes of the keys that are down */
    this.down = new Map();
    this.rebuild();
    notes.listeners.push(() => this.#light());
    addEventListener("keydown", (event) => this.#pressed(event));
    addEventListener("keyup", (event) => this.#released(event));
    addEventListener("blur", (event) => [...this.down.keys()].forEach((code) => this.#let(code, event)));
  }

  /** The piano for the parameter that is played now. */
  rebuild() {
    const piano = byId("piano");
    piano.replaceChildren();
    byId("keys").classList.toggle("silent", !this.notes.pitch);
    if (!this.notes.pitch) return;
    const [low, high] = notesOf(this.notes.pitch);
    this.#choose(low, high);
    let [first, last] = [low, Math.min(high, low + MOST)];
    while (last - first < FEWEST) [first, last] = [first - 1, last + 1];
    if (isBlack(first)) first -= 1;
    if (isBlack(last)) last += 1;
    const whites = Array.from({ length: last - first + 1 }, (_, n) => first + n).filter((note) => !isBlack(note)).length;
    let white = 0;
    for (let note = first; note <= last; note++) {
      const key = element("button", {
        type: "button", tabIndex: -1, "data-note": note, "aria-label": noteName(note),
        class: `${isBlack(note) ? "black" : "white"}${note < low || note > high ? " outside" : ""}`,
      });
      key.style.left = `${(100 * (isBlack(note) ? white - 0.3 : white)) / whites}%`;
      key.style.width = `${(100 * (isBlack(note) ? 0.6 : 1)) / whites}%`;
      if (!isBlack(note)) white += 1;
      key.onpointerdown = (event) => this.#touched(note, key, event);
      piano.append(key);
    }
    this.#letters();
  }

  /** The octave in which most keys lie within what was trained on. */
  #choose(low, high) {
    const inside = (base) => ROW.filter((_, step) => base + step >= low && base + step <= high).length;
    const bases = Array.from({ length: 10 }, (_, octave) => 12 * octave);
    this.base = bases.reduce((best, base) => (inside(base) > inside(best) ? base : best));
  }

  #letters() {
    for (const key of byId("piano").children) {
      key.textContent = LETTERS[Number(key.dataset.note) - this.base] ?? "";
    }
  }

  #light() {
    const sounding = this.notes.held.at(-1);
    for (const key of byId("piano").children) key.classList.toggle("down", Number(key.dataset.note) === sounding);
  }

  #touched(note, key, event) {
    event.preventDefault();
    key.setPointerCapture(event.pointerId);
    this.notes.press(note, undefined, event);
    key.onpointerup = key.onpointercancel = (up) => this.notes.release(note, up);
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || takesText(event.target)) return;
    const step = ROW.indexOf(event.code);
    if (step >= 0 && this.notes.pitch) {
      this.down.set(event.code, this.base + step);
      this.notes.press(this.base + step, undefined, event);
    } else if (event.code === "KeyZ" || event.code === "KeyX") {
      this.base = Math.min(108, Math.max(0, this.base + (event.code === "KeyZ" ? -12 : 12)));
      this.#letters();
    } else if (event.code === "Space" && !takesSpace(event.target)) {
      this.page.toggle();
    } else if (event.code === "KeyR") {
      this.page.record();
    } else {
      return;
    }
    event.preventDefault();
  }

  #released(event) {
    this.#let(event.code, event);
  }

  #let(code, event) {
    const note = this.down.get(code);
    this.down.delete(code);
    if (note !== undefined) this.notes.release(note, event);
  }
}
