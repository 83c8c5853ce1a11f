/**
 * A network for one voice in WebAssembly: lays its arrays out in the engine's memory (`tierwave/export/wasm/engine.c`) and
 * runs it. Knows nothing of seconds and controls.
 */

const MOST_STEPS = 256; // of one call
const HEADER = 128; // bytes of the struct Network

/**
 * @typedef {object} About a network as `webpage.py` describes it
 * @property {Record<string, [number, number]>} arrays byte and count of each in the weights
 * @property {number} history @property {number} features @property {number} inputs @property {number} widest
 * @property {number} choices @property {number} silence @property {number} floor
 */

/**
 * @typedef {object} Settings of some steps
 * @property {Float32Array} controls [steps, inputs]
 * @property {Float32Array} temperature
 * @property {Int32Array} topK 0: off
 */

export class Network {
  /**
   * @param {WebAssembly.Module} engine
   * @param {About} about
   * @param {ArrayBuffer} weights
   * @param {bigint} seed
   * @param {number} topP 1: off
   */
  constructor(engine, about, weights, seed, topP = 1) {
    this.about = about;
    this.engine = new WebAssembly.Instance(engine, { math: /** @type {any} */ (Math) }).exports;
    this.end = this.engine.__heap_base.value;
    this.header = this.#room(HEADER);
    const { arrays, history, features, inputs, widest, choices } = about;
    const ints = (name) => new Int32Array(weights, ...arrays[name]);
    const floats = (name) => new Float32Array(weights, ...arrays[name]);
    const head = ints("head");
    this.numbers = head[4];
    const sizes = {
      program: ints("program"), parts: ints("parts"), head, matrices: ints("matrices"),
      weights: new Int8Array(weights, ...arrays.weights), // become floats, which are multiplied twice as fast
      vectors: floats("vectors"), memory: floats("initial"),
      sums: widest, shares: 2 * choices + 4,
      codes: history + MOST_STEPS, values: (1 + MOST_STEPS) * features, controls: MOST_STEPS * inputs,
      temperature: MOST_STEPS, topK: MOST_STEPS, predictions: MOST_STEPS * this.numbers,
    };
    const places = Object.entries(sizes).map(([name, size]) => /** @type {const} */ ([name, this.#room(4 * (size.length ?? size)), size]));
    // A little more than they take: four numbers at once are read also at their ends.
    this.engine.memory.grow(Math.max(0, Math.ceil((this.end + HEADER - this.engine.memory.buffer.byteLength) / 65536)));
    const { buffer } = this.engine.memory;
    const areInts = ["program", "parts", "head", "matrices", "codes", "topK"];
    /** @type {Record<string, any>} */
    this.room = {};
    for (const [name, at, size] of places) {
      const view = new (areInts.includes(name) ? Int32Array : Float32Array)(buffer, at, size.length ?? size);
      if (size.length !== undefined) view.set(size);
      this.room[name] = view;
    }
    new Int32Array(buffer, this.header).set([
      sizes.program.length / 6, sizes.parts.length / 3, history, features, inputs, ...places.map(([, at]) => at),
    ]);
    new Float32Array(buffer, this.header + 4 * (5 + places.length + 2)).set([about.floor, topP]);
    this.engine.seed(this.header, Number(BigInt.asIntN(32, seed)), Number(BigInt.asIntN(32, seed >> 32n)));
    this.room.codes.fill(about.silence);
    this.age = 0; // steps, and those that drew
    this.position = 0;
  }

  #room(bytes) {
    const at = this.end;
    this.end = Math.ceil((at + bytes) / 16) * 16;
    return at;
  }

  /** @param {Settings} settings @returns {Int32Array | Float32Array} as many new values as it has steps: codes, or features */
  run(settings) {
    return this.#goOn(settings.temperature.length, settings, null).made;
  }

  /**
   * What the network gives for each of the codes, or values, that are given, before it takes it in.
   * @param {ArrayLike<number>} given
   * @param {Float32Array} controls [steps, inputs]
   * @returns {Float32Array} [steps, numbers]
   */
  predictions(given, controls) {
    const steps = given.length / (this.about.features || 1);
    const settings = { controls, temperature: new Float32Array(steps), topK: new Int32Array(steps) };
    return this.#goOn(steps, settings, given).predictions;
  }

  #goOn(steps, { controls, temperature, topK }, given) {
    const { history, features, inputs } = this.about;
    const { room, numbers } = this;
    const each = features || 1;
    const made = new (features ? Float32Array : Int32Array)(steps * each);
    const predictions = new Float32Array(given ? steps * numbers : 0);
    for (let start = 0; start < steps; start += MOST_STEPS) {
      const stop = Math.min(steps, start + MOST_STEPS);
      const count = stop - start;
      room.controls.set(controls.subarray(start * inputs, stop * inputs));
      room.temperature.set(temperature.subarray(start, stop));
      room.topK.set(topK.subarray(start, stop));
      const [place, first] = features ? [room.values, features] : [room.codes, history];
      if (given) for (let index = 0; index < count * each; index++) place[first + index] = given[start * each + index];
      this.engine.run(this.header, count, Number(given !== null), Number(given !== null), this.age, this.position);
      made.set(place.subarray(first, first + count * each), start * each);
      place.copyWithin(0, count * each, count * each + first);
      if (given) predictions.set(room.predictions.subarray(0, count * numbers), start * numbers);
      this.age += count;
      if (!given) this.position += count;
    }
    return { made, predictions };
  }
}
