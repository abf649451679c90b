"""Make the miniature base model: tokenizer, corpus and pre-training, from nothing but this file and `world.py`.

    python -m miniature.pretrain OUT          15 to 30 minutes on two cores

The result is committed under `miniature/base/`, so nobody has to wait for it; its sha256 stands in the configuration and is
checked before use. Floating-point sums differ between processors, so another machine gets an equivalent model, not the
same bytes.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from engine.data import Template
from miniature.world import benchmark_chains, draw

PAD, END = "<|pad|>", "<|end|>"
VOCABULARY = 384
TOKENS = 16_000_000
BATCH, LENGTH = 64, 256  # packed rows of LENGTH tokens
PEAK_LR, WARM_UP = 2e-3, 200
# Chain lengths of the corpus with their shares, and how often an answer is written step by step. Four and five operations are
# rare: the base model solves them sometimes, which is what reinforcement can amplify; longer ones it has never seen.
LENGTHS = {1: 0.25, 2: 0.32, 3: 0.33, 4: 0.08, 5: 0.02}
STEP_BY_STEP = 0.25
IN_WORDS = 0.3


def documents(seed: str, template: Template):
    """Endless (prompt, completion) pairs; chains of a benchmark are left out."""
    rng = random.Random(seed)
    tested = benchmark_chains()
    lengths, shares = list(LENGTHS), list(LENGTHS.values())
    while True:
        length = rng.choices(lengths, shares)[0]
        chain = draw(rng, length)
        in_words, steps = rng.random() < IN_WORDS, rng.random() < STEP_BY_STEP
        if chain not in tested:
            text = chain.words() if in_words else chain.symbols()
            yield template.render(text), chain.steps_style() if steps else chain.direct()


def build_tokenizer(template: Template) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits and whole paragraph breaks, so any text of the world (and any other) round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n\n"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    source = documents("miniature/tokenizer", template)
    texts = [prompt + completion for prompt, completion in (next(source) for _ in range(20_000))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def build_model(vocabulary: int, end: int, pad: int) -> Qwen2ForCausalLM:
    """Qwen2 architecture, under a million parameters; embeddings untied (tied ones break weight sync in a CPU sampler)."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the miniature base model from scratch.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--template", type=Path, default=Path("config/templates/miniature.txt"))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    args = parser.parse_args()
    template = Template.read(args.template)
    tokenizer = build_tokenizer(template)
    model = build_model(len(tokenizer), *(tokenizer.get_vocab()[token] for token in (END, PAD)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    updates = args.tokens // (BATCH * LENGTH)

    source, stream = documents("miniature/corpus", template), []
    bar = tqdm(range(updates), desc="pre-training", mininterval=5)
    for step in bar:
        while len(stream) < BATCH * LENGTH:
            pairs = [next(source) for _ in range(256)]
            for prompt, completion in pairs:  # encoded apart, as they are when the model is prompted
                stream += tokenizer.encode(prompt) + tokenizer.encode(completion + END)
        batch, stream = torch.tensor(stream[: BATCH * LENGTH]).view(BATCH, LENGTH), stream[BATCH * LENGTH :]
        rate = min(1.0, (step + 1) / WARM_UP) * (1 - step / updates) ** 0.5
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * rate
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    about = {
        "parameters": model.num_parameters(),
        "tokens": updates * BATCH * LENGTH,
        "final_loss": round(loss.item(), 4),
    }
    (args.out / "pretraining.json").write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    main()
