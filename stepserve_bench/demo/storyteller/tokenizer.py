"""The storyteller's byte-level BPE tokenizer, its special tokens and its chat template."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from stepserve_bench.demo.storyteller.grammar import Piece, join

VOCAB_SIZE = 1152
"""Enough for every word of the lexicon, with the space before it, to be one token."""

CONTEXT_TOKENS = 2048
BOS, EOS, PAD, SYSTEM, USER, ASSISTANT = SPECIALS = (
    "<|bos|>",
    "<|eos|>",
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
BOS_ID, EOS_ID, PAD_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(len(SPECIALS))

SETTLED_WEIGHT = 8.0
"""Weight of a token that is determined by what was told before, such as a name's later mentions.

Such tokens are few, and a wrong one spoils the story, while most of the loss comes from free
choices that nothing can foretell. The price is a preference for sentences that begin with a name.
"""

Row = list[tuple[int, float]]
"""Tokens of a document, and the weight of each in the loss."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer of `VOCAB_SIZE` tokens; encoding puts `BOS` in front of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"texts gave only {tokenizer.get_vocab_size()} of {VOCAB_SIZE} tokens")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, the chat template inside the latter."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_TOKENS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _weigh(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Row:
    """Return the tokens of a text that is to be learnt."""
    text, settled = "", []
    for piece in pieces:
        text += piece.text
        settled += [piece.settled] * len(piece.text)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return [
        (token, SETTLED_WEIGHT if any(settled[start:end]) else 1.0)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]


def _given(tokenizer: Tokenizer, opener: int, text: str) -> Row:
    """Return the tokens of what is only read, never told: a role and its text."""
    ids = [opener, *tokenizer.encode(text, add_special_tokens=False).ids]
    return [(token, 0.0) for token in ids]


def encode_story(tokenizer: Tokenizer, story: Iterable[Piece]) -> Row:
    """Return the tokens of a whole story, from `BOS` to `EOS`."""
    return [(BOS_ID, 0.0), *_weigh(tokenizer, story), (EOS_ID, 1.0)]


def encode_chat(
    tokenizer: Tokenizer,
    turns: Iterable[tuple[Iterable[Piece], Iterable[Piece]]],
    system: str | None,
) -> Row:
    """Return the tokens of requests and replies, exactly as the chat template writes them."""
    row: Row = [(BOS_ID, 0.0)]
    if system is not None:
        row += _given(tokenizer, SYSTEM_ID, system)
    for request, reply in turns:
        row += _given(tokenizer, USER_ID, join(request))
        row += [(ASSISTANT_ID, 0.0), *_weigh(tokenizer, reply), (EOS_ID, 1.0)]
    return row
