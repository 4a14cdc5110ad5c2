/**
 * The audio thread's half of the player: a ring buffer that feeds the loudspeaker.
 *
 * Messages in: `{push: Float32Array}`, `{finish: true}` (the answer has no more sound), `{stop: epoch}`.
 * Messages out: `{epoch, played, total, peak, empty}` ten times a second and at each begin and end,
 * `{stopped: epoch, played}`. An epoch is the time between two stops; `played` counts its samples.
 */

const FIRST_CAPACITY = 30 * sampleRate;
const REPORT_QUANTA = Math.ceil((0.1 * sampleRate) / 128);
// After the sound ran dry inside an answer, wait for this much: one longer gap is better than many short ones.
const REBUFFER = 0.25 * sampleRate;

class RingBuffer {
  #samples = new Float32Array(FIRST_CAPACITY);
  #start = 0;
  length = 0;

  /** Answers come faster than they are played, so the buffer grows instead of dropping sound. */
  push(samples) {
    if (this.length + samples.length > this.#samples.length) this.#grow(this.length + samples.length);
    const capacity = this.#samples.length;
    const at = (this.#start + this.length) % capacity;
    const first = Math.min(samples.length, capacity - at);
    this.#samples.set(samples.subarray(0, first), at);
    this.#samples.set(samples.subarray(first), 0);
    this.length += samples.length;
  }

  /** Moves up to `out.length` samples into `out`; returns how many. */
  pull(out) {
    const count = Math.min(out.length, this.length);
    const capacity = this.#samples.length;
    const first = Math.min(count, capacity - this.#start);
    out.set(this.#samples.subarray(this.#start, this.#start + first));
    out.set(this.#samples.subarray(0, count - first), first);
    this.#start = (this.#start + count) % capacity;
    this.length -= count;
    return count;
  }

  clear() {
    this.#start = 0;
    this.length = 0;
  }

  #grow(needed) {
    const kept = this.length;
    const larger = new Float32Array(Math.max(needed, 2 * this.#samples.length));
    this.pull(larger.subarray(0, kept));
    this.#samples = larger;
    this.#start = 0;
    this.length = kept;
  }
}

class PlayerProcessor extends AudioWorkletProcessor {
  #ring = new RingBuffer();
  #epoch = 0;
  #played = 0;
  #total = 0;
  #peak = 0;
  #finished = false;
  #rebuffering = false;
  #sounding = false;
  #quanta = 0;
  #tail = null;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data.push) this.#push(data.push);
      else if (data.finish) this.#finished = true;
      else if (data.stop) this.#stop(data.stop);
    };
  }

  process(_inputs, [[out]]) {
    if (this.#tail) this.#playTail(out);
    else this.#play(out);
    return true;
  }

  #push(samples) {
    this.#finished = false;
    this.#ring.push(samples);
  }

  /** Answered at once, not in `process`: a suspended context must not keep the page waiting. */
  #stop(epoch) {
    if (this.#sounding) this.#takeTail();
    this.#ring.clear();
    this.port.postMessage({ stopped: this.#epoch, played: this.#played });
    this.#epoch = epoch;
    this.#played = 0;
    this.#finished = this.#rebuffering = this.#sounding = false;
  }

  /** Keeps one quantum (5 ms) to fade out: a hard cut clicks. */
  #takeTail() {
    this.#tail = new Float32Array(128);
    this.#count(this.#tail, this.#ring.pull(this.#tail));
    this.#tail.forEach((sample, i) => { this.#tail[i] = sample * (1 - i / 128); });
  }

  #playTail(out) {
    out.set(this.#tail.subarray(0, out.length));
    this.#tail = null;
    this.#report();
  }

  #play(out) {
    if (this.#rebuffering && !this.#finished && this.#ring.length < REBUFFER) return;
    this.#rebuffering = false;
    const count = this.#ring.pull(out);
    this.#count(out, count);
    if (count > 0 && !this.#sounding) this.#begin();
    if (this.#sounding && this.#ring.length === 0) this.#end();
    else if (count > 0 && ++this.#quanta % REPORT_QUANTA === 0) this.#report();
  }

  #count(samples, count) {
    for (let i = 0; i < count; i++) this.#peak = Math.max(this.#peak, Math.abs(samples[i]));
    this.#played += count;
    this.#total += count;
  }

  #begin() {
    this.#sounding = true;
    this.#quanta = 0;
    this.#report();
  }

  #end() {
    this.#sounding = false;
    this.#rebuffering = !this.#finished;
    this.#report();
  }

  #report() {
    this.port.postMessage({
      epoch: this.#epoch,
      played: this.#played,
      total: this.#total,
      peak: this.#peak,
      empty: this.#ring.length === 0,
    });
  }
}

registerProcessor("player", PlayerProcessor);
