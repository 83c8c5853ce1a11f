/** A worker that makes whole sounds, and measures how fast: an instrument comes in, with an order or what is fast enough. */

import { Voice } from "./voice.js";

const BLOCK = 256;
const WINDOW_MS = 150; // of one measurement
const MOST = 20; // of them: a browser makes code faster while it runs

/** @param {Voice} voice @returns {number} seconds of sound per second, in the quicker blocks: others may use the machine */
function measured(voice) {
  const took = [];
  for (const end = performance.now() + WINDOW_MS; performance.now() < end; ) {
    const began = performance.now();
    voice.render(BLOCK);
    took.push(performance.now() - began);
  }
  const quick = took.sort((a, b) => a - b)[took.length >> 2];
  return (1000 * BLOCK) / voice.instrument.sound.sample_rate / Math.max(quick, 0.001);
}

/** @param {Voice} voice @param {number} enough a speed beyond which nobody asks @returns {number} */
function speedOf(voice, enough) {
  let [speed, since] = [0, 0]; // the best, and how many measurements ago
  for (let count = 0; count < MOST && since < 4 && speed < enough; count++) {
    const now = measured(voice);
    since = now > 1.05 * speed ? 0 : since + 1;
    speed = Math.max(speed, now);
  }
  return speed;
}

onmessage = ({ data: { order, enough, ...instrument } }) => {
  try {
    const voice = new Voice(instrument, order ?? {});
    if (enough) {
      postMessage({ speed: speedOf(voice, enough) });
      return;
    }
    const samples = new Float32Array(Math.max(1, Math.round(order.seconds * instrument.sound.sample_rate)));
    for (let first = 0; first < samples.length; first += BLOCK) {
      samples.set(voice.render(Math.min(BLOCK, samples.length - first)), first);
    }
    postMessage({ samples }, { transfer: [samples.buffer] });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
