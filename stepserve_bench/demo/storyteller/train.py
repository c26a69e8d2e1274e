"""Train the storyteller from scratch: `python -m stepserve_bench.demo.storyteller.train`.

Everything is drawn from fixed seeds, so the same versions and the same number of threads give the
same model. Rows hold one story or one conversation each, so no attention crosses between documents
and every story starts at position 0, as it does when the model is served.
"""

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.demo.storyteller.grammar import (
    draw_chat,
    draw_drill,
    draw_story,
    generate_chat,
)
from stepserve_bench.demo.storyteller.tokenizer import (
    BOS_ID,
    CONTEXT_TOKENS,
    EOS_ID,
    PAD_ID,
    SETTLED_WEIGHT,
    VOCAB_SIZE,
    Row,
    encode_chat,
    encode_story,
    save_tokenizer,
    train_tokenizer,
)

SYSTEM_PROMPTS = (
    "You are a storyteller.",
    "You are a friendly storyteller for children.",
    "You are a helpful assistant.",
)
TOKENIZER_STORIES = 6000
POOL_ROWS = 512
DRILL_SHARES = (*[0.6] * 8, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1)
"""Share of practice in the first pools of rows, each of about forty batches.

A story repeats few words, and far apart: from stories alone, a model still guessed most names after
700 steps. In the practice texts every fifth token looks back to a variable, each in turn, which
brings forth the attention heads for it in 300 steps.
"""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Token ids, int64, and their weights in the loss; both [rows, tokens of the longest row]."""


@dataclass(frozen=True)
class Plan:
    """How one training run goes; learning rates are AdamW's, `batch_tokens` includes padding."""

    steps: int
    batch_tokens: int
    learning_rate: float
    warmup_steps: int
    seed: int


class Point(NamedTuple):
    """A point of the loss curve: means since the last one, in nats per token that is told.

    settled_loss: of tokens that a variable fixed before determines; what is left of it in the end
        comes from not knowing which sentence begins there
    """

    step: int
    loss: float
    settled_loss: float


def draw_row(tokenizer: tokenizers.Tokenizer, rng: random.Random) -> Row:
    """Return a random document: a plain story, or a chat of one or two turns."""
    if rng.random() < 0.5:
        return encode_story(tokenizer, draw_story(rng))
    turns = [draw_chat(rng) for _ in range(2 if rng.random() < 0.1 else 1)]
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 else None
    return encode_chat(tokenizer, turns, system)


def draw_drill_row(tokenizer: tokenizers.Tokenizer, rng: random.Random) -> Row:
    """Return a random text for practice."""
    return encode_story(tokenizer, draw_drill(rng))


def pad_rows(rows: list[Row]) -> Batch:
    """Pad rows on the right; padding has no weight and is unseen by causal attention."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), PAD_ID)
    weights = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor([token for token, _ in row])
        weights[index, : len(row)] = torch.tensor([weight for _, weight in row])
    return ids, weights


def draw_batches(
    tokenizer: tokenizers.Tokenizer, rng: random.Random, batch_tokens: int
) -> Iterator[Batch]:
    """Yield batches of at most `batch_tokens` tokens without end.

    Pool by pool, fewer rows are for practice and more are documents. Rows of similar length are put
    together to save padding, and the batches of one pool are shuffled so that lengths come in
    random order.
    """
    for drilled in chain(DRILL_SHARES, repeat(0.0)):
        draws = (draw_drill_row if rng.random() < drilled else draw_row for _ in range(POOL_ROWS))
        rows = sorted((draw(tokenizer, rng) for draw in draws), key=len)
        groups: list[list[Row]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row) > batch_tokens and groups[-1]:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(pad_rows, groups)


def build_model() -> LlamaForCausalLM:
    """Return an untrained model of about two million parameters."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        # The usual 0.02 is meant for wider models; here it leaves attention flat for long.
        initializer_range=0.05,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return LlamaForCausalLM(config)


def rate_factor(step: int, plan: Plan) -> float:
    """Return the share of the full learning rate at `step`: linear warm-up, then a cosine."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def token_losses(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return the loss in nats of every token but the first, [rows, tokens - 1]."""
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(len(ids), -1)


class Meter:
    """Adds up losses between two reports, unweighted and apart for settled tokens."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._sums = torch.zeros(4)
        self._tokens = 0.0
        self._started = time.perf_counter()

    def add(self, losses: torch.Tensor, weights: torch.Tensor) -> None:
        """Count the token losses of one batch."""
        for index, counted in enumerate((weights > 0, weights == SETTLED_WEIGHT)):
            self._sums[2 * index] += losses[counted].sum()
            self._sums[2 * index + 1] += counted.sum()

    def report(self, step: int, steps: int) -> Point:
        """Print and return the means since the last report, and start again."""
        told, told_count, settled, settled_count = self._sums.tolist()
        point = Point(step, round(told / told_count, 4), round(settled / settled_count, 4))
        self._sums.zero_()
        self._tokens += told_count
        seconds = time.perf_counter() - self._started
        print(
            f"step {step}/{steps}  loss {point.loss:.4f}  settled {point.settled_loss:.4f}  "
            f"{self._tokens / seconds:.0f} tokens/s  "
            f"{seconds / step * (steps - step) / 60:.1f} min left",
            flush=True,
        )
        return point


def fit(
    model: LlamaForCausalLM, batches: Iterator[Batch], plan: Plan, report_every: int
) -> list[Point]:
    """Train the model; return its loss curve."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, plan))
    model.train()
    curve: list[Point] = []
    meter = Meter()
    for step in range(1, plan.steps + 1):
        ids, weights = next(batches)
        losses, weights = token_losses(model, ids), weights[:, 1:]
        torch.autograd.backward((losses * weights).sum() / weights.sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        meter.add(losses.detach(), weights)
        if step % report_every == 0 or step == plan.steps:
            curve.append(meter.report(step, plan.steps))
    return curve


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json, generation_config.json and the weights, rounded to bfloat16."""
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID
    )
    model.to(torch.bfloat16).save_pretrained(folder)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the storyteller model from scratch.")
    parser.add_argument("--steps", type=int, default=5200, help="optimizer steps")
    parser.add_argument(
        "--batch-tokens", type=int, default=1024, help="most tokens in a batch, padding included"
    )
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights and the stories")
    parser.add_argument("--threads", type=int, default=1, help="processor threads to use")
    parser.add_argument("--report-every", type=int, default=25, help="steps between reports")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="folder to write to")
    return parser.parse_args()


def main() -> None:
    """Train, then write the model, the tokenizer and the record of the run."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    plan = Plan(
        steps=arguments.steps,
        batch_tokens=arguments.batch_tokens,
        learning_rate=arguments.learning_rate,
        warmup_steps=max(1, arguments.steps // 50),
        seed=arguments.seed,
    )
    rng = random.Random(plan.seed)
    # Requests are in the sample too, or their words would be spelt in many small tokens.
    sample = ("\n".join(generate_chat(rng)) for _ in range(TOKENIZER_STORIES))
    tokenizer = train_tokenizer([*SYSTEM_PROMPTS, *sample])
    model = build_model()
    started = time.perf_counter()
    curve = fit(
        model, draw_batches(tokenizer, rng, plan.batch_tokens), plan, arguments.report_every
    )
    seconds = time.perf_counter() - started

    arguments.out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, arguments.out)
    save_model(model, arguments.out)
    record = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "threads": arguments.threads,
        "parameters": model.num_parameters(),
        "wall_seconds": round(seconds, 1),
        **asdict(plan),
        "loss_curve_fields": Point._fields,
        "loss_curve": curve,
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
