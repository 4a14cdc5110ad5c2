"""Media of the tests, and what is asked of sound."""

import base64
import io
import pathlib

import numpy as np
import soundfile

MEDIA = pathlib.Path(__file__).parents[3] / "examples" / "assets" / "nano-samples"
RATE = 24_000


def data_url(name, mime):
    return f"data:{mime};base64,{b64(name)}"


def b64(name):
    return base64.b64encode((MEDIA / name).read_bytes()).decode()


def picture(name):
    return {"type": "image_url", "image_url": {"url": data_url(name, "image/png")}}


def sound(name):
    return {"type": "input_audio", "input_audio": {"data": b64(name), "format": "wav"}}


def text(words):
    return {"type": "text", "text": words}


def plain(words):
    """An answer without case, punctuation and doubled blanks."""
    return " ".join("".join(c if c.isalnum() or c.isspace() else " " for c in words.lower()).split())


def decode(data):
    """Samples and rate of a sound file in memory: WAV, FLAC, MP3, Ogg."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples.mean(1), rate


def from_pcm16(data):
    assert len(data) % 2 == 0, "half a sample"
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def to_pcm16(samples):
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def resample(samples, rate, to):
    """By the spectrum; exact for a sound that begins and ends in silence."""
    length = len(samples) * to // rate
    spectrum = np.fft.rfft(samples)
    wanted = np.zeros(length // 2 + 1, complex)
    shared = min(len(spectrum), len(wanted))
    wanted[:shared] = spectrum[:shared]
    return (np.fft.irfft(wanted, length) * to / rate).astype(np.float32)


def spoken(name, before=0.3, after=1.2):
    """A recording of `media` as a microphone at 24 kHz hears it, with silence around it; PCM16."""
    samples, rate = decode((MEDIA / name).read_bytes())
    samples = resample(samples, rate, RATE)
    return to_pcm16(np.concatenate([np.zeros(int(before * RATE)), samples, np.zeros(int(after * RATE))]))


def check_speech(samples, words, rate=RATE):
    """That `samples` can be the voice of nano saying `words`: long enough, not too long, loud, not one tone or noise."""
    seconds = len(samples) / rate
    count = len(plain(words).split())
    assert 0.15 * count < seconds < 1.2 * count + 1.0, f"{seconds:.2f} s for {count} words"
    assert np.isfinite(samples).all()
    peak = np.abs(samples).max()
    assert 0.02 < peak <= 1.0, f"peak {peak}"
    frames = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    loud = np.sqrt((frames**2).mean(1)) > 0.02 * peak
    assert loud.mean() > 0.2, f"only {loud.mean():.0%} of it is not silent"
    spectrum = np.abs(np.fft.rfft(frames[loud] * np.hanning(480))) ** 2 + 1e-12
    flatness = np.exp(np.log(spectrum).mean(1)) / spectrum.mean(1)
    assert np.median(flatness) < 0.5, "noise, not a voice"


def same_sound(a, b, tolerance=0.02):
    """That two sounds are the same, but for what a codec loses."""
    n = min(len(a), len(b))
    assert abs(len(a) - len(b)) < RATE * 0.2, f"{len(a)} and {len(b)} samples"
    assert np.sqrt(((a[:n] - b[:n]) ** 2).mean()) < tolerance
