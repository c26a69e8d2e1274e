"""How the ranks of a stage divide its layers: whole heads, columns of the MLP, tokens.

A projection that makes heads or columns is divided by its outputs, one that takes them by its
inputs; then a sum over the ranks makes a layer's attention, and its MLP, whole (Shoeybi et al.,
"Megatron-LM", section 3). Key-value heads are had by several ranks where they are fewer than ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker_svc.model.config import ModelConfig
from worker_svc.model.part import Part


@dataclass(frozen=True, slots=True)
class Run:
    """``size`` neighbours of a dimension that has ``whole``, from ``begin`` on."""

    begin: int
    size: int
    whole: int

    @classmethod
    def all_of(cls, whole: int) -> Run:
        return cls(0, whole, whole)

    @property
    def slice(self) -> slice:
        return slice(self.begin, self.begin + self.size)

    @property
    def range(self) -> range:
        return range(self.begin, self.begin + self.size)

    def times(self, factor: int) -> Run:
        """Where each of them is ``factor`` numbers."""
        return Run(self.begin * factor, self.size * factor, self.whole * factor)


@dataclass(frozen=True, slots=True)
class Division:
    """What a rank has of a model's dimensions, in heads, columns and tokens."""

    heads: Run
    kv_heads: Run
    columns: Run
    tokens: Run

    @classmethod
    def of(cls, config: ModelConfig, part: Part) -> Division:
        """Of a ``part`` whose ranks divide the config, see ``indivisible``."""
        return cls(
            heads=_even(config.num_heads, part),
            kv_heads=_even(config.num_kv_heads, part),
            columns=_even(config.intermediate_size, part),
            tokens=_even(config.vocab_size, part),
        )

    def narrow(self, config: ModelConfig) -> ModelConfig:
        """The config as a rank's layers are: fewer heads, fewer columns."""
        return replace(
            config,
            num_heads=self.heads.size,
            num_kv_heads=self.kv_heads.size,
            intermediate_size=self.columns.size,
        )


def indivisible(config: ModelConfig, num_ranks: int) -> list[str]:
    """What such ranks cannot divide, in words; nothing where they can divide all."""
    found = []
    for count, what in (
        (config.num_heads, "attention heads (num_attention_heads)"),
        (config.intermediate_size, "columns of the MLP (intermediate_size)"),
    ):
        if count % num_ranks:
            found.append(f"{count} {what}")
    kv_heads = config.num_kv_heads
    if kv_heads % num_ranks and num_ranks % kv_heads:
        found.append(f"{kv_heads} key-value heads (num_key_value_heads)")
    if config.vocab_size < num_ranks:
        found.append(f"{config.vocab_size} tokens (vocab_size)")
    return found


def _even(whole: int, part: Part) -> Run:
    """A rank's share, at least one: where there are fewer than ranks, several have the same one."""
    begin, end = (whole * (part.rank + more) // part.num_ranks for more in (0, 1))
    return Run(begin, max(1, end - begin), whole)
