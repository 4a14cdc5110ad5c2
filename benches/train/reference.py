"""The steps of `train_steps`, taken with PyTorch and transformers on one thread: the same checkpoint and sizes.

    pip install torch==2.11 transformers==5.23.0
    python benches/train/reference.py [MODEL] [RUNS]

Prints the same JSON lines; times are processor time.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from transformers import Qwen3OmniMoeForConditionalGeneration

MODEL = sys.argv[1] if len(sys.argv) > 1 else "examples/assets/nano"
RUNS = int(sys.argv[2]) if len(sys.argv) > 2 else 9


def timed(stage, rows, step):
    step()
    times = []
    for _ in range(1, RUNS):
        started = time.process_time()
        step()
        times.append((time.process_time() - started) * 1e3)
    times.sort()
    half = len(times) // 2
    median = times[half] if len(times) % 2 else (times[half - 1] + times[half]) / 2
    line = {"stage": stage, "rows": rows, "median_ms": round(median, 1), "min_ms": round(times[0], 1), "runs": len(times)}
    print(json.dumps(line), flush=True)


def stepper(parameters, loss):
    """A step of AdamW with clipping, as the trainer takes it."""
    parameters = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def step():
        optimizer.zero_grad()
        value = loss()
        value.item()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def words(*shape):
    return torch.randint(0, 256, shape)


def thinker(model):
    ids = words(48, 40)
    text = model.thinker.model

    def loss():
        logits = model.thinker.lm_head(text(input_ids=ids).last_hidden_state)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    return stepper([*text.parameters(), *model.thinker.lm_head.parameters()], loss)


def talker(model):
    talker, predictor = model.talker, model.talker.code_predictor
    embeds = torch.randn(20, 85, talker.config.text_config.hidden_size)
    codes = words(20, 60, 4)

    def loss():
        first = talker.get_input_embeddings()(codes[..., 0])
        residual = [table(codes[..., book + 1]) for book, table in enumerate(predictor.get_input_embeddings())]
        x = embeds.clone()
        x[:, 25:] = x[:, 25:] + first + sum(residual)
        hidden = talker.model(inputs_embeds=x).last_hidden_state
        ce = F.cross_entropy(talker.codec_head(hidden[:, 24:84]).flatten(0, 1), codes[..., 0].flatten())
        frames = torch.stack([hidden[:, 24:84], first, *residual[:-1]], 2).flatten(0, 1)
        states = predictor.model(inputs_embeds=frames).last_hidden_state
        heads = [head(states[:, book + 1]) for book, head in enumerate(predictor.lm_head)]
        return ce + sum(F.cross_entropy(head, codes[..., book + 1].flatten()) for book, head in enumerate(heads)) / 3

    return stepper(talker.parameters(), loss)


def vocoder(model):
    vocoder, codes, target = model.code2wav, words(5, 4, 12), torch.randn(5, 12 * 1920) * 0.1
    mel = torch.rand(513, 80)

    def loss():
        y = vocoder(codes)[:, 0]
        t = target[:, : y.shape[1]]
        total = (y - t).abs().mean() * 3
        for n in (256, 512, 1024, 2048):
            window, scale = torch.hann_window(n), 1 / math.sqrt(n)
            p, q = (torch.stft(x, n, n // 4, n, window, return_complex=True) for x in (y, t))
            a, b = (torch.sqrt(x.real**2 + x.imag**2 + 1e-8) for x in (p, q))
            total = total + (a - b).abs().mean() * scale
            total = total + ((a * scale + 1e-3).log() - (b * scale + 1e-3).log()).abs().mean() / 4
            if n == 1024:
                a, b = (x.transpose(1, 2) @ mel for x in (a, b))
                total = total + 2 * ((a + 1e-3).log10() - (b + 1e-3).log10()).abs().mean()
        return total

    return stepper(vocoder.parameters(), loss)


def audio(model):
    tower = next(part for name, part in model.thinker.named_modules() if name.endswith("audio_tower"))
    mel, length = torch.randn(tower.config.num_mel_bins, 4000), torch.tensor([4000])

    def step():
        rows = tower(mel, feature_lens=length).last_hidden_state
        rows.square().mean().backward()
        tower.zero_grad()

    return step


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    timed("thinker", "48 x 40 tokens", thinker(model))
    timed("talker", "20 x 85 rows", talker(model))
    timed("vocoder", "5 x 12 frames", vocoder(model))
    timed("audio encoder", "40 s", audio(model))


main()
