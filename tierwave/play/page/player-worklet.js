/**
 * The last link before the loudspeaker: a ring of samples that the worker fills and the audio thread empties.
 *
 * From the worker: {run, limit, lead} begins a run at sample 0; {run, first, samples} a block of it; {event, sample} asks
 * to be told when that sample leaves; {lead} another lead; {halt}. To the worker: {run, position}, the samples that have
 * left. To the page: {event, time}, {run, position, buffered, underruns}, {ended: run}. Times are Date.now(), the only
 * clock that all threads share.
 */

const RING = 1 << 17; // samples; more than the longest lead at any rate
const TELL = 0.05; // seconds between two reports to the page

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ring = new Float32Array(RING);
    this.run = 0; // none
    this.read = this.write = 0; // samples since the run began
    this.limit = Infinity; // where it ends
    this.lead = 0; // samples that must be there before it sounds
    this.waiting = true; // for the lead, at first and after an underrun
    this.underruns = 0;
    this.told = 0; // seconds
    /** @type {{event: number, sample: number}[]} */
    this.marks = [];
    this.port.onmessage = ({ data }) => {
      this.worker = data.port;
      this.worker.onmessage = (message) => this.take(message.data);
    };
  }

  take(data) {
    if (data.samples) {
      if (data.run === this.run && data.first === this.write % 2 ** 32) this.fill(data.samples);
    } else if (data.event) {
      this.marks.push(data);
    } else if (data.halt) {
      this.run = 0;
      this.marks = [];
    } else {
      this.lead = data.lead;
      if (data.run) {
        this.run = data.run;
        this.limit = data.limit ?? Infinity;
        this.read = this.write = this.underruns = 0;
        this.waiting = true;
        this.marks = [];
      }
    }
  }

  fill(samples) {
    const at = this.write % RING;
    const fits = Math.min(samples.length, RING - at);
    this.ring.set(samples.subarray(0, fits), at);
    this.ring.set(samples.subarray(fits), 0);
    this.write += samples.length;
  }

  process(_, [[output]]) {
    if (!this.run) return true;
    if (this.waiting) this.waiting = this.write < Math.min(this.read + this.lead, this.limit);
    if (!this.waiting) this.empty(output);
    if (currentTime - this.told >= TELL) this.tell();
    return true;
  }

  empty(output) {
    const wanted = this.read + output.length;
    const until = Math.min(wanted, this.write, this.limit);
    for (let index = 0; this.read < until; index++) output[index] = this.ring[this.read++ % RING];
    this.worker.postMessage({ run: this.run, position: this.read });
    const time = Date.now();
    this.marks = this.marks.filter(({ event, sample }) => {
      if (sample < this.read) this.port.postMessage({ event, time });
      return sample >= this.read;
    });
    if (this.read >= this.limit) {
      this.tell();
      this.port.postMessage({ ended: this.run });
      this.run = 0;
    } else if (until < wanted) {
      this.underruns += 1;
      this.waiting = true;
    }
  }

  tell() {
    this.told = currentTime;
    const { run, read, write, underruns } = this;
    this.port.postMessage({ run, position: read, buffered: write - read, underruns });
  }
}

registerProcessor("tierwave-player", Player);
