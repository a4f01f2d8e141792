"""Compilation options: one record, and the one place where environment variables are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from .ir.offload.page_formats import ASKED
from .ir.sparse.policy import parse_policy
from .option_values import BadOption, check_group, one_of, parsed, read, require_number

WEIGHT_FORMATS = ("f32", "bf16", "int8", "fp8")
KV_FORMATS = ("", "f32", "bf16", "fp8")
ACTIVATION_FORMATS = ("", "bf16")
EXECUTORS = ("compiled", "reference")
TARGETS = ("cpu", "cuda")
TUNINGS = ("cached", "off")
MOST_THREADS = 1024
"""A pool of tens of thousands dies as it starts."""
LOGITS_A_SEQUENCE = 8
"""Rows of logits of a GPU's step, for each of its sequences: with 256 sequences and 128,256 words
1 GB, in memory that the prompts of an 8 B model's step have taken before."""

GPU_DEFAULTS = {"weights": "bf16", "kv_memory": 0, "max_batch": 256, "max_tokens": 16384}
"""What `changed(target="cuda")` sets beside the target, unless it is told otherwise."""
REMOTE_APIS = ("auto", "chat", "completions")
REMOTE_DIALECTS = ("auto", "openai", "vllm", "sglang", "llama.cpp", "llama-cpp-python", "plain")


@dataclass(frozen=True)
class RemoteOptions:
    """What a run on a remote model may choose; each is `remote_NAME` among the options.

    At most `concurrency` calls are under way at once; a call that gives no byte for `timeout`
    seconds, or fails in passing, is tried again up to `retries` times. `merge` asks for
    consecutive gens in one call. `api` is the form of the calls: `chat`, `completions`, or `auto`
    (chat where the program has messages); `dialect` names the server where its model list does not;
    `prefill` (`yes`, `no`) says whether it continues an open assistant message; `template` is a
    checkpoint whose chat template writes messages as text. `key` is sent, and never shown.
    """

    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    merge: bool = True
    api: str = "auto"
    dialect: str = "auto"
    prefill: str = "auto"
    template: str = ""
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_group("remote", self)
        one_of("remote_api", self.api, REMOTE_APIS)
        one_of("remote_dialect", self.dialect, REMOTE_DIALECTS)
        one_of("remote_prefill", self.prefill, ("auto", "yes", "no"))
        for name in ("concurrency", "timeout"):
            if not getattr(self, name) > 0:  # a timeout may be no number (NaN)
                raise BadOption(problem=f"remote_{name} must be positive")
        if self.retries < 0:
            raise BadOption(problem="remote_retries must not be negative")

    @property
    def given(self) -> list[str]:
        """The names of the options that say something; the key is the environment's."""
        return [f"remote_{item.name}" for item in fields(self)
                if item.name != "key" and getattr(self, item.name) != item.default]  # fmt: skip

    @staticmethod
    def parse(texts: Mapping[str, str]) -> dict[str, Any]:
        """Return options given as text, `{"timeout": "30"}`, as `changed` wants them."""
        return parsed("remote", RemoteOptions, texts, {"key"})


