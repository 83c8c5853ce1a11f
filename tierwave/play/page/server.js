/**
 * What the page asks of the server besides the WebSocket. An exported page has another module of this name, which finds
 * everything in the page itself (`tierwave/export/page/server.js`).
 */

/** @returns {Promise<any>} what GET /api/run tells @throws {Error} a sentence */
export async function askRun() {
  const answer = await fetch("api/run");
  if (!answer.ok) throw new Error(`The server refuses: ${await answer.text()}`);
  return answer.json();
}

/** @returns {any} the address at which the worker opens its socket */
export function whereSound() {
  const url = new URL("ws", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

/** @returns {Worker} that holds the socket */
export const startWorker = () => new Worker(new URL("socket-worker.js", import.meta.url), { type: "module" });

/** @returns {string} the URL of the worklet's module */
export const workletUrl = () => new URL("player-worklet.js", import.meta.url).href;

/**
 * @param {object} order what to make @param {AbortSignal} signal
 * @returns {Promise<any>} a wav as ArrayBuffer, or the document of a run that makes curves
 * @throws {Error} a sentence
 */
export async function askSound(order, signal) {
  const answer = await fetch("api/generate", {
    method: "POST", body: JSON.stringify(order), headers: { "Content-Type": "application/json" }, signal,
  }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server does not answer: is it still running?");
  });
  const isJson = answer.headers.get("content-type")?.includes("json");
  if (!answer.ok) throw new Error(isJson ? (await answer.json()).error : `The server refuses: ${await answer.text()}`);
  return isJson ? answer.json() : answer.arrayBuffer();
}
