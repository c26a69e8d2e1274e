"""The ``stepserve`` command: one table of subcommands, each a settings class that runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Protocol, cast

from pydantic_settings import BaseSettings

import stepserve
from stepserve.process.command_line import meant, parse_settings, print_any_character
from stepserve.process.extras import needs_extra
from stepserve.protocol.errors import StepserveError

# name: (where its class is, what it does). Imported only when it is called, so that a
# client needs neither redis nor torch.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("stepserve.commands.up:Up", "serve a model on this machine: Redis, scheduler, worker"),
    "scheduler": (
        "stepserve.commands.services:Scheduler",
        "run one scheduler: takes jobs, plans workers' steps",
    ),
    "worker": (
        "stepserve.commands.services:Worker",
        "run one worker: has the model on its device, computes",
    ),
    "generate": ("stepserve.commands.generate:Generate", "stream the continuation of a prompt"),
    "chat": ("stepserve.commands.chat:Chat", "talk to the model in the terminal"),
    "submit": ("stepserve.commands.jobs:Submit", "store a job and print its id; it runs by itself"),
    "attach": ("stepserve.commands.jobs:Attach", "stream a job's output, from any offset"),
    "get": ("stepserve.commands.jobs:Get", "wait for a job's end, print its whole output"),
    "jobs": ("stepserve.commands.jobs:Jobs", "list jobs, newest first"),
    "workers": ("stepserve.commands.workers:Workers", "list workers, and who drives each"),
    "cancel": ("stepserve.commands.jobs:Cancel", "end a job"),
    "delete": ("stepserve.commands.jobs:Delete", "forget a job and its output"),
    "batch": ("stepserve.commands.batch:Batch", "run a file of jobs; resumable"),
    "keys add": ("stepserve.commands.keys:KeysAdd", "make an API key, print it this once"),
    "keys list": (
        "stepserve.commands.keys:KeysList",
        "list API keys: whose they are, what they may",
    ),
    "keys remove": ("stepserve.commands.keys:KeysRemove", "revoke an API key"),
    "bench": (
        "stepserve_bench.compare.command:Bench",
        "stepserve beside transformers' static batches",
    ),
    "bench static": ("stepserve_bench.compare.command:Bench", "the same as bench"),
    "bench batching": (
        "stepserve_bench.batching.command:BatchingBench",
        "static, continuous and selective batches",
    ),
    "bench policies": (
        "stepserve_bench.policies.command:PolicyBench",
        "what each policy promises, measured",
    ),
    "bench core": (
        "stepserve_bench.core.command:CoreBench",
        "what one decision of the scheduler costs",
    ),
    "bench gpu": (
        "stepserve_bench.gpu.command:GpuBench",
        "one GPU: kernels, steps, service, floors",
    ),
    "bench pipeline": (
        "stepserve_bench.pipeline.command:PipelineBench",
        "stages, and how long they wait",
    ),
    "bench path": ("stepserve_bench.path.command:PathBench", "what a streamed token costs"),
    "bench scaling": (
        "stepserve_bench.scaling.command:ScalingBench",
        "more workers, more schedulers",
    ),
    "bench example": (
        "stepserve_bench.demo.command:Example",
        "four jobs in batches of three, step by step",
    ),
    "chaos": (
        "stepserve_bench.chaos.command:Chaos",
        "break a service on purpose, lose nothing",
    ),
    "replay": ("scheduler_svc.trace.replay:ReplayCommand", "decide a recorded lane's turns again"),
    "simulate": (
        "stepserve_bench.simulator.command:Simulate",
        "the real scheduler in virtual time",
    ),
}

# By a command's first word, the extra that brings what it imports; a client needs none.
EXTRAS = {
    "up": "local",
    "scheduler": "scheduler",
    "worker": "worker",
    "batch": "local",
    "bench": "bench",
    "chaos": "bench",
    "replay": "scheduler",
    "simulate": "bench",
}


class Command(Protocol):
    """A settings class whose instance does the work; returns the exit status."""

    def run(self) -> int: ...


# Under which heading a command stands, by its first word.
HEADINGS = {
    "serve": ("up", "scheduler", "worker"),
    "ask a service that runs (--target, by default localhost:50051)": (
        "generate", "chat", "submit", "attach", "get", "jobs", "cancel", "delete", "workers",
        "batch",
    ),
    "API keys": ("keys",),
    "measure, break, replay": ("bench", "chaos", "simulate", "replay"),
}  # fmt: skip


def usage() -> str:
    parts = []
    for heading, words in HEADINGS.items():
        rows = [f"  {name:<15} {COMMANDS[name][1]}" for name in _of(words)]
        parts.append("\n".join([f"{heading}:", *rows]))
    return (
        "usage: stepserve COMMAND [options]\n\n"
        "LLM inference with durable jobs: schedulers plan every step of the workers, which\n"
        "compute it, and whatever a client was told is in Redis first.\n\n"
        + "\n\n".join(parts)
        + "\n\n"
        "stepserve COMMAND --help lists a command's options. Each can also be set by an\n"
        "environment variable: STEPSERVE_MAX_BATCH_SIZE=16 is --max-batch-size 16. --no-NAME\n"
        "takes a switch back that a variable or a default has set. What vLLM calls\n"
        "--max-num-seqs, --max-model-len, --max-num-batched-tokens, --served-model-name and\n"
        "--gpu-memory-utilization is known by these names, too. --version tells the version."
    )


def _of(words: Sequence[str]) -> list[str]:
    return [name for word in words for name in COMMANDS if name.split()[0] == word]


def parse(argv: Sequence[str]) -> Command:
    """Return the command that the arguments name, with its settings.

    Raises SystemExit: status 0 after printing help, 2 where the arguments are wrong.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0 if argv else 2)
    name, rest = _split(argv)
    if name == "--version":
        print(stepserve.__version__)
        raise SystemExit(0)
    if name not in COMMANDS:
        hint = meant("stepserve ", name, COMMANDS)
        told = f"stepserve: no command {name!r}{hint}\nstepserve --help lists the commands."
        print(told, file=sys.stderr)
        raise SystemExit(2)
    module, _, attribute = COMMANDS[name][0].partition(":")
    settings_class = cast(type[BaseSettings], getattr(importlib.import_module(module), attribute))
    return cast(Command, parse_settings(settings_class, f"stepserve {name}", rest))


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command's name, of one word or two, and the arguments that are left."""
    first, *rest = argv
    has_second = any(name.startswith(f"{first} ") for name in COMMANDS)
    if has_second and rest and not rest[0].startswith("-"):
        return f"{first} {rest[0]}", rest[1:]
    return first, rest


def main() -> int:
    """Run the command line; errors written for the user end with one line and status 1."""
    ended_by = signal.SIGINT

    def unwind(number: int, frame: FrameType | None) -> None:
        # As Ctrl-C does, which an event loop takes as a whole: an exception raised here would
        # end one of its tasks, whichever is running.
        nonlocal ended_by
        ended_by = signal.Signals(number)
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    # Services have handlers of their own; a client unwinds, and stops what it started.
    signal.signal(signal.SIGTERM, unwind)
    print_any_character()
    argv = sys.argv[1:]
    name = argv[0] if argv else ""
    if name not in EXTRAS:
        # gRPC's own log, of a client: what goes wrong is said in words of ours.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with needs_extra(EXTRAS.get(name, ""), name):
            return parse(argv).run()
    except StepserveError as error:
        print(f"stepserve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + ended_by
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
