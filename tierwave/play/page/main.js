/** The page: asks what the run is, and shows what suits it. */

import { Controls } from "./controls.js";
import { byId } from "./elements.js";
import { Generator } from "./generate.js";
import { Live } from "./live.js";
import { askRun } from "./server.js";

const FAMILIES = { samplernn: "SampleRNN", conditioning: "conditional tier", cascade: "cascade", melnet: "MelNet" };

/** Sliders of a run that is not played: for what is generated. @param {any} run @returns {Controls} */
function stillControls(run) {
  byId("order").prepend(byId("parameters"));
  const seconds = () => byId("generate-seconds").valueAsNumber || 1;
  const controls = new Controls(run.parameters, [], { changed() {}, drawn() {}, seconds, say });
  byId("generate-seconds").onchange = () => controls.curves.forEach((curve) => curve.write());
  return controls;
}

/** @param {string} sentence to the person at the page */
function say(sentence) {
  byId("sentence").textContent = sentence;
}

async function open() {
  const run = await askRun();
  document.title = `${run.id} – Tierwave`;
  byId("title").textContent = run.id;
  byId("about").textContent = [FAMILIES[run.family] ?? run.family, `${run.rate} Hz`].join(", ");
  byId("warning").textContent = run.warning ?? "";
  byId("warning").hidden = !run.warning;
  byId("verdict").textContent = run.verdict;
  byId("verdict").hidden = !run.verdict;
  const isLive = run.kind === "steered" || run.kind === "sound";
  for (const part of document.querySelectorAll("[data-live]")) part.hidden = !isLive;
  byId("generate").open = run.kind !== "steered" || Boolean(run.warning); // too slow to be played
  const live = isLive ? new Live(run, { say, listed: () => generator.list() }) : null;
  const controls = live?.controls ?? stillControls(run);
  const generator = new Generator(run, say, () => controls.order());
  window.tierwave = live
    ? {
        /** @returns {number[]} ms from each event to the first sample that carried it */
        latencies: () => [...live.player.latencies],
        /** @returns {number} how often there was nothing to play, in this run */
        underruns: () => live.player.position.underruns,
        /** @returns {Promise<{run: number, first: number, samples: number[]}>} the last seconds that the server sent */
        received: async () => {
          const { run: number, first, samples } = await live.player.received();
          return { run: number, first, samples: [...samples] };
        },
        state: () => live.state(),
      }
    : { state: () => ({ playing: false }) };
  document.body.classList.add("ready");
}

open().catch((error) => say(error.message));
