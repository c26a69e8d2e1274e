"""The set of kernels a worker computes with, chosen once by name and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stepserve.protocol.choices import Attention
from worker_svc.core.needs import StepNeeds
from worker_svc.kernels.activation import silu_mul_reference
from worker_svc.kernels.advance import advance_reference
from worker_svc.kernels.attention import paged_attention_reference
from worker_svc.kernels.attention_grouped import Groups, grouped_attention
from worker_svc.kernels.attention_padded import Rectangle, padded_attention
from worker_svc.kernels.attention_tiles import MAX_HEAD_DIM
from worker_svc.kernels.choice import Choice, SampledRows, SamplingTable
from worker_svc.kernels.choose import choose_reference
from worker_svc.kernels.linear import linear_reference
from worker_svc.kernels.locate import RowTables, locate_reference
from worker_svc.kernels.norm import add_rms_norm_reference
from worker_svc.kernels.ragged import Ragged
from worker_svc.kernels.ranks import LONE, Ranks
from worker_svc.kernels.restrict import Restrict, restrict_reference
from worker_svc.kernels.rotary import RotaryWrite, rotary_write_reference
from worker_svc.kernels.scratch import Scratch
from worker_svc.kernels.vocabulary import WHOLE, Vocabulary
from worker_svc.kernels.vocabulary_share import VocabularyShare

# Where a step's tokens stand, and what each kind of attention takes: paged, grouped, padded.
Context = Ragged | Groups | Rectangle


@dataclass(frozen=True, slots=True)
class Kernels:
    """Functions with one meaning and several implementations.

    Attributes:
        name: "triton", "cpu" or "torch".
        linear: ``(x [T, in], weight [in, out], bias [out] or None) -> [T, out]``.
        add_rms_norm: ``(x [T, H], residual [T, H], weight [H], eps) -> (normed, x + residual)``.
        rotary_write: ``(query [T, Hq, D], key [T, Hkv, D], value [T, Hkv, D], RotaryWrite)``;
            norms (where it says so) and rotates the query where it lies, writes the key, normed and
            rotated, and the value to the cache.
        paged_attention: ``(query [T, Hq, D], k_cache, v_cache, context, scale, window) ->
            [T, Hq, D]``; causal; window 0 is none. The context is the ``Context`` that this
            attention takes.
        silu_mul: ``[T, 2 I] -> [T, I]``.
        locate: ``(row ids [T], positions [T], RowTables) -> (token ids [T], slots [T])``.
        restrict: ``(logits [S, V], Restriction)``; writes over the scores of tokens that rows may
            not choose.
        choose: ``(logits [S, V], SampledRows, SamplingTable, StepNeeds, Scratch) -> Choice``.
        advance: ``(Choice, SampledRows, SamplingTable)``; writes the tokens into the table, and
            which sequences ended.
        vocabulary: looks embeddings up, and is what ``choose`` takes logits to be about.
        all_reduce: ``[...] -> [...]``, the sum over the ranks that have a layer side by side.
    """

    name: str
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotary_write: Callable[[Tensor, Tensor, Tensor, RotaryWrite], None]
    paged_attention: Callable[[Tensor, Tensor, Tensor, Any, float, int], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    locate: Callable[[Tensor, Tensor, RowTables], tuple[Tensor, Tensor]]
    restrict: Restrict
    choose: Callable[[Tensor, SampledRows, SamplingTable, StepNeeds, Scratch], Choice]
    advance: Callable[[Choice, SampledRows, SamplingTable], None]
    vocabulary: Vocabulary = WHOLE
    all_reduce: Callable[[Tensor], Tensor] = LONE.all_reduce

    def of_rank(self, ranks: Ranks, tokens: range, vocab_size: int) -> Kernels:
        """For one of several ranks, which has these ``tokens`` of a vocabulary.

        Where a row draws, tokens are chosen by the reference, whatever the others are: on a GPU
        it waits for the device.
        """
        if ranks.size == 1:
            return self
        vocabulary = VocabularyShare(
            ranks, tokens.start, len(tokens), vocab_size, self.vocabulary.categorical
        )
        return replace(
            self,
            restrict=partial(self.restrict, begin=tokens.start),
            choose=partial(choose_reference, vocabulary=vocabulary),
            vocabulary=vocabulary,
            all_reduce=ranks.all_reduce,
        )

    def check(self, dtype: torch.dtype, head_dim: int) -> None:
        """Raise KernelsUnavailable where they can't serve a model of ``dtype`` and ``head_dim``."""
        if self.name != "triton":
            return
        if dtype == torch.float64:
            raise KernelsUnavailable(
                "the triton kernels do not compute in float64: use --kernels torch"
            )
        if head_dim > MAX_HEAD_DIM:
            raise KernelsUnavailable(
                f"the triton kernels take head sizes up to {MAX_HEAD_DIM}, "
                f"this model's is {head_dim}: use --kernels torch"
            )


