/** Web MIDI: notes play, controllers move the slider that they were taught. */

const NOTE_OFF = 0x80;
const NOTE_ON = 0x90;
const CONTROL = 0xb0;
const BEND = 0xe0;
const BEND_RANGE = 2; // semitones, what every keyboard means unless it is told otherwise
const SUSTAIN = 64; // the controller that is a pedal

export class Midi {
  /**
   * @param {import("./notes.js").Notes} notes
   * @param {Map<string, HTMLButtonElement>} buttons by the name of what they teach
   * @param {(name: string, position: number, event: Event) => void} move
   */
  constructor(notes, buttons, move) {
    this.notes = notes;
    this.buttons = buttons;
    this.move = move;
    /** @type {Map<number, string>} what each controller moves */
    this.taught = new Map();
    /** @type {string | null} what the next controller will move */
    this.waiting = null;
    for (const [name, button] of buttons) button.onclick = () => this.#wait(this.waiting === name ? null : name);
  }

  /** @returns {boolean} whether this browser has Web MIDI at all */
  static get exists() {
    return "requestMIDIAccess" in navigator;
  }

  /**
   * Ask for the devices.
   * @param {(sentence: string) => void} say called when devices come and go
   */
  async open(say) {
    const access = await navigator.requestMIDIAccess();
    const listen = () => {
      const inputs = [...access.inputs.values()].filter((input) => input.state === "connected");
      for (const input of inputs) input.onmidimessage = (event) => this.hear(event);
      say(inputs.length ? `MIDI: ${inputs.map((input) => input.name).join(", ")}` : "MIDI: no device yet; plug one in");
    };
    access.onstatechange = listen;
    listen();
    for (const button of this.buttons.values()) button.hidden = false;
  }

  #wait(name) {
    this.waiting = name;
    for (const [each, button] of this.buttons) button.setAttribute("aria-pressed", String(each === name));
  }

  /** @param {MIDIMessageEvent} event */
  hear(event) {
    const [status, first, second] = event.data;
    const kind = status & 0xf0;
    if (kind === NOTE_ON && second > 0) this.notes.press(first, second / 127, event);
    else if (kind === NOTE_OFF || kind === NOTE_ON) this.notes.release(first, event);
    else if (kind === BEND) this.notes.bend((BEND_RANGE * (128 * second + first - 8192)) / 8192, event);
    else if (kind === CONTROL) this.#turned(first, second / 127, event);
  }

  #turned(controller, position, event) {
    if (this.waiting !== null) {
      this.taught.set(controller, this.waiting);
      const button = this.buttons.get(this.waiting);
      button.textContent = `CC ${controller}`;
      this.#wait(null);
    }
    const name = this.taught.get(controller);
    if (name !== undefined) this.move(name, position, event);
    else if (controller === SUSTAIN) this.notes.sustain(position >= 0.5, event);
  }
}
