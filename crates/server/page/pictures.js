/** Pictures from a file or the camera, as data URLs of a size that a model can use. */

import { whyNoDevice } from "./recorder.js";

const LARGEST_SIDE = 1024;

/** Reads a picture file; rejects with an error whose message is meant for people. */
export async function readPicture(file) {
  // `from-image` turns a phone's photograph the right way up; a decoder on the server may not.
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (!bitmap) throw new Error(`The browser cannot read “${file.name}” as a picture.`);
  const fits = Math.max(bitmap.width, bitmap.height) <= LARGEST_SIDE;
  if (file.type === "image/png" && fits) return asDataUrl(file); // drawings stay exact
  return draw(bitmap, bitmap.width, bitmap.height, file.type === "image/png" ? "image/png" : "image/jpeg");
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Scales the source down to the largest side and encodes it. */
function draw(source, width, height, type) {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(type, 0.9);
}

/** The camera in a dialog: shows what it sees, takes one frame. */
export class Camera {
  #dialog;
  #video;
  #stream = null;

  constructor(dialog) {
    this.#dialog = dialog;
    this.#video = dialog.querySelector("video");
    dialog.addEventListener("close", () => this.#release());
  }

  async open() {
    if (!navigator.mediaDevices) throw new Error("Browsers give the camera only to pages over https or on localhost. Choose a file instead.");
    this.#dialog.showModal();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      this.#stream = stream;
      if (!this.#dialog.open) return this.#release(); // closed while the browser asked
      this.#video.srcObject = stream;
    } catch (error) {
      this.close();
      throw new Error(whyNoDevice(error, "camera"), { cause: error });
    }
  }

  /** The frame that is on the screen, or null before the first one. */
  take() {
    const { videoWidth, videoHeight } = this.#video;
    return videoWidth ? draw(this.#video, videoWidth, videoHeight, "image/jpeg") : null;
  }

  close() {
    this.#dialog.close();
  }

  #release() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = this.#video.srcObject = null;
  }
}
