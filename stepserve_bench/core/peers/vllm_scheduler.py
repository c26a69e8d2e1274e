"""vLLM's V1 scheduler in steady decode, timed; run by ``stepserve bench core``.

Imports nothing of stepserve: it runs under the Python that ``--peer-python`` names, where
vllm can be imported. One JSON object a line on standard input and one in answer on standard
output, after a first line that says which versions these are:

    {"prompts": [[ids]], "max_tokens", "block_size", "num_blocks", "max_step_tokens",
     "num_warm_up_steps"}  ->  {"num_running"}    a new scheduler, all prompts computed
    {"num_steps"}          ->  {"schedule_us": [...], "update_us": [...]}

The scheduler and its requests are made as in vLLM's tests/v1/core/utils.py and as in its
EngineCore; no model is loaded.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

VOCAB_SIZE = 32_000
# The smallest thing that ModelConfig takes for a model; no tensor of it is ever made.
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32_768,
    "torch_dtype": "float32",
}


@dataclass(slots=True)
class Decode:
    """A scheduler whose requests all run, and the durations (µs) of its steps so far."""

    scheduler: Scheduler
    sampled: Iterator[int] = field(default_factory=lambda: count(7))
    schedule_us: list[float] = field(default_factory=list)
    update_us: list[float] = field(default_factory=list)

    def step(self) -> None:
        """Schedule, let every request that has no prompt left sample a token, and update."""
        start_ns = time.perf_counter_ns()
        scheduled = self.scheduler.schedule()
        self.schedule_us.append((time.perf_counter_ns() - start_ns) / 1e3)
        output = self._output(list(scheduled.num_scheduled_tokens))
        start_ns = time.perf_counter_ns()
        outputs = self.scheduler.update_from_output(scheduled, output)
        self.update_us.append((time.perf_counter_ns() - start_ns) / 1e3)
        del outputs  # Freed outside of the time, as the lane's effects are.

    def _output(self, ids: list[str]) -> ModelRunnerOutput:
        requests = self.scheduler.requests
        # What schedule() has counted as computed includes this step.
        is_chosen = [
            requests[name].num_computed_tokens >= requests[name].num_tokens for name in ids
        ]
        return ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={name: index for index, name in enumerate(ids)},
            sampled_token_ids=[[next(self.sampled) % VOCAB_SIZE] if c else [] for c in is_chosen],
        )


def new_scheduler(order: dict[str, Any], directory: str) -> Scheduler:
    """Return a scheduler with room for all of ``order``'s prompts: prefix caching on."""
    max_model_len = MODEL["max_position_embeddings"]
    scheduler_config = SchedulerConfig(
        max_num_seqs=len(order["prompts"]),
        max_num_batched_tokens=order["max_step_tokens"],
        max_model_len=max_model_len,
        is_encoder_decoder=False,
        enable_chunked_prefill=True,
        async_scheduling=False,
    )
    cache_config = CacheConfig(block_size=order["block_size"], enable_prefix_caching=True)
    cache_config.num_gpu_blocks = order["num_blocks"]
    vllm_config = VllmConfig(
        scheduler_config=scheduler_config,
        model_config=ModelConfig(model=directory, dtype="float32", skip_tokenizer_init=True),
        cache_config=cache_config,
    )
    spec = FullAttentionSpec(
        block_size=order["block_size"], num_kv_heads=2, head_size=16, dtype=torch.float32
    )
    return Scheduler(
        vllm_config=vllm_config,
        kv_cache_config=KVCacheConfig(
            num_blocks=order["num_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(vllm_config),
        block_size=order["block_size"],
        log_stats=False,
    )


def new_decode(order: dict[str, Any]) -> Decode:
    """Return a scheduler that has computed every prompt, and then decoded for a while."""
    with tempfile.TemporaryDirectory(prefix="stepserve-peer-") as directory:
        (Path(directory) / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
        scheduler = new_scheduler(order, directory)
    gc.collect()
    gc.freeze()  # As its engine does once it is up.
    hash_function = get_hash_fn_by_name(scheduler.vllm_config.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_function)
    hasher = get_request_block_hasher(order["block_size"], hash_function)
    sampling = SamplingParams(max_tokens=order["max_tokens"], temperature=0.0, ignore_eos=True)
    for index, prompt in enumerate(order["prompts"]):
        request = Request(f"job-{index:06}", prompt, sampling, None, block_hasher=hasher)
        scheduler.add_request(request)
    decode = Decode(scheduler)
    while any(r.num_computed_tokens < r.num_prompt_tokens for r in scheduler.requests.values()):
        decode.step()
    for _ in range(order["num_warm_up_steps"]):
        decode.step()
    return decode


def measure(decode: Decode, num_steps: int) -> dict[str, Any]:
    """Run so many steps; return how long each took, in microseconds."""
    decode.schedule_us.clear()
    decode.update_us.clear()
    gc.collect()
    for _ in range(num_steps):
        decode.step()
    return {"schedule_us": decode.schedule_us, "update_us": decode.update_us}


def main() -> None:
    """Answer standard input until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Only answers are on standard output.

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    names = ("vllm", "torch")
    answer({"python": platform.python_version(), **{name: version(name) for name in names}})
    decode: Decode | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if "prompts" in order:
            decode = None  # The old one goes first: two would be twice the memory.
            decode = new_decode(order)
            answer({"num_running": len(decode.scheduler.running)})
        elif decode is not None:
            answer(measure(decode, order["num_steps"]))


if __name__ == "__main__":
    main()
