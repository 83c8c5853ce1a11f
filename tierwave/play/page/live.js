/** Playing: connects what the person does (sliders, curves, keys, MIDI, transport) with the player, and what it tells with the page. */

import { Controls } from "./controls.js";
import { readPoints } from "./curve.js";
import { byId, element } from "./elements.js";
import { Keys } from "./keys.js";
import { Midi } from "./midi.js";
import { Notes } from "./notes.js";
import { Player } from "./player.js";
import { Scope } from "./scope.js";
import { askRun } from "./server.js";
import { Takes } from "./takes.js";
import { clock, labelOf, valueAt } from "./units.js";

const STATUS_MS = 250; // between two changes of the status line
const LARGEST_LEAD = 0.2; // seconds to which gaps may raise the buffer; the person at the page may raise it further
const LONGEST_TAKE = 1800; // seconds, which are held in memory

/** @param {any} run @returns {import("./units.js").Parameter[]} what is set live besides the parameters */
function amountsOf(run) {
  /** @type {any} */
  const amount = { units: null, low: 0, interp: "linear", outside: "clip", category: false, categories: [], values: [] };
  /** @type {any[]} */
  const all = [{ ...amount, name: "temperature", label: "Temperature", high: 2, scale: "linear", initial: run.temperature.initial }];
  if (run.top_k.high) all.push({ ...amount, name: "top_k", label: "Top-k", high: run.top_k.high, scale: "log1p", whole: true, initial: run.top_k.initial });
  if (run.blend) all.push({ ...amount, name: "blend", label: "Blend", high: 1, scale: "linear", initial: run.blend.initial, told: `0: ${run.id}, 1: ${run.blend.other}` });
  const taken = run.parameters.map(({ name }) => name);
  return all.filter(({ name }) => !taken.includes(name));
}

/** @param {import("./takes.js").Take} take @returns {boolean} whether its sound is kept when it is played */
const isKept = ({ samples, seconds }) => !samples && seconds > 0 && seconds <= LONGEST_TAKE;

/** @param {any} run @returns {string} what must not change while its page is open */
const essence = ({ id, sample_rate, parameters, takes_over, blend }) => JSON.stringify([id, sample_rate, parameters, takes_over, blend]);

export class Live {
  /**
   * @param {any} run what GET /api/run tells; its checkpoints are kept up to date
   * @param {{say: (sentence: string) => void, listed: () => void}} page listed: told that there are other checkpoints
   */
  constructor(run, { say, listed }) {
    this.run = run;
    this.say = say;
    this.listed = listed;
    this.plays = run.checkpoint; // that is played, or will be
    this.player = new Player(run);
    this.recording = false;
    this.up = false; // the server
    this.away = false; // it was away, and it is not known yet whether it came back as it was
    this.curves = false; // whether they are played
    this.origin = 0; // the sample at which they began
    this.underruns = 0; // that were seen in this run
    /** @type {Map<string, [number, number][]>} what sliders follow while a take is replayed */
    this.following = new Map();
    /** @type {import("./takes.js").Take | null} */
    this.replayed = null;
    this.controls = new Controls(run.parameters, amountsOf(run), {
      changed: (values, event) => this.#changed(values, event),
      drawn: () => this.#drawn(),
      seconds: () => this.curveSeconds,
      say,
    });
    this.notes = new Notes(run.parameters, {
      turn: (name, value, event) => this.controls.turn(name, value, event),
      value: (name) => this.controls.controls.get(name).value,
      drawn: (name) => this.following.has(name) || this.controls.curves.get(name).followed,
    });
    this.keys = new Keys(this.notes, { toggle: () => this.toggle(), record: () => this.record() });
    this.scope = new Scope(this.player);
    this.takes = new Takes(run.sample_rate, run.id, {
      replay: (take) => this.replay(take), say, isThere: (checkpoint) => this.run.checkpoints.some(({ name }) => name === checkpoint),
    });
    this.#transport();
    this.#checkpoints();
    this.#choosePitch();
    this.#gate();
    this.#midi();
    this.#listen();
    byId("curves").hidden = byId("keys").hidden = run.parameters.length === 0;
    this.#status();
  }

  get curveSeconds() {
    return Math.min(60, Math.max(0.1, byId("curve-seconds").valueAsNumber || 4));
  }

  // ---- what the person does ------------------------------------------------------------------------------------------

