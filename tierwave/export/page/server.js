/**
 * In place of `tierwave/play/page/server.js` in an exported page, which holds all that a server would give: the run, the
 * weights and the engine, in elements of their own.
 */

import { wavOf } from "./wav.js";

const SHARE = 0.7; // of the speed for the sound
const ENOUGH = 4; // times real time: more need not be measured

/** @type {import("./voice.js").Instrument} */
let instrument;

const text = (id) => document.getElementById(id).textContent;
const urlOf = (id) => URL.createObjectURL(new Blob([text(id)], { type: "text/javascript" }));

/** @param {string} id @returns {Promise<ArrayBuffer>} what an element holds compressed, in base64 */
async function bytes(id) {
  const compressed = new Blob([Uint8Array.from(atob(text(id)), (each) => each.charCodeAt(0))]);
  return new Response(compressed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Compiled once for all workers, since what one of them has made fast is then fast for the next. */
async function opened() {
  const compiled = bytes("data-engine").then((binary) => WebAssembly.compile(binary));
  const engine = await compiled.catch(() => {
    throw new Error("This browser does not run the page's engine: it needs WebAssembly with SIMD and DecompressionStream, as all browsers of 2023 have them.");
  });
  return { sound: JSON.parse(text("data-sound")), weights: await bytes("data-weights"), engine };
}

/** @param {object} asked @param {AbortSignal} [signal] @returns {Promise<any>} what a worker of its own answers */
function askMaker(asked, signal) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(urlOf("code-maker"));
    const end = (act) => {
      worker.terminate();
      act();
    };
    worker.onmessage = ({ data }) => end(() => (data.error ? reject(new Error(data.error)) : resolve(data)));
    worker.onerror = ({ message }) => end(() => reject(new Error(message ?? "The page's worker has failed.")));
    signal?.addEventListener("abort", () => end(() => reject(signal.reason)));
    worker.postMessage({ ...instrument, ...asked });
  });
}

/** @returns {Promise<any>} the run, with its speed on this machine */
export async function askRun() {
  const run = JSON.parse(text("data-run"));
  instrument = await opened();
  const { speed } = await askMaker({ enough: ENOUGH });
  if (speed >= 1 / SHARE) return { ...run, speed };
  const warning = `This network makes ${speed.toFixed(2)} s of sound per second in this browser, too slow to play without gaps: generate sounds instead, or try a faster machine.`;
  return { ...run, speed, warning };
}

/** @returns {any} what the worker opens as its socket */
export const whereSound = () => instrument;

/** @returns {Worker} that holds the socket */
export const startWorker = () => new Worker(urlOf("code-worker"));

/** @returns {string} the URL of the worklet's module; that of a Blob is refused in a page that is opened from a file */
export const workletUrl = () => `data:text/javascript;charset=utf-8,${encodeURIComponent(text("code-worklet"))}`;

/**
 * @param {any} order @param {AbortSignal} signal
 * @returns {Promise<ArrayBuffer>} a wav
 */
export async function askSound(order, signal) {
  const { samples } = await askMaker({ order }, signal);
  return wavOf(samples, instrument.sound.sample_rate);
}
