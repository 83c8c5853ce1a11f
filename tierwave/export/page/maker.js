/** A worker that makes whole sounds, and measures how fast: {sound, weights, engine, order | milliseconds} in. */

import { Voice } from "./voice.js";

const BLOCK = 256;

onmessage = ({ data: { sound, weights, engine, order, milliseconds } }) => {
  try {
    const voice = new Voice({ sound, weights, engine: new WebAssembly.Module(engine) }, order ?? { random_seed: 0 });
    if (milliseconds) {
      const took = [];
      for (const end = performance.now() + milliseconds; performance.now() < end; ) {
        const began = performance.now();
        voice.render(BLOCK);
        took.push(performance.now() - began);
      }
      const quick = took.sort((a, b) => a - b)[took.length >> 2]; // others may be using the machine just now
      postMessage({ speed: (1000 * BLOCK) / sound.sample_rate / quick });
      return;
    }
    const samples = new Float32Array(Math.max(1, Math.round(order.seconds * sound.sample_rate)));
    for (let first = 0; first < samples.length; first += BLOCK) {
      samples.set(voice.render(Math.min(BLOCK, samples.length - first)), first);
    }
    postMessage({ samples, remarks: voice.remarks }, { transfer: [samples.buffer] });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
