"""The conversations that nano's tests hold it to, answered by transformers:

    pip install torch==2.11.0 torchvision transformers==5.23.0 pillow soundfile
    python golden.py CHECKPOINT SAMPLES

SAMPLES/conversations.json says what is asked, with files beside it, and what is expected. Texts, codes and lengths of the answers are written
into it: greedy, f32, eager attention. Nothing is written if an answer is not the expected one.
"""

import json
import sys
from pathlib import Path

import soundfile
import torch
from PIL import Image
from transformers import Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeProcessor


def load(directory):
    model, report = Qwen3OmniMoeForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    # The talker asks its config for a part that only the thinker's has.
    model.talker.config.audio_config = model.config.thinker_config.audio_config
    return model.eval(), Qwen3OmniMoeProcessor.from_pretrained(directory)


def ask(model, processor, content, folder):
    """The text, the codes `[codebooks, frames]` and the samples of an answer."""
    sounds, pictures = [], []
    for part in content:
        if part["type"] == "audio":
            samples, rate = soundfile.read(folder / part["audio"], dtype="float32")
            assert rate == 16000 and samples.ndim == 1, part["audio"]
            sounds.append(samples)
        elif part["type"] == "image":
            pictures.append(Image.open(folder / part["image"]).convert("RGB"))
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=prompt, audio=sounds or None, images=pictures or None, return_tensors="pt", padding=True)
    codes = []
    decode = model.code2wav.chunked_decode

    def watched(given, **more):
        codes.append(given)
        return decode(given, **more)

    model.code2wav.chunked_decode = watched
    ids, wave = model.generate(
        **inputs,
        speaker="Ethan",
        thinker_max_new_tokens=64,
        thinker_eos_token_id=model.config.im_end_token_id,
        talker_do_sample=False,
        talker_max_new_tokens=240,
        talker_repetition_penalty=1.05,
    )
    model.code2wav.chunked_decode = decode
    text = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text, codes[0][0].tolist(), wave[0, 0].numel()


def main():
    checkpoint, samples = Path(sys.argv[1]), Path(sys.argv[2])
    path = samples / "conversations.json"
    conversations = json.loads(path.read_text())
    model, processor = load(checkpoint)
    wrong = 0
    for case in conversations:
        with torch.no_grad():
            text, codes, length = ask(model, processor, case["content"], samples)
        wrong += text != case["expected"]
        print(f"{case['name']}: {text!r}, expected {case['expected']!r}, {len(codes[0])} frames")
        case.update(text=text, codes=codes, samples=length)
    if wrong:
        sys.exit(f"{wrong} answers are not the expected ones; nothing was written")
    path.write_text(json.dumps(conversations, separators=(",", ":")))


main()
