/** Gestures CSVs, as `recorded.csv` and generate.py's *_controls.csv are: rows of name,time,value below lines of #meta. */

/**
 * @typedef {object} Gestures
 * @property {Record<string, [number, number][]>} controls [seconds, value] by name
 * @property {boolean} gestures whether they were recorded live, and give the same sound again
 * @property {number | null} random_seed of the sound, where the file tells it
 * @property {string | null} checkpoint that made it, where the file tells it
 * @property {number} [temperature] it was started with, where the file tells it
 * @property {number | null} [top_k] likewise
 * @property {number} seconds how long they are; 0 where all is constant
 */

/** @param {string} line @returns {string[]} its cells; RFC 4180 */
export function cells(line) {
  return Array.from(line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g), ([, quoted, plain]) => (quoted === undefined ? plain.trim() : quoted.replaceAll('""', '"')));
}

/**
 * @param {string} text
 * @returns {Gestures}
 * @throws {Error} with a sentence
 */
export function readGestures(text) {
  const rows = text.replace(/^\uFEFF/, "").split(/\r?\n/).map((line, index) => ({ number: index + 1, line })).filter(({ line }) => line.trim());
  const marked = rows.filter(({ line }) => line.startsWith("#")).map(({ line }) => cells(line));
  const [head, ...body] = rows.filter(({ line }) => !line.startsWith("#"));
  const columns = head ? cells(head.line) : [];
  const long = columns.join() === "name,time,value";
  if (!long && !(columns[0] === "time" && columns.length > 1)) {
    throw new Error("This is no gestures CSV: its first row must be name,time,value, or time and the names.");
  }
  /** @type {Record<string, [number, number][]>} */
  const controls = Object.create(null);
  for (const { number, line } of body) {
    const row = cells(line);
    const pairs = long ? [[row[0], row[2]]] : columns.slice(1).map((name, index) => [name, row[index + 1]]);
    const time = Number(row[long ? 1 : 0] || NaN);
    for (const [name, word] of pairs) {
      const value = Number(word || NaN);
      if (!name || row.length !== columns.length || !Number.isFinite(time) || !Number.isFinite(value)) {
        throw new Error(`Line ${number} is none of ${columns.join()} with numbers: "${line.slice(0, 60)}".`);
      }
      (controls[name] ??= []).push([time, value]);
    }
  }
  if (!Object.keys(controls).length) throw new Error("There is no value in this file.");
  const meta = metaOf(marked.find(([word]) => word === "#meta")?.[1]);
  const last = Math.max(...Object.values(controls).map((points) => points.at(-1)[0]));
  return {
    controls: { ...controls },
    gestures: meta.gestures === true,
    random_seed: Number.isSafeInteger(meta.random_seed) ? meta.random_seed : null,
    checkpoint: typeof meta.checkpoint === "string" ? meta.checkpoint : null,
    ...(meta.temperature >= 0 && { temperature: Number(meta.temperature) }),
    ...(Number.isSafeInteger(meta.top_k) && { top_k: meta.top_k }),
    seconds: meta.seconds > 0 ? Number(meta.seconds) : last,
  };
}

/**
 * @param {string} csv as the server recorded it
 * @param {object} more what else its #meta is to tell
 * @returns {string}
 */
export function withMeta(csv, more) {
  return csv.replace(/^#meta,.*$/m, (line) => {
    const json = JSON.stringify({ ...metaOf(cells(line)[1]), ...more });
    return `#meta,"${json.replaceAll('"', '""')}"`;
  });
}

function metaOf(json) {
  try {
    return JSON.parse(json ?? "{}") ?? {};
  } catch {
    throw new Error("The #meta line of this file is broken.");
  }
}
