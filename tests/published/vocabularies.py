"""Tiny vocabularies of the two kinds that are published, with everything around them as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.trainers import BpeTrainer

TEXTS = (
    "Once upon a time there was a small dog. It liked to run, and to stop; didn't it? Yes!",
    "You are a helpful assistant. What is the weather like today? The user said: once upon a time.",
    "Ça déjà vu, naïve façade; über größe — «ζωή» 中文字符 日本語のテキスト 🙂🙃",
    "def main():\n    return [1, 2, 3]  # done\n\n\nassistant user system",
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
NUM_BYTE_LEVEL = 320
NUM_SENTENCEPIECE = 360
CONTROLS = ("<unk>", "<s>", "</s>")


@cache
def _merged(split: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE whose ids begin at 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _splitting(split)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=NUM_BYTE_LEVEL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _state(tokenizer)


def _state(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _splitting(split: str) -> pre_tokenizers.PreTokenizer:
    if not split:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    words = pre_tokenizers.Split(Regex(split), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([words, plain])


def byte_level(
    specials: Sequence[str], split: str = "", added: Sequence[str] = (), bos: str = ""
) -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: the bytes, merges, then the added tokens, special ones first.

    ``split`` is the expression for words; "" splits as SmolLM2 does. ``bos`` is put in front.
    """
    vocab, merges = _merged(split)
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=bool(bos)))
    tokenizer.pre_tokenizer = _splitting(split)
    tokenizer.decoder = decoders.ByteLevel()
    if split == QWEN2_SPLIT:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    trim: processors.PostProcessor = processors.ByteLevel(trim_offsets=True)
    if bos:
        trim = processors.Sequence([trim, _starting(tokenizer, bos)])
    tokenizer.post_processor = trim
    return tokenizer


def _starting(tokenizer: Tokenizer, bos: str) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


@cache
def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = _spaced()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    first = [*CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(vocab_size=NUM_SENTENCEPIECE, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS if text.isascii()], trainer)
    return _state(tokenizer)


def _spaced() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def sentencepiece_bpe(controls: Sequence[str] = ()) -> Tokenizer:
    """As Llama 2: spaces are "▁", unknown characters are bytes, the first space goes."""
    vocab, merges = _pieces()
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _spaced()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = [AddedToken(name, normalized=False) for name in (*CONTROLS, *controls)]
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = _starting(tokenizer, "<s>")
    return tokenizer


def write_sentencepiece(path: Path) -> None:
    """Write the same pieces as a SentencePiece model: what ``tokenizer.model`` is."""
    # Its messages can be registered once only, so by those whom transformers asks for them.
    from sentencepiece import sentencepiece_model_pb2

    vocab, _ = _pieces()
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(vocab)
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    for piece, token_id in sorted(vocab.items(), key=lambda item: item[1]):
        is_byte = piece.startswith("<0x")
        kind = 2 if piece == "<unk>" else 3 if piece in CONTROLS else 6 if is_byte else 1
        score = 0.0 if kind != 1 else -float(token_id)
        model.pieces.add(piece=piece, score=score, type=kind)
    path.write_bytes(model.SerializeToString())
