/**
 * A value drawn over time, as equally spaced cells in raw units. The worker reads it block by block, the editor draws it.
 * Knows no canvas and no parameter.
 */

export const CELLS = 241; // in a curve, its ends included: a sixtieth of a second in four seconds

/**
 * @param {ArrayLike<number>} cells
 * @param {number} fraction of the curve's length, 0 to 1
 * @param {boolean} steps whether a value holds until the next one
 * @returns {number}
 */
export function readCells(cells, fraction, steps) {
  const place = Math.min(1, Math.max(0, fraction)) * (cells.length - 1);
  const cell = Math.floor(place + 1e-9);
  if (steps || cell >= cells.length - 1) return cells[cell];
  return cells[cell] + (place - cell) * (cells[cell + 1] - cells[cell]);
}

/**
 * @param {[number, number][]} points [seconds, value], in order of time
 * @param {number} seconds
 * @param {boolean} steps
 * @returns {number} the value there; before the first and after the last point theirs
 */
export function readPoints(points, seconds, steps) {
  let low = 0;
  let high = points.length; // the first point after `seconds` lies in [low, high]
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= seconds + 1e-9) low = middle + 1;
    else high = middle;
  }
  if (low === 0) return points[0][1];
  const [time, value] = points[low - 1];
  if (steps || low === points.length) return value;
  const [later, next] = points[low];
  return value + ((seconds - time) / (later - time)) * (next - value);
}

/** @param {[number, number][]} points @param {number} seconds length of the curve @param {boolean} steps @returns {Float64Array} */
export function cellsOf(points, seconds, steps) {
  return Float64Array.from({ length: CELLS }, (_, cell) => readPoints(points, (cell / (CELLS - 1)) * seconds, steps));
}

/**
 * The fewest points that a drawn curve needs (Ramer 1972; Douglas & Peucker 1973).
 * @param {ArrayLike<number>} heights of the cells, 0 to 1
 * @param {boolean} steps
 * @param {number} tolerance in the same unit as the heights
 * @returns {number[]} the cells that stay
 */
export function corners(heights, steps, tolerance = 0.004) {
  const last = heights.length - 1;
  const kept = new Set([0]);
  if (steps) {
    for (let cell = 1; cell <= last; cell++) if (heights[cell] !== heights[cell - 1]) kept.add(cell);
    return [...kept];
  }
  kept.add(last);
  const spans = [[0, last]];
  while (spans.length) {
    const [start, stop] = spans.pop();
    let farthest = start;
    let distance = tolerance;
    for (let cell = start + 1; cell < stop; cell++) {
      const line = heights[start] + ((cell - start) / (stop - start)) * (heights[stop] - heights[start]);
      if (Math.abs(heights[cell] - line) > distance) [farthest, distance] = [cell, Math.abs(heights[cell] - line)];
    }
    if (farthest !== start) {
      kept.add(farthest);
      spans.push([start, farthest], [farthest, stop]);
    }
  }
  return [...kept].sort((a, b) => a - b);
}