class KernelsUnavailable(RuntimeError):
    """The kernels asked for can't run here; the message says what is missing."""


def select(
    name: str,
    device: torch.device | str,
    attention: Attention = "paged",
) -> Kernels:
    """The kernels called ``name`` ("auto", "triton", "cpu" or "torch") for ``device``.

    "auto" is "triton" on a CUDA device and "cpu" elsewhere. Attention that gathers what it reads,
    "grouped" and "padded", is the same in all of them.

    Raises:
        ValueError: no such kernels.
        KernelsUnavailable: they need a package or a device that is not there.
    """
    kernels = _select(name, torch.device(device))
    if attention == "paged":
        return kernels
    gathering = grouped_attention if attention == "grouped" else padded_attention
    return replace(kernels, paged_attention=gathering)


def _select(name: str, device: torch.device) -> Kernels:
    if name == "auto":
        name = "triton" if device.type == "cuda" else "cpu"
    if name == "torch":
        return _torch()
    if name == "cpu":
        return _cpu(device)
    if name == "triton":
        return _triton(device)
    raise ValueError(f"unknown kernels {name!r}: use auto, triton, cpu or torch")


def _torch() -> Kernels:
    return Kernels(
        name="torch",
        linear=linear_reference,
        add_rms_norm=add_rms_norm_reference,
        rotary_write=rotary_write_reference,
        paged_attention=paged_attention_reference,
        silu_mul=silu_mul_reference,
        locate=locate_reference,
        restrict=restrict_reference,
        choose=choose_reference,
        advance=advance_reference,
    )


def _cpu(device: torch.device) -> Kernels:
    if device.type != "cpu":
        raise KernelsUnavailable(f"the cpu kernels can't run on device {device}")
    try:
        from worker_svc.kernels.attention_cpu import paged_attention_cpu
        from worker_svc.kernels.norm_cpu import add_rms_norm_cpu
        from worker_svc.kernels.restrict_cpu import restrict_cpu
        from worker_svc.kernels.rotary_cpu import rotary_write_cpu
        from worker_svc.kernels.sampling_cpu import choose_cpu, vocabulary_cpu
    except ImportError as error:
        raise KernelsUnavailable(
            f"the cpu kernels need numba ({error}); without it choose the kernels torch, "
            "whose attention is several times slower"
        ) from error
    return replace(
        _torch(),
        name="cpu",
        add_rms_norm=add_rms_norm_cpu,
        rotary_write=rotary_write_cpu,
        paged_attention=paged_attention_cpu,
        restrict=restrict_cpu,
        choose=choose_cpu,
        vocabulary=vocabulary_cpu,
    )


def _triton(device: torch.device) -> Kernels:
    try:
        from triton import knobs
    except ImportError as error:
        raise KernelsUnavailable(f"the triton kernels need triton ({error})") from error
    if device.type != "cuda" and not knobs.runtime.interpret:
        raise KernelsUnavailable(
            f"the triton kernels need a CUDA device, not {device}; "
            "on a CPU they run only in Triton's interpreter, with TRITON_INTERPRET=1"
        )
    # Only now: Triton asks as a kernel is defined whether the interpreter is to run it.
    from worker_svc.kernels.activation_triton import silu_mul_triton
    from worker_svc.kernels.advance_triton import advance_triton
    from worker_svc.kernels.attention_triton import paged_attention_triton
    from worker_svc.kernels.linear_triton import linear_triton
    from worker_svc.kernels.locate_triton import locate_triton
    from worker_svc.kernels.norm_triton import add_rms_norm_triton
    from worker_svc.kernels.restrict_triton import restrict_triton
    from worker_svc.kernels.rotary_triton import rotary_write_triton
    from worker_svc.kernels.sampling_triton import choose_triton

    return replace(
        _torch(),
        name="triton",
        linear=linear_triton,
        add_rms_norm=add_rms_norm_triton,
        rotary_write=rotary_write_triton,
        paged_attention=paged_attention_triton,
        silu_mul=silu_mul_triton,
        locate=locate_triton,
        restrict=restrict_triton,
        choose=choose_triton,
        advance=advance_triton,
    )
