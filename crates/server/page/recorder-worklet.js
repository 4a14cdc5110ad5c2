/**
 * The audio thread's half of the recorder: any rate in, pieces of 40 ms PCM16 at 24 kHz out.
 *
 * Messages out: `{samples: Int16Array, level}`, level being the piece's peak.
 */

const RATE = 24_000;
const PIECE = 0.04 * RATE;
// Zero crossings of the low-pass on each side: 32 gives a stop band below 16 bits' noise for speech.
const CROSSINGS = 32;

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** Blackman's window on -1…1. */
function blackman(x) {
  return 0.42 + 0.5 * Math.cos(Math.PI * x) + 0.08 * Math.cos(2 * Math.PI * x);
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/**
 * A polyphase resampler by a rational factor, windowed sinc.
 *
 * The recorder does not ask the context for 24 kHz: Firefox refuses a microphone of another rate there.
 */
class Resampler {
  constructor(from, to) {
    const shared = gcd(from, to);
    this.up = to / shared;
    this.down = from / shared;
    const cutoff = Math.min(1, to / from) * 0.95; // of the input's Nyquist frequency
    this.half = Math.ceil(CROSSINGS / cutoff);
    this.phases = Array.from({ length: this.up }, (_, phase) => this.#taps(phase / this.up, cutoff));
    this.input = new Float32Array(2 * this.half); // silence before the first sample
    this.position = this.half * this.up; // of the next output sample, in steps of 1 / (from · up)
  }

  /** Returns the output samples that `input` completes. */
  process(input) {
    this.#append(input);
    const out = [];
    while (Math.floor(this.position / this.up) + this.half < this.input.length) {
      out.push(this.#sample(Math.floor(this.position / this.up), this.phases[this.position % this.up]));
      this.position += this.down;
    }
    this.#forget();
    return out;
  }

  #taps(fraction, cutoff) {
    const taps = new Float32Array(2 * this.half);
    for (let i = 0; i < taps.length; i++) {
      const x = i - this.half + 1 - fraction;
      taps[i] = cutoff * sinc(cutoff * x) * blackman(Math.min(1, Math.abs(x) / this.half));
    }
    const gain = taps.reduce((sum, tap) => sum + tap, 0);
    return taps.map((tap) => tap / gain);
  }

  #append(input) {
    const joined = new Float32Array(this.input.length + input.length);
    joined.set(this.input);
    joined.set(input, this.input.length);
    this.input = joined;
  }

  #sample(centre, taps) {
    const first = centre - this.half + 1;
    let sum = 0;
    for (let i = 0; i < taps.length; i++) sum += taps[i] * this.input[first + i];
    return sum;
  }

  #forget() {
    const done = Math.max(0, Math.floor(this.position / this.up) - this.half);
    this.input = this.input.slice(done);
    this.position -= done * this.up;
  }
}

class RecorderProcessor extends AudioWorkletProcessor {
  #resampler = sampleRate === RATE ? null : new Resampler(sampleRate, RATE);
  #piece = new Int16Array(PIECE);
  #filled = 0;
  #level = 0;

  /** The output stays silent; it is connected only because some browsers do not run a node that leads nowhere. */
  process([channels]) {
    const input = channels[0];
    if (!input) return true; // no microphone connected yet
    for (const sample of this.#resampler ? this.#resampler.process(input) : input) this.#add(sample);
    return true;
  }

  #add(sample) {
    this.#level = Math.max(this.#level, Math.abs(sample));
    this.#piece[this.#filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 0x7fff);
    if (this.#filled === PIECE) this.#send();
  }

  #send() {
    this.port.postMessage({ samples: this.#piece, level: this.#level }, [this.#piece.buffer]);
    this.#piece = new Int16Array(PIECE);
    this.#filled = 0;
    this.#level = 0;
  }
}

registerProcessor("recorder", RecorderProcessor);
