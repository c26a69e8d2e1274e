"""One decoder for every supported family: pre-norm layers, rotary positions, a gated MLP.

Token-wise layers run over all tokens of all rows at once; only attention knows rows (Yu et al.,
"Orca", section 4.2, selective batching). Attention is whatever ``kernels.paged_attention`` is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kvstore.cache import CacheShape, KVCache
from worker_svc.kernels import HeadNorms, Kernels, RotaryWrite
from worker_svc.model.batch import Batch
from worker_svc.model.config import ModelConfig
from worker_svc.model.part import Part
from worker_svc.model.share import WHOLE
from worker_svc.model.weights import DecoderWeights, LayerWeights, Linear


class Decoder:
    """The ``Model`` of one device: weights, and the kernels to use.

    All of it or a part: ``config`` is that of the rank, as narrow as its share of the layers.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        kernels: Kernels,
        part: Part = WHOLE,
        name: str = "",
        fingerprint: str = "",
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.config = config
        self.kernels = kernels
        self.part = part
        self.directory: Path | None = None
        self._weights = weights
        self._windows = [
            config.windows[layer] for layer in part.layers(config.num_layers, config.head_layers)
        ]
        self._cos, self._sin = rotary_tables(config, self.dtype, self.device)

    @property
    def hidden_size(self) -> int:
        """Numbers in a hidden state."""
        return self.config.hidden_size

    @property
    def vocab_size(self) -> int:
        """V, the numbers in a token's logits."""
        return self.config.vocab_size

    @property
    def max_context(self) -> int:
        """Tokens of a sequence at most."""
        return self.config.max_context

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self._weights.layers[0].input_norm.dtype

    @property
    def device(self) -> torch.device:
        """The device its weights are on."""
        return self._weights.layers[0].input_norm.device

    def cache_shape(self, block_size: int) -> CacheShape:
        """What a block of ``block_size`` tokens of this model's KV cache holds."""
        config = self.config
        return CacheShape(
            num_layers=len(self._weights.layers),
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=block_size,
            dtype=self.dtype,
        )

    def step_bytes(self, num_rows: int, width: int, context_len: int) -> int:
        """What layers and attention hold at once, the mask with the booleans it is made from."""
        config, itemsize = self.config, self.dtype.itemsize
        num_positions = num_rows * width
        heads = 2 * (config.num_heads + config.num_kv_heads)
        layer = 4 * config.hidden_size + max(3 * config.intermediate_size, heads * config.head_dim)
        gathered = 2 * num_rows * context_len * config.num_kv_heads * config.head_dim
        mask = num_positions * context_len * (itemsize + 2)
        return (num_positions * layer + gathered) * itemsize + mask

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, arrived: Tensor | None = None) -> Tensor:
        """As ``Model`` says; the last stage's hidden states are normalised.

        What a stage hands on is the sum that the next layer would begin with, so that the layers'
        values are the same, to the bit, however many stages there are.
        """
        kernels, weights, eps = self.kernels, self._weights, self.config.rms_eps
        residual = self._embedded(batch) if arrived is None else arrived
        update = torch.zeros_like(residual)  # nothing yet: the first layer is like any other
        for index, layer in enumerate(weights.layers):
            normed, residual = kernels.add_rms_norm(update, residual, layer.input_norm, eps)
            update = self._attend(index, layer, normed, batch, cache)
            normed, residual = kernels.add_rms_norm(update, residual, layer.mlp_norm, eps)
            gated = kernels.silu_mul(self._linear(normed, layer.gate_up))
            update = kernels.all_reduce(self._linear(gated, layer.down))
        if weights.final_norm is None:
            return update + residual
        update, residual = update[batch.sample_positions], residual[batch.sample_positions]
        return kernels.add_rms_norm(update, residual, weights.final_norm, eps)[0]

    def _embedded(self, batch: Batch) -> Tensor:
        assert self._weights.embedding is not None, "a later stage takes what has arrived"
        return self.kernels.vocabulary.embed(self._weights.embedding, batch.token_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[S, hidden_size]`` to ``[S, n]``, one for each token that the rank has.

        Only what is sampled pays for it.
        """
        assert self._weights.vocabulary is not None, "only the last stage has it"
        return self._linear(hidden, self._weights.vocabulary)

    def _attend(
        self, index: int, layer: LayerWeights, normed: Tensor, batch: Batch, cache: KVCache
    ) -> Tensor:
        config, kernels = self.config, self.kernels
        norms = None
        if layer.query_norm is not None and layer.key_norm is not None:
            norms = HeadNorms(layer.query_norm, layer.key_norm, config.rms_eps)
        heads = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        projected = self._linear(normed, layer.qkv).view(-1, sum(heads), config.head_dim)
        query, key, value = torch.split(projected, heads, dim=1)
        k_cache, v_cache = cache.layer(index)
        write = RotaryWrite(
            cos=self._cos,
            sin=self._sin,
            positions=batch.positions,
            slots=batch.slots,
            k_cache=k_cache,
            v_cache=v_cache,
            norms=norms,
        )
        kernels.rotary_write(query, key, value, write)
        mixed = kernels.paged_attention(
            query, k_cache, v_cache, batch.context, config.head_dim**-0.5, self._windows[index]
        )
        mixed = mixed.reshape(-1, config.num_heads * config.head_dim)
        return kernels.all_reduce(self._linear(mixed, layer.output))

    def _linear(self, x: Tensor, projection: Linear) -> Tensor:
        return self.kernels.linear(x, projection.weight, projection.bias)


def rotary_tables(
    config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, ``[max_context, head_dim / 2]`` in ``dtype``.

    Computed in float32 and then rounded, as transformers does, and always on the CPU, so that
    every device has the same values.
    """
    positions = torch.arange(config.max_context, dtype=torch.float32)
    angles = positions[:, None] * torch.tensor(config.inv_freq, dtype=torch.float32)
    cos, sin = angles.cos() * config.rope_scale, angles.sin() * config.rope_scale
    return cos.to(dtype).to(device), sin.to(dtype).to(device)
