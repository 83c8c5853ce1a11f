/**
 * A canvas on which a parameter is drawn over time, and the same curve as break-points in a line of text, for those who
 * want numbers or have no mouse. Folded until a button unfolds it, which tells what it holds.
 */

import { CELLS, cellsOf, corners, readCells } from "./curve.js";
import { colour, element, fitted } from "./elements.js";
import { choices, fullText, parsePoints, pointsText, positionOf, valueAt, within } from "./units.js";

const EDGE = 8; // CSS pixels from an end, which count as the end
const MARGIN = 8; // CSS pixels above the highest and below the lowest value

export class CurveEditor {
  /**
   * @param {import("./units.js").Parameter} parameter
   * @param {{drawn: () => void, seconds: () => number, outside: (parameter: import("./units.js").Parameter, values: number[]) => void}} page
   */
  constructor(parameter, page) {
    this.parameter = parameter;
    this.page = page;
    this.steps = parameter.category || parameter.interp === "previous";
    /** @type {Float64Array} */
    this.cells = new Float64Array(CELLS).fill(parameter.initial);
    this.followed = false;
    this.playhead = -1; // fraction of the length; below 0: not playing
    this.canvas = element("canvas", { class: "draw", role: "img", "aria-label": `${parameter.name} over time; also as text below` });
    this.canvas.onpointerdown = (event) => this.#begin(event);
    this.canvas.onpointermove = (event) => this.#go(event);
    this.canvas.onpointerup = this.canvas.onpointercancel = () => this.#end();
    this.switch = element("input", { type: "checkbox" });
    this.switch.onchange = () => this.follow(this.switch.checked);
    this.text = element("input", {
      type: "text", spellcheck: false, autocomplete: "off", class: "points",
      "aria-label": `${parameter.name} over time, as seconds:value, seconds:value`,
    });
    this.text.onchange = () => this.#read();
    this.element = element("div", { class: "curve", id: `curve-${parameter.name}`, hidden: true }, this.canvas,
      element("div", { class: "line" }, element("label", { class: "follow" }, this.switch, "follow"), this.text));
    this.unfolding = element("button", { type: "button", class: "unfold", "aria-controls": this.element.id });
    this.unfolding.onclick = () => this.unfold(this.element.hidden);
    new ResizeObserver(() => this.paint()).observe(this.canvas);
    this.write();
  }

  /** @param {boolean} open whether it is there to be drawn on */
  unfold(open) {
    this.element.hidden = !open;
    this.#tell();
  }

