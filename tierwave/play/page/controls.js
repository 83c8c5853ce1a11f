/**
 * A card for each parameter: slider or buttons, its value in its own units, what it was trained on, its curve, folded.
 * Says what the person did; knows nothing of the sound.
 */

import { CurveEditor } from "./curve-editor.js";
import { byId, element } from "./elements.js";
import { choices, clippedText, fullText, noteText, positionOf, unitText, valueAt, valueText, within } from "./units.js";

const MOST_TICKS = 64;

/**
 * @callback Changed
 * @param {Record<string, number>} values
 * @param {Event} event
 */

/**
 * @callback Outside told of values that are asked for, of which some may lie outside of the range
 * @param {import("./units.js").Parameter} parameter
 * @param {number[]} values
 */

/** One value that can be set. */
export class Control {
  /** @param {import("./units.js").Parameter} parameter @param {Changed} changed when the person changes it @param {Outside} outside */
  constructor(parameter, changed, outside) {
    this.parameter = parameter;
    this.value = parameter.initial;
    this.name = parameter.label ?? parameter.name;
    this.id = `control-${parameter.name}`;
    this.changed = changed;
    this.outside = outside;
    this.reading = element("div", { class: "reading" }); // the value in figures
    this.element = parameter.category ? this.#buttons() : this.#slider();
    this.show(parameter.initial);
  }

  /** @param {number} value @param {Event} event as if the person had set it */
  turn(value, event) {
    this.outside(this.parameter, [value]);
    this.#turned(value, event);
  }

  #turned(value, event) {
    this.show(within(this.parameter, value));
    this.changed({ [this.parameter.name]: this.value }, event);
  }

  #slider() {
    const { parameter } = this;
    const fixed = parameter.low === parameter.high;
    this.range = element("input", {
      type: "range", min: "0", max: "1", step: "any", id: this.id, disabled: fixed, "aria-label": this.name,
    });
    this.range.oninput = (event) => this.#turned(valueAt(parameter, this.range.valueAsNumber), event);
    this.range.onkeydown = (event) => this.#step(event);
    this.number = element("input", {
      type: "number", step: "any", disabled: fixed, "aria-label": `${this.name}, the value`, class: "value",
    });
    this.number.onchange = (event) => {
      if (Number.isFinite(this.number.valueAsNumber)) this.turn(this.number.valueAsNumber, event);
      this.number.value = valueText(parameter, this.value); // also while it has the focus
    };
    this.note = element("span", { class: "note" });
    const unit = element("span", { class: "unit" }, unitText(parameter));
    this.reading.append(this.number, unit, this.note);
    if (parameter.label) return element("div", { class: "range" }, this.range);
    return element("div", {},
      element("div", { class: "range" }, this.#trained(), this.range),
      element("div", { class: "ends", "aria-hidden": "true" },
        element("span", {}, fullText(parameter, valueAt(parameter, 0))),
        element("span", {}, fixed ? "never anything else in training" : "trained range"),
        element("span", {}, fullText(parameter, valueAt(parameter, 1)))));
  }

  /** Arrow keys move by a semitone where the unit is one, else by a hundredth of the range. */
  #step(event) {
    const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const { parameter } = this;
    if (parameter.units === "midiPitch" || parameter.whole) this.#turned(this.value + direction, event);
    else this.#turned(valueAt(parameter, positionOf(parameter, this.value) + direction / 100), event);
  }

  /** What was trained on: the range as a band, the values as ticks. */
  #trained() {
    const { parameter } = this;
    const [start, stop] = [parameter.low, parameter.high].map((value) => positionOf(parameter, value));
    const band = element("div", { class: "band" });
    band.style.left = `${100 * start}%`;
    band.style.width = `${100 * (stop - start)}%`;
    const values = parameter.values.length <= MOST_TICKS ? parameter.values : [];
    const ticks = values.map((value) => {
      const tick = element("i");
      tick.style.left = `${100 * positionOf(parameter, value)}%`;
      return tick;
    });
    return element("div", { class: "trained", "aria-hidden": "true" }, band, ...ticks);
  }

  #buttons() {
    const { parameter } = this;
    this.radios = choices(parameter).map((value) => {
      const id = `${this.id}-${value}`;
      const radio = element("input", { type: "radio", name: this.id, id });
      radio.onchange = (event) => this.#turned(value, event);
      return { value, radio, label: element("label", { for: id }, valueText(parameter, value)) };
    });
    return element("div", { class: "choices", role: "radiogroup", "aria-label": parameter.name },
      ...this.radios.flatMap(({ radio, label }) => [radio, label]));
  }

  /** @param {number} value let it be seen; nothing is called */
  show(value) {
    this.value = value;
    const { parameter } = this;
    if (this.radios) {
      for (const each of this.radios) each.radio.checked = each.value === value;
      return;
    }
    this.range.value = String(positionOf(parameter, value));
    this.range.setAttribute("aria-valuetext", fullText(parameter, value));
    if (document.activeElement !== this.number) this.number.value = valueText(parameter, value);
    this.note.textContent = noteText(parameter, value);
  }
}

