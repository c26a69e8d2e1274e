"""Small checkpoints' text files: every kind of tokenizer that decoding differs for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

MAX_CONTEXT = 64
TEXTS = (
    "Once upon a time there was a small dog. It liked to run, and to stop.",
    "Ça déjà vu, naïve façade; über größe — «ζωή» 中文字符 日本語のテキスト 🙂🙃👩‍👩‍👧",
    "def main():\n    return [1, 2, 3]  # done\n",
)
SPECIALS = ("<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _with_specials(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: characters are split over tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _with_specials(tokenizer)


def _byte_pieces() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def llama_bpe() -> Tokenizer:
    """As Llama 2: spaces are "▁", unknown characters are bytes, the first space goes."""
    plain = ["▁", "a", "b", "c", "é", "中", "▁a", "ab", "▁▁", ".", "stop", "▁stop", "▁ab"]
    vocabulary = {
        token: token_id for token_id, token in enumerate(["<unk>", *_byte_pieces(), *plain])
    }
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁"), ("▁", "ab")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _with_specials(tokenizer)


def unigram() -> Tokenizer:
    """As T5, with byte fallback: the first piece loses its leading spaces."""
    pieces = ["▁", "▁a", "a", "b", "c", "▁the", "é", "▁▁", "."]
    scored = [("<unk>", 0.0), *((piece, -9.0) for piece in _byte_pieces())]
    scored += [(piece, -float(len(pieces) - i)) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _with_specials(tokenizer)


def word_level() -> Tokenizer:
    """Whole words and no decoder: words are joined with spaces."""
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: word_id for word_id, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_specials(tokenizer)


def word_piece() -> Tokenizer:
    """As BERT: a space before each token that does not begin with ##."""
    vocabulary = {
        token: i for i, token in enumerate(["[UNK]", "a", "##b", "dog", "##s", ".", "do", "##g"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return _with_specials(tokenizer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    maker.__name__: maker for maker in (byte_level, llama_bpe, unigram, word_level, word_piece)
}


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return KINDS[kind]()


def write_checkpoint(
    folder: Path, kind: str | None = "byte_level", max_context: int = MAX_CONTEXT
) -> Path:
    """Write a checkpoint's text files (``kind`` None: without a tokenizer)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(kind or "byte_level")
    eos = tokenizer.token_to_id("</s>")
    config = {"max_position_embeddings": max_context, "vocab_size": tokenizer.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": eos}))
    if kind is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        eos_token = {"__type": "AddedToken", "content": "</s>", "special": True}
        settings = {"bos_token": "<s>", "eos_token": eos_token, "pad_token": "<pad>"}
        settings["chat_template"] = CHAT_TEMPLATE
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
