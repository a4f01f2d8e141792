"""Decode steps of a model whose keys lie in host memory, by the executor that `weft run` takes.

The 8 B shape with random weights and, beside its own new tokens, random keys and labels: what is
compiled for `--target cuda --kv-host-memory`, with a cache of two selections. `steady` gives the
same token every step, so that queries turn by rope alone (as alike as the cosine that
`sparse.offload` says of the shipped models); `fresh` another each time, which no cache foresees.
Both are run with predictions (`guessed`) and without (`unguessed`); keys without either are of the
way that the executor decides for (`ahead`). Beside it a stack of the same products over keys that
are copied whole, layer by layer, and the same executor with its keys on the device, whose logits
must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from weft.bench.sparse.model_steps import TINY, decode_step, in_order
from weft.bench.sparse.offload import ROOM, Streaming, products, timed
from weft.bench.sparse.steps import Setting
from weft.codegen.build_cuda import load_kernels
from weft.compiler.attention import Attention
from weft.compiler.key_offload import key_costs
from weft.compiler.keys_ahead import fetches_ahead
from weft.compiler.loading import executor_on, page_count
from weft.frontend.models.presets import preset
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig
from weft.ir.sparse.policy import SparsePolicy
from weft.options import Options
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.devices.graphs import CudaGraphs
from weft.runtime.execution.step import SPARSE

SETTINGS = {"256k": (1 << 18, 4), "64k": (1 << 16, 16)}
"""Contexts, and layers of the shape that are run: 4 GiB of keys in host memory."""
VALUES = 16.0
"""The deviation of values: their mean over many is small, and must show in logits."""
WARM, STEPS = 6, 24
"""Steps before those that are timed, and how many of these there are."""


@dataclass(frozen=True)
class Placed:
    """Where a model's keys lie: across the link or not, whether rows are fetched `ahead`; of how
    many sequences; and the bytes of a device for what it holds of them (0: of two selections)."""

    across: bool = True
    ahead: bool = True
    batch: int = 1
    memory: int = 0


class HostModel:
    """A model of some layers over sequences of one context."""

    def __init__(
        self, config: ModelConfig, policy: SparsePolicy, context: int, folder: Path, placed: Placed
    ) -> None:  # fmt: skip
        self.config, self.context, self.batch = config, context, placed.batch
        self.tiny = not torch.cuda.is_available()
        attention = Attention(policy, in_order(config), always=True, hardware="h200",
                              offload=placed.across, ahead=placed.ahead)  # fmt: skip
        format = "f32" if self.tiny else "bf16"
        limits: dict[str, Any] = {"max_tokens": 64, "max_batch": placed.batch}
        graph = build_graph(config)
        regimes = lower_for_gpu(config, graph, weights=format, activations=format, kv=format,
                                attention=attention.passes, **limits)  # fmt: skip
        wanted = merge_kernels(regimes) + gpu_step_kernels(config.vocab_size)
        kernels = load_kernels(wanted, folder, interpreted=self.tiny)
        self.each = -(-config.context_length // 64)
        self.pages = placed.batch * self.each + 1
        checkpoint: Any = SimpleNamespace(config=config, folder=None, name="random", graph=graph)
        options, memory = Options(target="cuda", weights=format, kv_memory=1, **limits), 0
        if placed.across:
            costs = key_costs(checkpoint, options, attention, 64)
            options = replace(options, kv_host_memory=self.pages * costs.host_page)
            rows = -(-ROOM * placed.batch * policy.budget(config.context_length) // 64) * 64
            memory = costs.fixed + self.pages * costs.device_page + rows * costs.row
            memory = placed.memory or memory
        self.executor: Any = executor_on(
            checkpoint, regimes, kernels, options, self.pages, "cpu" if self.tiny else "cuda",
            None if self.tiny else CudaGraphs(), attention=attention, memory=memory,
        )  # fmt: skip
        self.position = context
        self._asked = checkpoint, options, attention

    @property
    def decided(self) -> bool:
        """Whether an executor would fetch ahead, unasked."""
        _, options, attention = self._asked
        price = fetches_ahead(self.config, options, attention.policy, attention.hardware)
        return price is None or price.pays

    def fits(self, memory: int) -> int:
        """Return how many of its sequences a device has room for in so many bytes."""
        checkpoint, options, attention = self._asked
        return (
            page_count(checkpoint, replace(options, kv_memory=memory), attention, 64) // self.each
        )

    def stacks(self) -> list[torch.Tensor]:
        """Return k and v of all layers, [layers, N, K, P, C]."""
        host = self.executor.host
        return list(host.stacks[True]) if host else self.executor._pools

    def labels(self) -> list[torch.Tensor]:
        """Return the labels of each layer."""
        return self.executor._sparse.layers["labels"]

    def fill(self) -> None:
        """Give all tokens random keys, values and labels."""
        torch.manual_seed(0)
        for stack, scale in zip(self.stacks(), (1.0, VALUES), strict=True):
            for part in stack.flatten(0, 1).split(2048):
                part.copy_(torch.randn(part.shape, device=part.device) * scale)
        for pool in self.labels():
            pool.view(torch.uint8).random_(0, 256)

    def take(self, pools: list[torch.Tensor], pages: int) -> None:
        """Take the first pages of keys and labels of another model."""
        for mine, its in zip((*self.stacks(), *self.labels()), pools, strict=True):
            at = 1 if mine.dim() == 5 else 0  # keys are stacked by layer
            mine.narrow(at, 0, pages).copy_(its.narrow(at, 0, pages))

    def step(self, token: int) -> torch.Tensor:
        """Decode one token of each sequence, and return the logits."""
        self.position += 1
        step = decode_step(self.position, self.batch, self.each, SPARSE)
        step.tokens.fill_(token)
        return self.executor.forward(step)

    def seconds(self, tokens: Callable[[int], int], steps: int) -> float:
        """Return the seconds of a step, of many that follow each other."""
        begin = 0.0
        warm = 1 if self.tiny else WARM
        for number in range(warm + steps):
            if number == warm:
                self.settle()
                begin = perf_counter()
            self.step(tokens(number))
        self.settle()
        return (perf_counter() - begin) / steps

    def settle(self) -> None:
        """Wait for the device."""
        if not self.tiny:
            torch.cuda.synchronize()

    def close(self) -> None:
        """Give its memory back."""
        host, self.executor = self.executor.host, None
        if host is not None and not self.tiny:
            host.device.close()
            torch.cuda.empty_cache()


@contextmanager
def model(*arguments: Any) -> Iterator[HostModel]:
    """A model that gives its memory back."""
    made = HostModel(*arguments)
    try:
        yield made
    finally:
        made.close()


def host_model(folder: Path, tiny: bool) -> dict[str, Any]:
    """Steps at 256 K and 64 K of some layers of the model."""
    if tiny:
        policy = SparsePolicy(k=16, labels="i8", channels=4, sinks=2, recent=4, min_context=0)
        config = replace(TINY, context_length=192)
        found = {"host_model_tiny": measured(config, policy, 64, folder, 1, check=True)}
        print(f"  host model: {found}", flush=True)
        return found
    found: dict[str, Any] = {}
    policy = SparsePolicy(ratio=1 / 16, channels=32, min_context=0)
    for name, (context, layers) in SETTINGS.items():
        config = replace(preset("llama-8b"), layers=layers, windows=(0,) * layers,
                         context_length=context + 256)  # fmt: skip
        figures = measured(config, policy, context, folder, STEPS, check=name == "64k")
        print(f"  host model {name}: {figures}", flush=True)
        found |= {f"host_model_{name}": figures, f"host_model_{name}_speedup": figures["speedup"]}
    return found


def measured(
    config: ModelConfig, policy: SparsePolicy, context: int, folder: Path, steps: int, check: bool
) -> dict[str, Any]:
    """Return the us of a step, what it fetched, and how many times faster than streaming it is."""
    found: dict[str, Any] = {"layers": config.layers}
    if check:
        found |= compared(config, policy, context, folder, Placed(), Placed(False))
        with model(config, policy, context, folder, Placed(False)) as near:
            near.fill()
            seconds = near.seconds(lambda _: 7, steps)
            found["on_device_us"] = None if near.tiny else 1e6 * seconds
    for way, ahead in (("guessed_", True), ("unguessed_", False)):
        with model(config, policy, context, folder, Placed(ahead=ahead)) as across:
            across.fill()
            for name, tokens in (("", lambda _: 7), ("fresh_", lambda number: 11 + 5 * number)):
                found |= run(across, tokens, steps, way + name)
            if not ahead and not across.tiny:
                found |= streamed(across)
            tiny, decided = across.tiny, across.decided
    way = "guessed_" if decided else "unguessed_"
    taken = {key.removeprefix(way): value for key, value in found.items() if key.startswith(way)}
    found |= taken | {"ahead": decided}
    if tiny:
        return found
    return found | {"speedup": found["streaming_us"] / found["us"],
                    "fresh_speedup": found["streaming_us"] / found["fresh_us"]}  # fmt: skip


def run(
    across: HostModel, tokens: Callable[[int], int], steps: int, name: str
) -> dict[str, float | None]:
    """Return the us of a step, and where the rows that it read were."""
    before = asdict(across.executor.host.traffic())
    seconds = across.seconds(tokens, steps)
    after = asdict(across.executor.host.traffic())
    found = shares({key: after[key] - before[key] for key in after}, name)
    return found | {f"{name}us": None if across.tiny else 1e6 * seconds}


def shares(counts: dict[str, int], name: str) -> dict[str, float]:
    """Return what was in the cache, had come ahead, was brought ahead: shares of what was read."""
    held = counts["held"] - counts["predicted"]
    every = {"held": held, "predicted": counts["predicted"], "brought": counts["brought"]}
    return {f"{name}{key}": round(count / counts["wanted"], 4) for key, count in every.items()}


def compared(
    config: ModelConfig, policy: SparsePolicy, context: int, folder: Path, far: Placed, near: Placed
) -> dict[str, float]:
    """Return how far logits of one layer are from those with keys on the device, and how far those
    are from such of other labels, which select other keys; raises where that tells nothing apart.

    Of one layer, as its input is the same: behind it rounding differs, and turns choices.
    """
    config = replace(config, layers=1, windows=config.windows[:1])
    with model(config, policy, context, folder, near) as kept:
        kept.fill()
        pools = [pool.clone() for pool in (*kept.stacks(), *kept.labels())]
        expected = kept.step(7).clone()
        for pool in kept.labels():
            pool.view(torch.uint8).random_(0, 256)
        kept.position = context
        other = kept.step(7).clone()
    with model(config, policy, context, folder, far) as across:
        across.fill()
        across.take(pools, near.batch * across.each + 1)
        found = across.step(7)[: near.batch].clone()
    scale = expected.abs().max()
    error, apart = (float((x - expected).abs().max() / scale) for x in (found, other))
    assert error < apart / 8, f"logits differ by {error}, and by {apart} where other keys are read"
    return {"error": error, "error_of_other_keys": apart}


def streamed(across: HostModel) -> dict[str, float]:
    """Return the us of the same step with all keys and values copied, layer by layer."""
    setting = Setting.of(across.context, 1, {"ratio": 1 / 16}, False)
    pages = across.context // 64
    pairs = zip(across.executor.host.device.pinned, across.stacks(), strict=True)
    hosted = [buffer.view(stack.dtype)[: stack.numel()].view(stack.shape)
              for buffer, stack in pairs]  # fmt: skip
    sources = [[stack[layer, 1 : pages + 1] for stack in hosted]
               for layer in range(across.config.layers)]  # fmt: skip
    stream, rest = Streaming(setting, sources), products("cuda")
    head = torch.randn(across.config.width, across.config.vocab_size, dtype=torch.bfloat16,
                       device="cuda")  # fmt: skip
    x = torch.randn(1, across.config.width, dtype=torch.bfloat16, device="cuda")

    def step() -> None:
        stream.decode(rest)
        torch.mm(x, head)

    step()
    seconds = timed(step, lambda: None, 4)
    return {"streaming_us": 1e6 * seconds, "streaming_gbs": stream.bytes / seconds / 1e9}
