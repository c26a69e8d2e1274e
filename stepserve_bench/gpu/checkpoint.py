"""Checkpoints of random weights, as a worker loads them, with a text for every token."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from stepserve_bench.gpu.child import forked_map, num_cores
from stepserve_bench.gpu.geometry import BEGIN_TOKEN_ID, END_TOKEN_ID, Geometry
from worker_svc.model.config import ModelConfig, read_config
from worker_svc.model.weights import EMBEDDING, Targets, allocate

STANDARD_DEVIATION = 0.02
SHARD_BYTES = 1 << 30
WRITE_TIMEOUT_S = 120.0
# Numbers drawn once and repeated: drawing 8 billion of them takes half a minute. No divisor of any
# width, so that no two lines of a matrix are the same.
POOL_SIZE = (1 << 24) + 43
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def write_checkpoint(geometry: Geometry, parent: Path) -> Path:
    """Write config, weights and tokenizer into ``parent/NAME``, once; return it.

    Raises TimeoutError.
    """
    directory = parent / geometry.name
    if (directory / "tokenizer.json").exists():
        return directory
    config = write_config(geometry, directory)
    shards = _shards(geometry, config)
    files = [_file_name(number, len(shards)) for number in range(len(shards))]
    write = partial(_write_shard, geometry, directory)
    for _ in forked_map(write, list(zip(files, shards, strict=True)), num_cores(), WRITE_TIMEOUT_S):
        pass
    if len(files) > 1:
        index = {name: file for file, shard in zip(files, shards, strict=True) for name, _ in shard}
        content = json.dumps({"metadata": {}, "weight_map": index})
        (directory / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    write_tokenizer(directory, geometry.vocab_size)
    return directory


def write_config(geometry: Geometry, directory: Path) -> ModelConfig:
    """Write ``config.json`` alone, and return it as the worker reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(geometry.config()), encoding="utf-8")
    return read_config(directory)


def fill(views: dict[str, torch.Tensor]) -> None:
    """Random numbers for tensors that lie on a device already."""
    for name, view in views.items():
        if is_norm(name):
            view.fill_(1.0)
        else:
            view.normal_(0.0, STANDARD_DEVIATION)


def is_norm(name: str) -> bool:
    """Whether a tensor scales normed numbers: those are ones."""
    return "norm" in name


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A byte-level tokenizer whose ids are all words: detokenizing costs what it costs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = (f"\u0120w{number}" for number in range(vocab_size))
    tokens = [*SPECIAL_TOKENS.values(), *alphabet, *words][:vocab_size]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS.values()]
    )
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS.values()]
    assert ids == [BEGIN_TOKEN_ID, END_TOKEN_ID]
    about = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL_TOKENS}
    (directory / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    tokenizer.save(str(directory / "tokenizer.json"))


Shard = list[tuple[str, tuple[int, ...]]]


def _shards(geometry: Geometry, config: ModelConfig) -> list[Shard]:
    """Names and shapes, in parts of about a GiB: each is written by a process of its own."""
    targets = Targets(getattr(torch, geometry.dtype), torch.device("meta"))
    allocate(config, EMBEDDING if config.tie_embeddings else None, targets)
    shards: list[Shard] = [[]]
    size = 0
    for name, view in sorted(targets.views.items()):
        if size > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, tuple(view.shape)))
        size += view.numel() * view.itemsize
    return shards


def _write_shard(geometry: Geometry, directory: Path, part: tuple[str, Shard]) -> None:
    torch.set_num_threads(1)
    file, shard = part
    dtype = getattr(torch, geometry.dtype)
    generator = torch.Generator().manual_seed(zlib.crc32(file.encode()))
    size = min(POOL_SIZE, max(_size(shape) for _, shape in shard))
    pool = torch.randn(size, generator=generator) * STANDARD_DEVIATION
    pool = pool.to(dtype)
    tensors, start = {}, 0
    for name, shape in shard:
        if is_norm(name):
            tensors[name] = torch.ones(shape, dtype=dtype)
            continue
        count = _size(shape)
        tensors[name] = _from(pool, start, count).view(shape)
        start = (start + count) % size
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, directory / file, metadata={"format": "pt"})


def _from(pool: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """``count`` of the pool's numbers from ``start`` on, again and again."""
    parts = [pool[start : start + count]]
    while (num_missing := count - sum(part.numel() for part in parts)) > 0:
        parts.append(pool[:num_missing])
    return torch.cat(parts)


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _file_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number + 1:05}-of-{count:05}.safetensors"