@dataclass(frozen=True)
class OffloadOptions:
    """How a model larger than the GPU is run; each is `offload_NAME` among the options.

    `host_memory` bounds what lies beside the CPU, in bytes (0: as much as is wanted); what exceeds
    it stays on disk. `policy` (a cost_model.policy.Policy) says what lies where; without one, the
    cost model chooses what this leaves open: `schedule` is the pipeline (empty: open),
    `micro_batches` those of a step (0: open), `cpu_experts` of each layer the CPU computes (-1:
    open; 1.5: one and two in turn); an expert is `pages_per_expert` slices, placed and moved one by
    one (0: open); `kv_gpu` is the share of keys that lie on the GPU where attention is computed
    there (-1: open).
    Prompts and decode share steps; `prompt_tokens`, unless 0, bounds those of prompts beside a full
    batch. `page_format` is that of pages on their way: as the weights, or bf12 (bf16 in twelve
    bits, exactly), or int8 or int4, which are lossy. `routing` is a file that says how often each
    expert is used, a trace of `weft run --record-routing` or JSON: experts of the CPU are the
    coldest from the first step on.
    """

    host_memory: int = 0
    schedule: str = ""
    micro_batches: int = 0
    cpu_experts: float = -1.0
    pages_per_expert: int = 1
    kv_gpu: float = -1.0
    prompt_tokens: int = 0
    page_format: str = ""
    routing: str = ""
    policy: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.routing, Path):
            object.__setattr__(self, "routing", str(self.routing))
        check_group("offload", self)
        if self.policy is not None:
            self._check_policy()
        if self.schedule:
            one_of("offload_schedule", self.schedule, ("ring", "cgo", "s2", "s3", "s4"))
        one_of("offload_page_format", self.page_format, ("", *ASKED))
        if self.prompt_tokens < 0:
            raise BadOption(problem="offload_prompt_tokens must be positive, or 0: unbounded")
        for name in ("micro_batches", "pages_per_expert"):
            if getattr(self, name) < 0:
                raise BadOption(problem=f"offload_{name} must be positive, or 0: chosen")
        if not (self.kv_gpu == -1 or 0 <= self.kv_gpu <= 1):
            raise BadOption(problem=f"offload_kv_gpu is a share from 0 to 1, not {self.kv_gpu}")
        if self.kv_gpu > 0 and self.schedule not in ("", "s4"):
            problem = f"keys on the GPU go with attention there, not with {self.schedule}"
            raise BadOption(problem=problem, hint="attention on the GPU has the schedule s4")
        if not (self.cpu_experts == -1 or 0 <= self.cpu_experts < inf):
            problem = f"offload_cpu_experts is a number from 0 on, not {self.cpu_experts:g}"
            raise BadOption(problem=problem, hint="left out, it is chosen")
        if self.host_memory < 0:
            raise BadOption(problem=f"offload_host_memory is at least 0, not {self.host_memory}")

    def _check_policy(self) -> None:
        """Raise BadOption for what is no policy, and beside one for what it has decided."""
        from .cost_model.policy import Policy

        if not isinstance(self.policy, Policy):
            hint = "cost_model.policy_text.parse makes one of the text that weft tune saves"
            raise BadOption(problem=f"offload_policy is a Policy, not {self.policy!r}", hint=hint)
        beside = {"offload_policy", "offload_host_memory"}
        if not self.policy.overlap:  # else it says how many tokens of prompts stand beside a step's
            beside.add("offload_prompt_tokens")
        others = [name for name in self.given if name not in beside]
        if others:
            problem = f"{', '.join(others)}: the policy (offload_policy) says that itself"
            raise BadOption(problem=problem, hint="leave out one of the two")

    @property
    def given(self) -> list[str]:
        """The names of the options that say something."""
        return [f"offload_{item.name}" for item in fields(self)
                if getattr(self, item.name) != item.default]  # fmt: skip

    @staticmethod
    def parse(texts: Mapping[str, str]) -> dict[str, Any]:
        """Return options given as text, `{"schedule": "s3"}`, as `changed` wants them."""
        found = parsed("offload", OffloadOptions, texts, {"policy", "host_memory"})
        for name in ("offload_cpu_experts", "offload_kv_gpu"):
            if found.get(name, 0) < 0:  # -1 stands for what is left out
                problem = f"{name} is a number from 0 on, not {found[name]:g}"
                raise BadOption(problem=problem, hint="left out, it is chosen")
        return found


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process: its rank, how many there are, its number on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @staticmethod
    def from_env(environment: Mapping[str, str] | None = None) -> Launch:
        """Return what RANK, WORLD_SIZE and LOCAL_RANK say; one process where they are not set."""
        env = os.environ if environment is None else environment
        named = zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), (0, 1, 0), strict=True)
        return Launch(*(read(name, int, env.get(name) or str(at)) for name, at in named))


