/** Plays the model's sound and knows, to the millisecond, how much of each item was heard. */

import { Decoder, RATE } from "./pcm.js";

export class Player {
  #context = null;
  #node = null;
  #loading = null;
  #epoch = 0;
  #played = 0;
  #items = [];
  #stops = new Map();

  /** `onProgress({seconds, peak})` while sound is played; `onFirstSound(itemId)` when its first sample went out. */
  constructor({ onProgress, onFirstSound }) {
    this.onProgress = onProgress;
    this.onFirstSound = onFirstSound;
  }

  /** Opens the loudspeaker. Browsers allow it only inside a click or key press, so call this before any await. */
  unlock() {
    this.#context ??= new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    this.#context.resume();
    this.#loading ??= this.#load().catch((error) => {
      this.#loading = null; // the next try may succeed
      throw error;
    });
    return this.#loading;
  }

  /** Whether there is sound that was not played yet. */
  get pending() {
    return this.#pushed > this.#played;
  }

  push(itemId, base64) {
    const item = this.#item(itemId);
    const samples = item.decoder.decode(base64);
    item.to += samples.length;
    this.#node?.port.postMessage({ push: samples }, [samples.buffer]);
  }

  /** The item has all its sound: what is left of it need not wait for more. */
  finish(itemId) {
    const item = this.#items.find((item) => item.id === itemId);
    if (!item) return;
    item.complete = true;
    this.#node?.port.postMessage({ finish: true });
  }

  /** Seconds of the item that were heard and that came so far, and whether more is to come. */
  progress(itemId) {
    const item = this.#items.find((item) => item.id === itemId);
    return item ? measure(item, this.#played, this.#latency) : { heard: 0, received: 0, complete: false };
  }

  /** Stops at once. Resolves with what was cut off: `[{itemId, ms, share}]`, empty if nothing was. */
  async stop() {
    const items = this.#items;
    if (!this.#node || items.length === 0) return [];
    const played = await this.#clear();
    const cut = items.filter((item) => !item.complete || played < item.to);
    return cut.map((item) => {
      const { heard: seconds, received } = measure(item, played, this.#latency);
      return { itemId: item.id, ms: Math.floor(seconds * 1000), share: received ? seconds / received : 0 };
    });
  }

  get #pushed() {
    return this.#items.at(-1)?.to ?? 0;
  }

  /** Samples that were handed over but are still on their way to the ear. */
  get #latency() {
    return (this.#context?.outputLatency || 0) * RATE;
  }

  #item(itemId) {
    const last = this.#items.at(-1);
    if (last?.id === itemId) return last;
    const item = { id: itemId, from: this.#pushed, to: this.#pushed, complete: false, begun: false, decoder: new Decoder() };
    this.#items.push(item);
    return item;
  }

  #clear() {
    const ended = this.#epoch++;
    this.#items = [];
    this.#played = 0;
    this.#node.port.postMessage({ stop: this.#epoch });
    return new Promise((resolve) => this.#stops.set(ended, resolve));
  }

  async #load() {
    await this.#context.audioWorklet.addModule("player-worklet.js");
    this.#node = new AudioWorkletNode(this.#context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.#node.port.onmessage = ({ data }) => this.#hear(data);
    this.#node.connect(this.#context.destination);
  }

  #hear(data) {
    if ("stopped" in data) return this.#stopped(data);
    if (data.epoch === this.#epoch) this.#advance(data.played);
    this.onProgress({ seconds: data.total / RATE, peak: data.peak });
  }

  #stopped({ stopped, played }) {
    this.#stops.get(stopped)?.(played);
    this.#stops.delete(stopped);
  }

  #advance(played) {
    this.#played = played;
    for (const item of this.#items) {
      if (item.begun || played <= item.from) continue;
      item.begun = true;
      this.onFirstSound(item.id);
    }
  }
}

function measure(item, played, latency) {
  const length = item.to - item.from;
  const over = item.complete && played >= item.to; // the latency passes without further reports
  const heard = over ? length : Math.min(Math.max(played - latency - item.from, 0), length);
  return { heard: heard / RATE, received: length / RATE, complete: item.complete };
}