  /** Let the button say what is behind it. */
  #tell() {
    const held = this.followed ? "followed" : this.cells.some((value) => value !== this.cells[0]) ? "drawn" : "";
    this.unfolding.textContent = held ? `curve, ${held}` : "curve";
    this.unfolding.classList.toggle("followed", this.followed);
    this.unfolding.setAttribute("aria-expanded", String(!this.element.hidden));
    this.unfolding.setAttribute("aria-label", `${this.parameter.name}: ${this.unfolding.textContent}`);
  }

  /** @param {boolean} on whether the curve is played */
  follow(on) {
    if (this.followed === on) return;
    this.followed = this.switch.checked = on;
    this.#tell();
    this.paint();
    this.page.drawn();
  }

  /** @returns {{name: string, cells: Float64Array, steps: boolean}} */
  drawn() {
    return { name: this.parameter.name, cells: this.cells, steps: this.steps };
  }

  /** @param {number} fraction of the length @returns {number} the value there */
  at(fraction) {
    return readCells(this.cells, fraction, this.steps);
  }

  /** @param {[number, number][]} points [seconds, value] */
  setPoints(points) {
    this.cells = cellsOf(points, this.page.seconds(), this.steps);
    this.write();
  }

  /** @param {number} fraction where it is played; below 0: nowhere */
  setPlayhead(fraction) {
    if (this.playhead === fraction) return;
    this.playhead = fraction;
    this.paint();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    const width = x <= EDGE ? 0 : x >= box.width - EDGE ? 1 : x / box.width;
    const height = (box.bottom - MARGIN - event.clientY) / (box.height - 2 * MARGIN);
    return {
      cell: Math.round(width * (CELLS - 1)),
      value: valueAt(this.parameter, height),
      height: Math.min(1, Math.max(0, height)),
    };
  }

  #begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pen = this.#place(event);
    this.#go(event);
    this.follow(true);
  }

  #go(event) {
    if (!this.pen) return;
    const next = this.#place(event);
    const { cell, height } = this.pen;
    const count = Math.abs(next.cell - cell);
    for (let step = 0; step <= count; step++) {
      const part = count ? step / count : 1;
      const between = this.steps ? next.value : valueAt(this.parameter, height + part * (next.height - height));
      this.cells[cell + Math.sign(next.cell - cell) * step] = between;
    }
    this.pen = next;
    this.paint();
    this.page.drawn();
  }

  #end() {
    if (!this.pen) return;
    this.pen = null;
    this.write();
  }

  #read() {
    try {
      const points = parsePoints(this.parameter, this.text.value);
      this.page.outside(this.parameter, points.map(([, value]) => value));
      this.setPoints(points.map(([seconds, value]) => [seconds, within(this.parameter, value)]));
      this.text.setCustomValidity("");
      this.followed ? this.page.drawn() : this.follow(true);
    } catch (error) {
      this.text.setCustomValidity(error.message);
      this.text.reportValidity();
    }
  }

  #heights() {
    return Array.from(this.cells, (value) => positionOf(this.parameter, value));
  }

  /** @returns {[number, number][]} the fewest break-points, [seconds, value] */
  points() {
    const seconds = this.page.seconds();
    const kept = corners(this.#heights(), this.steps);
    const points = kept.map((cell) => /** @type {[number, number]} */ ([(cell / (CELLS - 1)) * seconds, this.cells[cell]]));
    return points.every(([, value]) => value === points[0][1]) ? points.slice(0, 1) : points;
  }

  /** The curve as text and as a picture. */
  write() {
    this.text.value = pointsText(this.parameter, this.points());
    this.#tell();
    this.paint();
  }

  paint() {
    if (this.element.hidden) return; // unfolding changes its size, which is observed
    fitted(this.canvas);
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    const unit = width / (this.canvas.clientWidth || width);
    const [top, low] = [MARGIN * unit, height - MARGIN * unit];
    const y = (position) => low - position * (low - top);
    pen.clearRect(0, 0, width, height);
    pen.font = `${10 * unit}px ${getComputedStyle(this.canvas).fontFamily}`;
    this.#grid(pen, y, width, unit);
    const strong = colour("--accent");
    pen.strokeStyle = this.followed ? strong : colour("--faint");
    pen.lineWidth = 2 * unit;
    pen.lineJoin = "round";
    pen.beginPath();
    const heights = this.#heights();
    heights.forEach((position, cell) => {
      const x = (cell / (CELLS - 1)) * width;
      if (this.steps && cell) pen.lineTo(x, y(heights[cell - 1]));
      pen.lineTo(x, y(position));
    });
    pen.stroke();
    if (this.playhead < 0) return;
    pen.fillStyle = colour("--ink");
    pen.fillRect(this.playhead * width - unit / 2, 0, unit, height);
  }

  #grid(pen, y, width, unit) {
    const { parameter } = this;
    const marked = parameter.category ? choices(parameter) : [parameter.low, parameter.high];
    pen.fillStyle = colour("--faint");
    pen.strokeStyle = colour("--line");
    pen.lineWidth = unit;
    for (const value of marked) {
      const height = y(positionOf(parameter, value));
      pen.beginPath();
      pen.moveTo(0, height);
      pen.lineTo(width, height);
      pen.stroke();
      const above = height > pen.canvas.height / 2;
      pen.fillText(fullText(parameter, value), 4 * unit, above ? height - 3 * unit : height + 11 * unit);
    }
  }
}