/** All of them. */
export class Controls {
  /**
   * @param {import("./units.js").Parameter[]} parameters get a card with a curve each
   * @param {import("./units.js").Parameter[]} amounts temperature and the like; a slider each
   * @param {{changed: Changed, drawn: () => void, seconds: () => number, say: (sentence: string) => void}} page drawn: a
   *   curve was changed, switched on or off; seconds: the length of the curves
   */
  constructor(parameters, amounts, page) {
    this.parameters = parameters;
    /** @type {Map<string, Control>} */
    this.controls = new Map();
    /** @type {Map<string, CurveEditor>} */
    this.curves = new Map();
    /** @type {Map<string, HTMLButtonElement>} buttons that wait for a MIDI controller */
    this.learning = new Map();
    /** @type {Set<string>} names of what was asked for outside of its range, which is said once */
    this.beyond = new Set();
    /** @type {Outside} */
    const outside = (parameter, values) => {
      const sentence = values.map((value) => clippedText(parameter, value)).find(Boolean);
      if (sentence && !this.beyond.has(parameter.name)) page.say(sentence);
      if (sentence) this.beyond.add(parameter.name);
    };
    const changed = (values, event) => {
      const [name] = Object.keys(values);
      this.curves.get(name)?.follow(false); // the hand wins
      page.changed(values, event);
    };
    for (const parameter of [...parameters, ...amounts]) this.controls.set(parameter.name, new Control(parameter, changed, outside));
    for (const parameter of parameters) {
      this.curves.set(parameter.name, new CurveEditor(parameter, { ...page, outside }));
      byId("parameters").append(this.#card(parameter));
    }
    for (const { name, label, told } of amounts) {
      const control = this.controls.get(name);
      const row = element("div", { class: "amount" },
        element("label", { for: control.id }, label), control.element, control.reading, this.#learn(name));
      if (told) row.append(element("p", { class: "told" }, told));
      byId("amounts").append(row);
    }
  }

  #card(parameter) {
    const id = `name-${parameter.name}`;
    const control = this.controls.get(parameter.name);
    const curve = this.curves.get(parameter.name);
    const buttons = [this.#learn(parameter.name), curve.unfolding];
    return element("section", { class: "card parameter", "aria-labelledby": id },
      element("header", {}, element("h3", { id }, parameter.name), control.reading, ...buttons),
      control.element,
      curve.element);
  }

  #learn(name) {
    const button = element("button", { type: "button", class: "learn", hidden: true, "aria-pressed": "false" }, "learn");
    button.title = "Press, then move a MIDI controller";
    this.learning.set(name, button);
    return button;
  }

  /** @returns {Record<string, number>} what is set now */
  values() {
    return Object.fromEntries([...this.controls].map(([name, { value }]) => [name, value]));
  }

  /** @param {Record<string, number>} values let them be seen */
  show(values) {
    for (const [name, value] of Object.entries(values)) this.controls.get(name)?.show(value);
  }

  /** @param {string} name @param {number} value @param {Event} event as if the person had set it */
  turn(name, value, event) {
    this.controls.get(name).turn(value, event);
  }

  /** @returns {{name: string, cells: Float64Array, steps: boolean}[]} the curves that are followed */
  followed() {
    return [...this.curves.values()].filter((curve) => curve.followed).map((curve) => curve.drawn());
  }

  /** @returns {object} what sliders and followed curves say, as fields of an order to generate */
  order() {
    const followed = [...this.curves.values()].filter((curve) => curve.followed);
    return {
      values: Object.fromEntries(this.parameters.map(({ name }) => [name, this.controls.get(name).value])),
      controls: Object.fromEntries(followed.map((curve) => [curve.parameter.name, curve.points()])),
    };
  }
}
