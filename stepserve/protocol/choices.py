"""What may be chosen by the same words in several commands, services and benchmarks."""

from __future__ import annotations

from typing import Literal

# When jobs join a worker's batch: at every step, or all of them once the batch before has left.
Batching = Literal["continuous", "static"]
# What a step computes: each row through its block table, rows of equal lengths together, or one
# rectangle as long as the longest row.
Attention = Literal["paged", "grouped", "padded"]
# "auto" is cuda where there is one.
Device = Literal["auto", "cpu", "cuda"]
# "auto" is what the checkpoint is stored in on cuda, float32 on a CPU.
Dtype = Literal["auto", "float32", "float64", "bfloat16", "float16"]
# "auto" is triton on cuda, cpu elsewhere; see ``worker_svc.kernels``.
KernelSet = Literal["auto", "triton", "cpu", "torch"]
# What becomes of a job whose output is of a model that no worker has any more.
OnModelChange = Literal["wait", "end", "restart"]
# What an answered submit or commit survives. "local": any process being killed (AOF
# every second). "fsync": a host crash (AOF always). "replicated": the loss of the
# primary, best effort (one replica has acknowledged). The first two are the server's
# settings, see EmbeddedRedis; the third is asked for with every write.
Durability = Literal["local", "fsync", "replicated"]
