"""The helpers that other tests lean on: the oracle and the tiny tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.checkpoints import EOS_TOKEN_ID, add_tokenizer, lone_check, lone_greedy, oracle
from tests.worker_svc.model.conftest import CheckpointOf
from tests.worker_svc.model.paged import random_tokens


def test_the_oracle_generates_as_transformers_does(checkpoint_of: CheckpointOf) -> None:
    directory = checkpoint_of("mistral-window")
    prompt = random_tokens(509, 10, seed=1)
    run = lone_greedy(directory, prompt, 20, stop_token_ids=())
    model = oracle(directory, "float64")
    options = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": None}
    generated = model.generate(model.dummy_inputs["input_ids"].new_tensor([prompt]), **options)
    assert generated[0, 10:].tolist() == run.tokens
    assert len(run.logprobs) == len(run.margins) == 20
    assert all(logprob < 0 for logprob in run.logprobs)
    assert all(margin > 0 for margin in run.margins)


def test_the_oracle_ends_with_a_stop_token(checkpoint_of: CheckpointOf) -> None:
    prompt = random_tokens(257, 10, seed=1)
    run = lone_greedy(checkpoint_of("llama"), prompt, 12, stop_token_ids=())
    stop = run.tokens[5]
    end = run.tokens.index(stop) + 1
    stopped = lone_greedy(checkpoint_of("llama"), prompt, 12, stop_token_ids=(stop,))
    assert stopped.tokens == run.tokens[:end]


@pytest.mark.parametrize("variant", ["llama", "mistral-window", "qwen3-layer-types"])
def test_the_oracle_checks_what_it_generates(checkpoint_of: CheckpointOf, variant: str) -> None:
    directory, prompt = checkpoint_of(variant), random_tokens(257, 10, seed=2)
    run = lone_greedy(directory, prompt, 20, stop_token_ids=())
    checked = lone_check(directory, prompt, run.tokens)
    assert checked.tokens == run.tokens
    assert checked.logprobs == pytest.approx(run.logprobs, abs=1e-9)
    assert checked.margins == pytest.approx(run.margins, abs=1e-9)
    other = [*run.tokens[:7], run.tokens[7] + 1, *run.tokens[8:]]
    assert lone_check(directory, prompt, other).tokens == run.tokens[:8]


@pytest.mark.parametrize("vocab_size", [257, 509, 1200])
def test_every_id_is_a_token(tmp_path: Path, vocab_size: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(add_tokenizer(tmp_path, vocab_size))
    assert len(tokenizer) == vocab_size
    assert tokenizer.eos_token_id == EOS_TOKEN_ID
    texts = [tokenizer.decode([token_id]) for token_id in range(vocab_size)]
    assert all(texts)


def test_text_survives_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(add_tokenizer(tmp_path, 509))
    text = "Hello, abacus!\n\tNaïve 東京 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("abacus")) < 6
    chat = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == "user: Hi\nassistant: "


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="257"):
        add_tokenizer(tmp_path, 256)
