/** Making elements. Text goes in as text, so that names from a run are never read as HTML. */

/**
 * @param {string} tag
 * @param {Record<string, unknown>} given properties; `class`, `aria-*`, `role`, `for` and `data-*` are set as attributes
 * @param {...(Node | string)} children
 * @returns {any} the element
 */
export function element(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (/^(class$|role$|for$|aria-|data-)/.test(name)) made.setAttribute(name, String(value));
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** @param {string} id @returns {any} the element of the page with that id */
export const byId = (id) => document.getElementById(id);

/**
 * Fit a canvas to the pixels it covers.
 * @param {HTMLCanvasElement} canvas
 * @returns {boolean} whether its size changed, and it is empty now
 */
export function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
  if (canvas.width === width && canvas.height === height) return false;
  canvas.width = width;
  canvas.height = height;
  return true;
}

/** @param {string} name of a custom property of the style sheet @returns {string} its value in the theme in force */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** @param {string} name @param {BlobPart} content @param {string} type hand a file to the person at the page */
export function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
