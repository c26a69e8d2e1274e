"""From a checkpoint's name to a model that computes: everything is checked before it is served."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import accumulate
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from stepserve.modelfiles.directory import CheckpointError
from worker_svc.kernels import Kernels
from worker_svc.machine.memory import free_bytes
from worker_svc.machine.progress import progress
from worker_svc.model.checkpoint import Checkpoint, find, opened
from worker_svc.model.config import ModelConfig, read_config
from worker_svc.model.decoder import Decoder
from worker_svc.model.division import Division, indivisible
from worker_svc.model.part import Part
from worker_svc.model.share import Digests, Share
from worker_svc.model.weights import EMBEDDING, VOCABULARY, Targets, allocate

log = logging.getLogger(__name__)

COMPUTE_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
STORED_DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
# Old Llama checkpoints carry what the config says anyway.
IGNORED_SUFFIX = ".rotary_emb.inv_freq"
# float32 arrays of [context, head_dim / 2] that are held at once while the tables of positions
# are made: the angles, and cos and sin before and after they are scaled.
NUM_TABLES = 5


ALL = Share()


def load_model(
    source: str | Path,
    dtype: str,
    device: torch.device | str,
    kernels: Kernels,
    max_context: int | None = None,
    share: Share = ALL,
) -> Decoder:
    """Load the checkpoint ``source``, a directory or a hub id, or a part of it.

    Args:
        source: where the checkpoint is.
        dtype: what to compute in, one of COMPUTE_DTYPES, or "auto": what the checkpoint is stored
            in on a GPU, float32 on a CPU.
        device: where the weights go.
        kernels: what the decoder computes with.
        max_context: tokens of a sequence at most, instead of what the checkpoint says; a warning
            says where that is more.
        share: which part of it; only that part's tensors are read, and have to fit.

    Raises:
        CheckpointError: the checkpoint is missing, broken, not supported, or too large.
        KernelsUnavailable: these kernels can't compute in this dtype, or with heads this large.
    """
    device = torch.device(device)
    checkpoint = find(source)
    config = _with_context(read_config(checkpoint.directory), max_context)
    tied = _tied(config, checkpoint)
    compute_dtype = _compute_dtype(dtype, device, checkpoint)
    kernels.check(compute_dtype, config.head_dim)
    part = share.part
    _check_part(checkpoint, config, part)
    whole, stage, expected = (Targets(compute_dtype, torch.device("meta")) for _ in range(3))
    allocate(config, tied, whole)
    allocate(config, tied, stage, part.stage_alone)
    allocate(config, tied, expected, part)
    _check_tensors(checkpoint, whole)
    _check_memory(checkpoint, expected, device)
    _check_tables(checkpoint, config)
    share.check(_fingerprint(config, compute_dtype, checkpoint, dict.fromkeys(whole.pieces, "")))
    targets = Targets(compute_dtype, device)
    weights = allocate(config, tied, targets, part)
    digests = share.digests(_fill(checkpoint, targets, stage, part))
    if tied:
        weights = weights.with_tied_vocabulary()
    fingerprint = _fingerprint(config, compute_dtype, checkpoint, digests)
    division = Division.of(config, part)
    kernels = kernels.of_rank(share.ranks, division.tokens.range, config.vocab_size)
    config = division.narrow(config)
    decoder = Decoder(config, weights, kernels, part, checkpoint.name, fingerprint)
    decoder.directory = checkpoint.directory
    return decoder


def _check_part(checkpoint: Checkpoint, config: ModelConfig, part: Part) -> None:
    if part.num_stages > config.num_layers:
        raise CheckpointError(
            f"--pipeline-stages {part.num_stages}: {checkpoint.name} has {config.num_layers} "
            "layers, and every stage needs one"
        )
    if found := indivisible(config, part.num_ranks):
        raise CheckpointError(
            f"--tensor-parallel {part.num_ranks}: {checkpoint.name} has {' and '.join(found)}: "
            f"{part.num_ranks} ranks cannot share them evenly"
        )


def _with_context(config: ModelConfig, max_context: int | None) -> ModelConfig:
    if max_context is None:
        return config
    if max_context > config.max_context:
        log.warning(
            "--max-context %d is longer than the %d tokens the model is made for: "
            "what it writes beyond them may make no sense",
            max_context,
            config.max_context,
        )
    return replace(config, max_context=max_context)


def _tied(config: ModelConfig, checkpoint: Checkpoint) -> str | None:
    """The one tensor that is both embedding and vocabulary, whichever of the two was stored.

    As in transformers: two that were stored are two, whatever the config says.
    """
    stored = [name for name in (EMBEDDING, VOCABULARY) if name in checkpoint.tensors]
    return stored[0] if config.tie_embeddings and len(stored) == 1 else None


def _compute_dtype(name: str, device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    if name in COMPUTE_DTYPES:
        return COMPUTE_DTYPES[name]
    if name != "auto":
        raise ValueError(f"unknown dtype {name!r}: use auto, {', '.join(COMPUTE_DTYPES)}")
    stored = checkpoint.tensors.get(EMBEDDING) or checkpoint.tensors.get(VOCABULARY)
    if device.type == "cpu" or stored is None:
        return torch.float32
    return STORED_DTYPES.get(stored.dtype, torch.float32)


def _check_tensors(checkpoint: Checkpoint, expected: Targets) -> None:
    """Every tensor that the config asks for is there, in its shape; others are warned of."""
    where = checkpoint.directory
    missing = sorted(expected.pieces.keys() - checkpoint.tensors.keys())
    if missing:
        raise CheckpointError(f"{where} lacks tensor {_first(missing)}")
    for name, piece in expected.pieces.items():
        info = checkpoint.tensors[name]
        if info.shape != piece.stored_shape:
            shapes = f"shape {list(info.shape)}, config.json asks for {list(piece.stored_shape)}"
            raise CheckpointError(f"{info.file}: tensor {name} has {shapes}")
        if info.dtype not in STORED_DTYPES:
            raise CheckpointError(f"{info.file}: tensor {name} is {info.dtype}, not a plain float")
    unknown = sorted(checkpoint.tensors.keys() - expected.pieces.keys())
    unknown = [name for name in unknown if not name.endswith(IGNORED_SUFFIX)]
    if unknown:
        log.warning("%s: this model has no use for tensor %s", where, _first(unknown))


def _first(names: list[str]) -> str:
    more = len(names) - 1
    return names[0] if more == 0 else f"{names[0]} (and {more} more)"


def _check_memory(checkpoint: Checkpoint, expected: Targets, device: torch.device) -> None:
    needed, free = sum(piece.view.nbytes for piece in expected.pieces.values()), free_bytes(device)
    if needed > free:
        raise CheckpointError(
            f"{checkpoint.directory} needs {needed / 2**30:.1f} GiB for its weights in "
            f"{str(expected.dtype).removeprefix('torch.')}, "
            f"{free / 2**30:.1f} GiB are free on {device}"
        )


def _check_tables(checkpoint: Checkpoint, config: ModelConfig) -> None:
    needed = NUM_TABLES * 4 * config.max_context * (config.head_dim // 2)
    free = free_bytes(torch.device("cpu"))
    if needed > free:
        raise CheckpointError(
            f"{checkpoint.directory}: positions of a context of {config.max_context} tokens need "
            f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: give a --max-context"
        )


def _fill(checkpoint: Checkpoint, targets: Targets, stage: Targets, part: Part) -> Digests:
    """Copy every tensor's piece to its target, one at a time.

    Returns the SHA-256 of the bytes of each that this rank hashes of its ``stage``; of the others
    no more is read than the piece.
    """
    hashed = _hashed(checkpoint, stage, part)
    names = _in_file_order(checkpoint, targets.pieces.keys() | hashed)
    files = dict.fromkeys(checkpoint.tensors[name].file for name in names)
    total_bytes = sum(_stored_bytes(checkpoint, name) for name in names)
    digests: Digests = {}
    name = checkpoint.name if part.is_whole else f"{checkpoint.name}, {part.name}"
    shown = progress(name, total_bytes, is_alone=part.is_whole)
    with shown as advance, ThreadPoolExecutor(1) as hasher:
        for file in files:
            with opened(file) as handle:
                for name in (name for name in names if checkpoint.tensors[name].file == file):
                    piece = targets.pieces.get(name)
                    if name in hashed:
                        tensor = handle.get_tensor(name)
                        digest = hasher.submit(_digest, tensor)
                        if piece is not None:
                            _copy(file, name, tensor[piece.slices], piece.view)
                        digests[name] = digest.result()
                    elif piece is not None:
                        _copy(file, name, handle.get_slice(name)[piece.slices], piece.view)
                    advance(_stored_bytes(checkpoint, name))
    return digests


def _hashed(checkpoint: Checkpoint, stage: Targets, part: Part) -> frozenset[str]:
    """Which tensors of the stage this rank reads whole: each is one rank's, in even shares."""
    names = _in_file_order(checkpoint, stage.pieces)
    sizes = [_stored_bytes(checkpoint, name) for name in names]
    ends = [*accumulate(sizes)]
    middles = [end - size // 2 for end, size in zip(ends, sizes, strict=True)]
    return frozenset(
        name
        for name, middle in zip(names, middles, strict=True)
        if middle * part.num_ranks // (ends[-1] + 1) == part.rank
    )


def _in_file_order(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (checkpoint.tensors[name].file, name))


def _stored_bytes(checkpoint: Checkpoint, name: str) -> int:
    info = checkpoint.tensors[name]
    return prod(info.shape) * STORED_DTYPES[info.dtype].itemsize


def _copy(file: Path, name: str, tensor: Tensor, view: Tensor) -> None:
    view.copy_(tensor)
    if bool(torch.isfinite(view).all()):
        return
    if bool(torch.isfinite(tensor).all()):
        dtype = str(view.dtype).removeprefix("torch.")
        raise CheckpointError(f"{file}: tensor {name} has values that are too large for {dtype}")
    raise CheckpointError(f"{file}: tensor {name} has a NaN or an infinity in it")


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).hexdigest()


def _fingerprint(
    config: ModelConfig, dtype: torch.dtype, checkpoint: Checkpoint, digests: Digests
) -> str:
    """SHA-256 over all that logits depend on; how the tensors are sharded is not part of it."""
    tensors: Iterable[tuple[str, object, str, str]] = (
        (name, checkpoint.tensors[name].shape, checkpoint.tensors[name].dtype, digests[name])
        for name in sorted(digests)
    )
    # No logit depends on where a sequence must end.
    shape = {key: value for key, value in asdict(config).items() if key != "max_context"}
    everything = {"config": shape, "dtype": str(dtype), "tensors": list(tensors)}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