@dataclass(frozen=True)
class Options:
    """What a compilation may choose.

    `target` is `cpu`, or `cuda`: one NVIDIA GPU, which brings defaults of its own (GPU_DEFAULTS).
    `weights` is the format that weights are kept in, `kv` that of keys and values (empty: f32, on a
    GPU bf16); fp8 needs a GPU. Products of several rows with fp8 weights round these rows to fp8 as
    well, unless `activations` is `bf16`. `executor` is `compiled`, or `reference` for the meaning
    of the graph run operation by operation; `kv_memory` bounds keys and values in bytes (0, on a
    GPU: what its memory has room for); `threads` of a CPU (0: every core; one process has one pool,
    sized by the first model that it loads); `max_batch` sequences and `max_tokens` rows bound one
    step. `cache` holds compiled kernels (None: the user's cache folder). `tp` processes, started by
    torchrun, hold a part of the model each, on a GPU each or on this CPU; rank 0 runs the program.
    `gpu_memory` bytes, unless 0, divide a model with experts between a GPU (without the target
    cuda: a simulated one) and the CPU, as `offload` says. `tune` takes the schedules that `weft
    kernels --tune` chose on this device (`cached`), or does not (`off`). `weight_copies` lets a
    GPU's decode steps have copies of weights that lie as they read them, where keys leave room.
    `prove` refuses kernels without a bounds proof, and pipelines with a hazard; `trace` records
    every step. `validate` checks after each pass over the program that it kept what the program
    means. `attention` is `dense`, or a policy `sparse(...)` of decode steps (`ir.sparse.policy`):
    taken from the context on from which it pays for steps of `attention_batch` sequences, or, with
    `attention_always`, at any price (empty: dense, if neither the program nor `max_loss` asks for
    another). `max_loss` picks the cheapest policy that was measured to lose no more (0.01: one
    percent of perplexity, and one point of retrieval at any length; None: none is picked), and
    holds one that is asked for to that. `calibration` is a file of the model's channels, if not the
    one beside it (None). With `kv_host_memory` bytes, unless 0, keys and values lie in host memory,
    and `kv_memory` is what a GPU (without the target cuda: a simulated one) has for labels and a
    cache of what sparse attention reads, at any price.
    """

    target: str = "cpu"
    weights: str = "f32"
    kv: str = ""
    activations: str = ""
    executor: str = "compiled"
    threads: int = 0
    kv_memory: int = 256 << 20
    max_batch: int = 16
    max_tokens: int = 512
    tp: int = 1
    gpu_memory: int = 0
    seed: int = 0
    cache: Path | None = None
    prove: bool = True
    tune: str = "cached"
    weight_copies: bool = True
    trace: bool = False
    validate: bool = False
    attention: str = ""
    attention_always: bool = False
    attention_batch: int = 1
    max_loss: float | None = None
    calibration: Path | None = None
    kv_host_memory: int = 0
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    offload: OffloadOptions = field(default_factory=OffloadOptions)

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_values()
        self._check_memories()

    def _check_kinds(self) -> None:
        for item in fields(self):
            if isinstance(item.default, int | float):  # the others are checked one by one
                require_number(item.name, getattr(self, item.name), type(item.default))
        if self.max_loss is not None:
            require_number("max_loss", self.max_loss, float)
        for name, of, what in (("cache", Path, "a folder"), ("calibration", Path, "a file"),
                ("attention", str, "a text such as 'sparse(ratio=1/16)'")):  # fmt: skip
            value = getattr(self, name)
            if of is Path and isinstance(value, str):  # from Python, by its text
                object.__setattr__(self, name, Path(value))
            elif not isinstance(value, of | None):
                raise BadOption(problem=f"{name} is {what}, not {value!r}")

    def _check_values(self) -> None:
        one_of("weights", self.weights, WEIGHT_FORMATS)
        one_of("kv", self.kv, KV_FORMATS)
        one_of("activations", self.activations, ACTIVATION_FORMATS)
        one_of("tune", self.tune, TUNINGS)
        one_of("executor", self.executor, EXECUTORS)
        one_of("target", self.target, TARGETS)
        if self.target == "cpu" and "fp8" in (self.weights, self.kv):
            hint = "weights=int8 is as small there, and kv=bf16 half of f32"
            raise BadOption(problem="fp8 needs a GPU: a CPU has no such products", hint=hint)
        if self.attention:
            self._check_attention()
        if not 0 <= (self.max_loss or 0) < 1:
            raise BadOption(problem=f"max_loss is a share such as 0.01, not {self.max_loss}")
        for name in ("kv_memory", "max_batch", "max_tokens", "tp", "attention_batch"):
            free = name == "kv_memory" and self.target == "cuda" and self.kv_memory == 0
            if getattr(self, name) <= 0 and not free:
                raise BadOption(problem=f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.threads <= MOST_THREADS:
            problem = f"threads are from 1 to {MOST_THREADS}, or 0: every core, not {self.threads}"
            raise BadOption(problem=problem)
        for name in ("gpu_memory", "kv_host_memory", "seed"):
            if getattr(self, name) < 0:
                raise BadOption(problem=f"{name} must be 0 or more, not {getattr(self, name)}")

    def _check_memories(self) -> None:
        """Raise BadOption for bounds of memory that do not go with each other or with the rest."""
        if self.kv_host_memory and (self.tp > 1 or self.executor == "reference" or self.gpu_memory):
            problem = "kv_host_memory is for one process with compiled kernels and a whole model"
            raise BadOption(problem=problem, hint="leave out tp, executor and gpu_memory")
        if self.offload.given and not self.gpu_memory:
            names = ", ".join(self.offload.given)
            raise BadOption(
                problem=f"{names}: nothing is offloaded of a model whose gpu_memory has no bound",
                hint="bound it, as --gpu-memory 16GiB does (gpu_memory=16 << 30), or leave it out",
            )
        if self.gpu_memory and (self.tp > 1 or self.executor == "reference"):
            problem = "gpu_memory divides a model in one process that runs compiled kernels"
            raise BadOption(problem=problem, hint="leave out tp and executor, or gpu_memory")
        dense = self.attention in ("", "dense")
        if self.gpu_memory and (not dense or self.kv not in ("", "f32", "bf16")):
            problem = "with gpu_memory attention is dense, over keys of f32 or bf16 in host memory"
            raise BadOption(problem=problem, hint="leave out attention and kv, or gpu_memory")

    @property
    def max_logits(self) -> int:
        """Rows of logits of one step: on a GPU more than sequences, as options that are scored have
        one for each of their tokens."""
        if self.target != "cuda":
            return self.max_batch
        return max(self.max_batch, min(self.max_tokens, LOGITS_A_SEQUENCE * self.max_batch))

    def _check_attention(self) -> None:
        if parse_policy(self.attention) is not None:
            self.require_one_process()
        elif self.max_loss is not None:
            problem = "attention=dense loses nothing, and max_loss picks a policy that may"
            raise BadOption(problem=problem, hint="leave out one of the two")

    def require_one_process(self) -> None:
        """Raise BadOption where sparse attention would run in several processes."""
        if self.tp != 1:
            hint = "leave out sparse attention and max_loss, or tp"
            raise BadOption(problem="sparse attention runs in one process, not with tp", hint=hint)

    @staticmethod
    def from_env(environment: Mapping[str, str] | None = None) -> Options:
        """Return the defaults, changed by WEFT_CACHE, WEFT_THREADS, WEFT_TUNE, WEFT_VALIDATE and
        the key."""
        env = os.environ if environment is None else environment
        cache = Path(env["WEFT_CACHE"]) if env.get("WEFT_CACHE") else None
        remote = RemoteOptions(key=env.get("OPENAI_API_KEY", "").strip())
        threads = read("WEFT_THREADS", int, env.get("WEFT_THREADS") or "0")
        if threads < 0:
            raise BadOption(problem=f"WEFT_THREADS is a number of threads, not {threads}")
        validate = read("WEFT_VALIDATE", bool, env.get("WEFT_VALIDATE") or "no")
        tune = env.get("WEFT_TUNE") or "cached"
        return Options(cache=cache, threads=threads, tune=tune, validate=validate, remote=remote)

    @classmethod
    def of(cls, options: Any) -> Options:
        """Return the options that a caller gives, those of the environment for None; raises
        BadOption."""
        if options is None:
            return cls.from_env()
        if not isinstance(options, Options):
            hint = "give weft.Options(...), or name options by themselves: seed=1"
            raise BadOption(problem=f"options is {type(options).__name__}, not Options", hint=hint)
        return options

    def changed(self, **changes: Any) -> Options:
        """Return a copy with some options set; raises BadOption for an unknown one."""
        if changes.get("target") == "cuda":
            changes = {**GPU_DEFAULTS, **changes}
        known = {item.name for item in fields(self)}
        inner: set[str] = set()
        for group, kind in (("remote", RemoteOptions), ("offload", OffloadOptions)):
            names = {f"{group}_{item.name}" for item in fields(kind)}
            inner |= names
            given = {name: changes.pop(name) for name in names & changes.keys()}
            if given:
                plain = {name.removeprefix(f"{group}_"): value for name, value in given.items()}
                changes[group] = replace(changes.get(group, getattr(self, group)), **plain)
        for name in changes:
            if name not in known:
                hint = f"the options are: {', '.join(sorted(known | inner))}"
                raise BadOption(problem=f"there is no option {name!r}", hint=hint)
        return replace(self, **changes)

    @property
    def thread_count(self) -> int:
        """Threads of a CPU kernel: as asked, or the cores that this process may use."""
        return self.threads or len(os.sched_getaffinity(0))
