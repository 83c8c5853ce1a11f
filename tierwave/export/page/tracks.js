/** Curves over time in raw units, as `tierwave.controls.tracks` reads them. */

const ROUNDING = 1 - 1e-9;

/** @param {ArrayLike<number>} sorted @param {number} value @returns {number} how many are not above it */
function countUntil(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

const median = (numbers) => {
  const sorted = numbers.sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

/** One control: its values at times, which do not fall; a repeated time is a step. Before and after them the ends hold. */
export class Track {
  /** @param {number[]} times seconds @param {number[]} values */
  constructor(times, values) {
    this.times = times;
    this.values = values;
    this.isConstant = values.every((value) => value === values[0]);
  }

  /** @param {number} seconds @param {"linear" | "previous"} interp @returns {number} the value there */
  at(seconds, interp) {
    const { times, values } = this;
    const here = Math.max(0, countUntil(times, seconds) - 1);
    if (interp === "previous") return values[here];
    const after = Math.min(here + 1, times.length - 1);
    const gap = times[after] - times[here];
    const share = gap > 0 ? Math.min(1, Math.max(0, (seconds - times[here]) / gap)) : 0;
    const [start, stop] = [values[here], values[after]];
    return Math.min(Math.max(start + share * (stop - start), Math.min(start, stop)), Math.max(start, stop));
  }

  /**
   * @param {number} first @param {number} count @param {number} rate Hz @param {"linear" | "previous"} interp
   * @param {boolean} averaged over a step around each, where the points lie closer than steps
   * @returns {number[]} the values at (first + i) / rate
   */
  resampled(first, count, rate, interp, averaged) {
    const isFiner = averaged && interp === "linear" && this.#interval() < ROUNDING / rate;
    return Array.from({ length: count }, (_, index) => {
      const seconds = (first + index) / rate;
      return isFiner ? this.#mean(seconds - 0.5 / rate, 1 / rate) : this.at(seconds, interp);
    });
  }

  #interval() {
    const distances = this.times.slice(1).map((time, index) => time - this.times[index]).filter((distance) => distance > 0);
    return (this.interval ??= distances.length ? median(distances) : Infinity);
  }

  /** The exact mean over `width` seconds. */
  #mean(start, width) {
    const { times, values } = this;
    this.middle ??= values.reduce((sum, value) => sum + value, 0) / values.length;
    if (!this.area) {
      this.area = [0];
      for (let point = 1; point < times.length; point++) {
        const heights = values[point] - this.middle + values[point - 1] - this.middle;
        this.area.push(this.area[point - 1] + ((times[point] - times[point - 1]) * heights) / 2);
      }
    }
    const until = (seconds) => {
      const here = Math.max(0, countUntil(times, seconds) - 1);
      return this.area[here] + (seconds - times[here]) * ((values[here] + this.at(seconds, "linear")) / 2 - this.middle);
    };
    return this.middle + (until(start + width) - until(start)) / width;
  }
}
