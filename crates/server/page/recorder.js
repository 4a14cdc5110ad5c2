/** The microphone as pieces of 24 kHz PCM16. */

export class Recorder {
  #stream = null;
  #context = null;

  /** `onPiece(samples, level)` every 40 ms; `onEnd()` when the device went away by itself. */
  constructor({ onPiece, onEnd }) {
    this.onPiece = onPiece;
    this.onEnd = onEnd;
  }

  get on() {
    return this.#context !== null;
  }

  /** Asks for the microphone and starts; rejects with an error whose message is meant for people. */
  async start({ processing }) {
    const stream = await openMicrophone(processing);
    const context = new AudioContext();
    this.#stream = stream;
    this.#context = context;
    stream.getAudioTracks()[0].addEventListener("ended", () => this.on && this.onEnd());
    context.resume().catch(() => {}); // it rejects when the microphone is turned off meanwhile
    await context.audioWorklet.addModule("recorder-worklet.js");
    if (this.#context === context) this.#connect();
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#context?.close();
    this.#stream = this.#context = null;
  }

  #connect() {
    const source = this.#context.createMediaStreamSource(this.#stream);
    const node = new AudioWorkletNode(this.#context, "recorder", { channelCount: 1, channelCountMode: "explicit", outputChannelCount: [1] });
    node.port.onmessage = ({ data }) => this.on && this.onPiece(data.samples, data.level);
    source.connect(node).connect(this.#context.destination);
  }
}

async function openMicrophone(processing) {
  if (!navigator.mediaDevices) throw new Error("Browsers give the microphone only to pages over https or on localhost. Open this page that way, or type your question.");
  const audio = { channelCount: 1, echoCancellation: processing, noiseSuppression: processing, autoGainControl: processing };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Error(whyNoDevice(error, "microphone"), { cause: error });
  }
}

/** What a failed `getUserMedia` means to the person in front of it. */
export function whyNoDevice(error, device) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return `Permission to use the ${device} was denied. Allow it in the browser's settings for this site, then try again.`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No ${device} was found. Connect one and try again.`;
    case "NotReadableError":
    case "AbortError":
      return `The ${device} cannot be read. Perhaps another program is using it.`;
    default:
      return `The ${device} cannot be opened: ${error.message}`;
  }
}
