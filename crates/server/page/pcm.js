/** PCM16 in base64, as the realtime events carry sound, and samples as Web Audio wants them. */

export const RATE = 24_000;

/** Encodes 16-bit samples. A piece is small (40 ms), so one call with all its bytes as arguments is safe. */
export function encode(samples) {
  return btoa(String.fromCharCode(...new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength)));
}

/** Decodes the pieces of one item. A piece may end inside a sample: the odd byte waits for the next piece. */
export class Decoder {
  #odd = "";

  decode(base64) {
    const bytes = this.#odd + atob(base64);
    const count = bytes.length >> 1;
    this.#odd = bytes.slice(count * 2);
    const samples = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const word = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
      samples[i] = (word > 0x7fff ? word - 0x10000 : word) / 0x8000;
    }
    return samples;
  }
}
