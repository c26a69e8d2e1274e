"""Check what the storyteller has learnt: `python -m stepserve_bench.demo.storyteller.check`.

Beginnings of stories and requests in the chat form, drawn from another seed than the training's,
are continued greedily; a continuation counts if the grammar can generate the whole text, beginning
included, and the model ended it.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.demo.storyteller.grammar import (
    generate_chat,
    generate_story,
    parse,
    parse_chat,
)
from stepserve_bench.demo.storyteller.tokenizer import EOS_ID

HELD_OUT_SEED = 20_261_123
LONGEST_BEGINNING_WORDS = 40
NEW_TOKENS_LIMIT = 400
REQUIRED_SHARE = 0.95
CHAT_SHARE = 0.25
BATCH_CASES = 25


@dataclass(frozen=True)
class Case:
    """A text to be continued; `chat` says whether it is a request or the beginning of a story."""

    prompt: str
    chat: bool


@dataclass(frozen=True)
class Outcome:
    """A continued case: text without special tokens, number of new tokens, and the verdict."""

    case: Case
    text: str
    new_tokens: int
    parsed: bool


def draw_cases(count: int, seed: int) -> list[Case]:
    """Return `count` held-out cases, a quarter of them chats."""
    rng = random.Random(seed)
    cases = []
    for index in range(count):
        if index < count * CHAT_SHARE:
            cases.append(Case(generate_chat(rng)[0], chat=True))
        else:
            words = generate_story(rng).split(" ")
            kept = rng.randint(1, min(LONGEST_BEGINNING_WORDS, len(words) - 1))
            cases.append(Case(" ".join(words[:kept]), chat=False))
    return cases


class Storyteller:
    """The trained model with its tokenizer, continuing greedily in float32 on the processor."""

    def __init__(self, folder: Path) -> None:
        """Load the model from `folder`."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(self, case: Case) -> list[int]:
        """Return the prompt's token ids."""
        if not case.chat:
            return list(self.tokenizer(case.prompt)["input_ids"])
        ids = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": case.prompt}],
            add_generation_prompt=True,
            return_dict=False,
        )
        return list(ids)

    def continue_cases(self, cases: Sequence[Case]) -> list[Outcome]:
        """Continue cases together, up to the end token; one without an end token does not parse."""
        prompts = {"input_ids": [self.encode(case) for case in cases]}
        padded = self.tokenizer.pad(prompts, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            output = self.model.generate(**padded, do_sample=False, max_new_tokens=NEW_TOKENS_LIMIT)
        told = output[:, padded["input_ids"].shape[1] :].tolist()
        return [self.judge(case, new) for case, new in zip(cases, told, strict=True)]

    def judge(self, case: Case, new: list[int]) -> Outcome:
        """Return the verdict on the tokens that were generated for a case."""
        ended = EOS_ID in new
        if ended:
            new = new[: new.index(EOS_ID) + 1]
        reply = self.tokenizer.decode(new, skip_special_tokens=True)
        text = reply if case.chat else case.prompt + reply
        reading = parse_chat(case.prompt, text) if case.chat else parse(text)
        return Outcome(case, text, len(new), parsed=ended and reading is not None)


def summarise(outcomes: list[Outcome], seconds: float) -> dict[str, object]:
    """Return the figures of a check; `seconds` is the wall time of all continuations."""
    chats = [outcome for outcome in outcomes if outcome.case.chat]
    parsed = sum(outcome.parsed for outcome in outcomes)
    new_tokens = sum(outcome.new_tokens for outcome in outcomes)
    return {
        "date": date.today().isoformat(),
        "count": len(outcomes),
        "parsed": parsed,
        "share": round(parsed / len(outcomes), 4),
        "required_share": REQUIRED_SHARE,
        "chats": len(chats),
        "chats_parsed": sum(outcome.parsed for outcome in chats),
        "distinct_texts": len({outcome.text for outcome in outcomes}),
        "new_tokens": new_tokens,
        "tokens_per_second": round(new_tokens / seconds, 1),
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Parse greedy continuations with the grammar.")
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder of the model")
    parser.add_argument("--count", type=int, default=200, help="number of continuations")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="seed of the beginnings")
    parser.add_argument("--threads", type=int, default=1, help="processor threads to use")
    return parser.parse_args()


def main() -> int:
    """Run the check, write check.json beside the model, and return the exit status."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    storyteller = Storyteller(arguments.model)
    started = time.perf_counter()
    cases = draw_cases(arguments.count, arguments.seed)
    outcomes: list[Outcome] = []
    for first in range(0, len(cases), BATCH_CASES):
        outcomes += storyteller.continue_cases(cases[first : first + BATCH_CASES])
    for outcome in outcomes:
        if not outcome.parsed:
            print(f"does not parse: {outcome.case.prompt!r} -> {outcome.text!r}", flush=True)
    figures = summarise(outcomes, time.perf_counter() - started)
    print(f"{figures['parsed']} of {figures['count']} continuations parse")
    (arguments.model / "check.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))
    return 0 if len(outcomes) * REQUIRED_SHARE <= sum(o.parsed for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