  #transport() {
    byId("start").onclick = () => this.toggle();
    byId("record").onclick = () => this.record();
    byId("volume").oninput = ({ target }) => this.player.setVolume(target.valueAsNumber ** 2);
    this.player.setVolume(byId("volume").valueAsNumber ** 2);
    this.#lead(this.player.lead);
    byId("lead").onchange = ({ target }) => this.#lead(Math.min(500, Math.max(20, target.valueAsNumber || 80)) / 1000);
    byId("play-curves").onclick = () => this.playCurves(!this.curves);
    byId("curve-loop").onchange = () => this.#drawn();
    byId("curve-seconds").onchange = () => {
      for (const curve of this.controls.curves.values()) curve.write();
      this.#drawn();
    };
  }

  #checkpoints() {
    const { takes_over } = this.run;
    const choice = byId("checkpoint");
    this.#list();
    choice.onchange = () => {
      if (!this.player.playing) this.plays = choice.value;
      else if (takes_over) this.#takeOver(choice.value, labelOf(this.run.checkpoints, choice.value));
      else this.start();
    };
    byId("newest").hidden = !takes_over;
    byId("newest").textContent = takes_over === "best" ? "Best" : "Newest";
    byId("newest").title = `Go over to the ${takes_over} checkpoint that there is, while the sound goes on`;
    byId("newest").onclick = () => this.#takeOver(null, `the ${takes_over} checkpoint`);
  }

  #takeOver(checkpoint, label) {
    this.say(`Reading ${label} …`);
    this.player.takeOver(checkpoint);
  }

  /** The checkpoints that there are, and the one that plays, of which the files may be gone. */
  #list() {
    const { checkpoints, takes_over } = this.run;
    const names = new Set([...checkpoints.map(({ name }) => name), this.plays]);
    const option = (name) => element("option", { value: name, selected: name === this.plays }, labelOf(checkpoints, name));
    byId("checkpoint").replaceChildren(...[...names].map(option));
    byId("checkpoint-choice").hidden = names.size < 2 && !takes_over;
  }

  /** Another checkpoint plays, or will. */
  #taken({ checkpoint, checkpoints }) {
    this.plays = checkpoint;
    this.run.checkpoints = checkpoints;
    this.#list();
    this.listed();
    this.say(`${this.player.playing ? "Now plays" : "Next plays"} ${labelOf(checkpoints, checkpoint)}.`);
  }

  #lead(seconds) {
    this.player.setLead(seconds);
    byId("lead").value = String(Math.round(1000 * seconds));
  }

  #choosePitch() {
    const choice = byId("keys-play");
    const free = this.run.parameters.filter(({ category, low, high }) => !category && low !== high);
    choice.append(...free.map(({ name }) => element("option", { value: name, selected: name === this.notes.pitch?.name }, name)));
    choice.append(element("option", { value: "", selected: !this.notes.pitch }, "nothing"));
    choice.onchange = () => {
      this.notes.pitch = free.find(({ name }) => name === choice.value);
      this.keys.rebuild();
    };
  }

  #gate() {
    const { loudness, gate } = this.notes;
    byId("gate-choice").hidden = !gate;
    if (!gate) return;
    byId("gate-name").textContent = loudness.name;
    byId("gate").onchange = (event) => gate.use(event.target.checked, event);
  }

  #midi() {
    const button = byId("midi");
    button.hidden = !Midi.exists;
    const move = (name, position, event) => this.controls.turn(name, valueAt(this.controls.controls.get(name).parameter, position), event);
    this.midi = new Midi(this.notes, this.controls.learning, move);
    button.onclick = async () => {
      try {
        await this.midi.open((sentence) => this.say(sentence));
      } catch {
        this.say("The browser does not let this page have MIDI: allow it in the settings of this page.");
      }
    };
  }

  #changed(values, event) {
    for (const name of Object.keys(values)) this.following.delete(name);
    if (this.run.blend && "blend" in values) this.player.setBlend(values.blend);
    else this.player.set(values, event);
  }

  /** A curve, their length or loop has changed. */
  #drawn() {
    if (!this.curves) return;
    this.pending ??= requestAnimationFrame(() => {
      this.pending = undefined;
      if (!this.curves) return;
      if (this.controls.followed().length) this.player.setCurves(this.#allCurves());
      else this.playCurves(false);
    });
  }

  #allCurves() {
    return { curves: this.controls.followed(), seconds: this.curveSeconds, loop: byId("curve-loop").checked };
  }

  /** @param {boolean} on */
  playCurves(on) {
    if (on && !this.controls.followed().length) {
      this.say("No curve is followed yet: unfold one at a slider and draw it.");
      return;
    }
    this.curves = on;
    if (on && !this.player.playing) this.start();
    else this.player.setCurves(on ? this.#allCurves() : null);
    this.#status();
  }

  toggle() {
    if (this.player.playing) this.stop();
    else this.start();
  }

  /** @param {boolean} [recording] */
  async start(recording = false) {
    const { temperature, top_k, ...values } = this.controls.values();
    const blend = this.#blend();
    for (const name of Object.keys(blend)) delete values[name];
    const curves = this.curves ? this.#allCurves() : undefined;
    for (const { name, cells } of curves?.curves ?? []) values[name] = cells[0];
    const seed = byId("seed").valueAsNumber;
    await this.#begin(
      { values, temperature, top_k, ...blend, checkpoint: byId("checkpoint").value || null, random_seed: seed >= 0 ? Math.floor(seed) : null },
      { recording, curves },
    );
  }

  /** @returns {{blend?: number}} how the slider stands, if there is another run */
  #blend() {
    return this.run.blend ? { blend: this.controls.controls.get("blend").value } : {};
  }

  /** @param {import("./takes.js").Take} take */
  async replay(take) {
    const { controls, random_seed } = take.start;
    const chosen = byId("checkpoint").value || null;
    const begun = await this.#begin(
      { checkpoint: chosen, ...this.#blend(), ...take.start, random_seed: random_seed ?? null },
      { seconds: take.seconds, recording: isKept(take), following: new Map(Object.entries(controls)) },
    );
    if (begun) this.replayed = take;
  }

  async #begin(asked, { following = new Map(), ...how }) {
    try {
      if (this.up && this.away) throw new Error("The server is back with another run: reload this page.");
      if (this.recording) await this.#keep();
      this.replayed = null;
      if (!how.curves) this.curves = false;
      this.following = following;
      const { remarks } = await this.player.start(asked, how);
      if (this.run.blend) this.controls.show({ blend: asked.blend });
      this.recording = this.player.playing && Boolean(how.recording) && !following.size;
      if (remarks.length) this.say(remarks.join(" "));
      this.#status();
      return this.player.playing;
    } catch (error) {
      this.following = new Map();
      this.curves = false;
      this.say(error.message);
      this.#status();
      return false;
    }
  }

  async stop() {
    if (this.recording) await this.#keep();
    this.player.stop();
  }

  /** Begin a take at sample 0, or end it. */
  async record() {
    if (this.recording) await this.#keep();
    else await this.start(true);
  }

  async #keep() {
    this.recording = false;
    this.#status();
    try {
      const recorded = await this.player.record();
      this.takes.add(recorded);
      if (recorded.remarks?.length) this.say(recorded.remarks.join(" "));
    } catch (error) {
      this.say(error.message);
    }
  }

  // ---- what the player tells -----------------------------------------------------------------------------------------

  #listen() {
    const on = (type, act) => this.player.addEventListener(type, (event) => act(/** @type {CustomEvent} */ (event).detail));
    on("link", ({ up }) => this.#linked(up));
    on("stopped", () => this.#ended());
    on("ended", () => this.#played());
    on("position", ({ position, underruns }) => {
      this.#moved(position / this.run.sample_rate);
      this.#gaps(underruns);
    });
    on("values", ({ values, remarks }) => {
      this.controls.show(values);
      if (remarks.length) this.say(remarks.join(" "));
    });
    on("plays", (message) => this.#taken(message));
    on("asked", ({ order }) => this.#obey(order));
    on("remarks", ({ remarks }) => this.say(remarks.join(" ")));
    on("pace", (pace) => (this.pace = pace));
    on("error", ({ to, message }) => {
      if (to === "take_over") byId("checkpoint").value = this.plays;
      this.say(message);
    });
    on("curves", ({ origin, ended }) => {
      this.origin = origin ?? this.origin;
      if (ended) this.playCurves(false);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden || !this.player.playing || byId("play-on").checked) return;
      this.stop();
      this.say("Stopped while the page was hidden; \u201cplay on when hidden\u201d keeps it going.");
    });
    addEventListener("beforeunload", (event) => (this.recording || this.takes.unsaved) && event.preventDefault());
    addEventListener("pagehide", () => this.player.close());
    addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
  }

  /** Start or stop, as somebody has asked by OSC. @param {"start" | "stop"} order */
  #obey(order) {
    if ((order === "start") === this.player.playing) return;
    if (order === "stop") {
      this.stop();
    } else if (navigator.userActivation?.hasBeenActive === false) {
      this.say("OSC asks for a start: click anywhere on this page first, since browsers let no page sound before.");
    } else {
      this.start();
    }
  }

  async #linked(up) {
    this.up = up;
    byId("start").disabled = byId("record").disabled = !up || this.away;
    if (!up) {
      this.away = true;
      this.say("The server is gone. This page looks for it again and again.");
    } else if (this.away) {
      await this.#back();
    }
  }

  /** The server is there again: with the same run? */
  async #back() {
    let run;
    try {
      run = await askRun();
    } catch {
      setTimeout(() => this.up && this.#linked(true), 1000);
      return;
    }
    if (!this.up) return; // gone again
    if (essence(run) !== essence(this.run)) {
      if (!this.takes.unsaved) location.reload();
      else this.say("The server is back with another run: save your takes, then reload this page.");
      return;
    }
    this.away = false;
    const isThere = run.checkpoints.some(({ name }) => name === this.plays);
    this.#taken({ checkpoint: isThere ? this.plays : run.checkpoint, checkpoints: run.checkpoints });
    this.#linked(true);
    this.say("The server is back.");
  }

  #ended() {
    this.recording = this.curves = false;
    this.following = new Map();
    for (const curve of this.controls.curves.values()) curve.setPlayhead(-1);
    this.#status();
  }

  async #played() {
    const take = this.replayed;
    if (take && isKept(take)) this.takes.heard(take, (await this.player.received()).samples);
    this.player.stop();
  }

  /** After a gap that was heard, a little more sound lies ready. */
  #gaps(underruns) {
    const more = underruns > this.underruns;
    this.underruns = underruns;
    if (!more || !this.player.playing || this.player.lead >= LARGEST_LEAD) return;
    this.#lead(Math.min(LARGEST_LEAD, this.player.lead + this.run.block / this.run.sample_rate));
    this.say(`There was a gap: the buffer is raised to ${Math.round(1000 * this.player.lead)} ms.`);
  }

  #moved(seconds) {
    if (!this.player.playing) return;
    if (this.recording && seconds >= LONGEST_TAKE) {
      this.record();
      this.say(`The take is ended after ${LONGEST_TAKE / 60} minutes.`);
    }
    for (const [name, points] of this.following) {
      const control = this.controls.controls.get(name);
      control?.show(readPoints(points, seconds, control.parameter.interp === "previous"));
    }
    const passed = (seconds - this.origin / this.run.sample_rate) / this.curveSeconds;
    for (const curve of this.controls.curves.values()) {
      const runs = this.curves && curve.followed && passed >= 0;
      const fraction = byId("curve-loop").checked ? passed % 1 : Math.min(1, passed);
      curve.setPlayhead(runs ? fraction : -1);
      if (runs) this.controls.show({ [curve.parameter.name]: curve.at(fraction) });
    }
    const now = performance.now();
    if (now - (this.shown ?? 0) < STATUS_MS) return;
    this.shown = now;
    this.#status();
  }

  #status() {
    const { playing, position, latencies } = this.player;
    document.body.classList.toggle("playing", playing);
    byId("start").textContent = playing ? "Stop" : "Start";
    byId("start").setAttribute("aria-pressed", String(playing));
    byId("record").textContent = this.recording ? "End take" : "Record";
    byId("record").setAttribute("aria-pressed", String(this.recording));
    byId("play-curves").textContent = this.curves ? "Stop curves" : "Play curves";
    byId("play-curves").setAttribute("aria-pressed", String(this.curves));
    const heard = latencies.slice(-20).sort((a, b) => a - b);
    byId("state").textContent = !playing ? "Ready" : this.recording ? "Recording" : this.following.size ? "Replaying" : "Playing";
    byId("time").textContent = clock(playing ? position.position / this.run.sample_rate : 0);
    byId("latency").textContent = heard.length ? `${Math.round(heard[heard.length >> 1])} ms` : "–";
    byId("underruns").textContent = String(position.underruns);
    byId("speed").textContent = `${(this.pace?.speed ?? this.run.speed ?? 0).toFixed(1)} ×`;
    const device = Math.round(1000 * this.player.outputSeconds);
    byId("latency").title = `From your hand to the first sample that carries it${device ? `; the sound device adds about ${device} ms` : ""}`;
  }

  /** @returns {object} for tests and the curious */
  state() {
    const { playing, position } = this.player;
    return { playing, recording: this.recording, curves: this.curves, replaying: this.following.size > 0, ...position };
  }
}
