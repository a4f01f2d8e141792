"""A process that runs a model through a GPU's executor, its kernels interpreted on the CPU.

Prints one JSON object: tokens by the engine on it, tokens by the graph's meaning, recordings.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from weft.codegen.build_cuda import load_kernels
from weft.codegen.meaning.graph_reference import GraphRun
from weft.codegen.meaning.sparse_decode_reference import DecodeAttention
from weft.compiler.attention import Attention
from weft.compiler.key_offload import key_costs
from weft.compiler.loading import device_sampler, executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.ir.sparse.calibration import AttentionCalibration, HeadChannels
from weft.ir.sparse.policy import parse_policy
from weft.options import Launch, Options
from weft.passes.graph.tensor_parallel import TensorParallel
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context, run_passes
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.attention import sparse_lists
from weft.runtime.constraints.watch import Watch
from weft.runtime.engine import Engine
from weft.runtime.execution import library, ranks
from weft.runtime.execution.executor import ReferenceExecutor
from weft.runtime.execution.key_room import KeyRoom
from weft.runtime.execution.weights import RandomTensors, load_weights
from weft.runtime.gpu.recordings import Recordings
from weft.runtime.schedule.request import Request, Sampling
from weft.tests.quick_interpreter import quicken
from weft.tests.runtime.gpu.any_order import AnyOrder

quicken()
LIMITS = {"max_batch": 4, "max_tokens": 64}
WIDE = {"max_batch": 64, "max_tokens": 64}
"""Every step with chunks has no more tokens than the largest batch."""
MOST_LOGITS = 16
"""Of a step that is not one of decoding: more than the sequences that a small batch takes."""
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM", "tied": True},
    "qwen": {"architecture": "Qwen3ForCausalLM", "head_norms": True, "qkv_bias": True,
             "windows": (0, 24)},
    "mixtral": {"architecture": "MixtralForCausalLM", "experts": 4, "experts_per_token": 2},
}  # fmt: skip
SHAPES |= dict.fromkeys(("sparse", "host", "host_words"), SHAPES["llama"])
SHAPES["tail"] = {"architecture": "LlamaForCausalLM", "layers": 1, "windows": (0,)}
"""One layer: interpreted, its selection takes seconds a step. Untied, it does not repeat itself."""
SHAPES["host_mixed"] = SHAPES["llama"] | {"layers": 3, "windows": (0, 0, 0)}
SHAPES["mixed"] = SHAPES["tail"] | {"layers": 3, "windows": (0, 24, 0)}
SHAPES["together"] = SHAPES["mixtral"]
SHAPES["everything"] = SHAPES["mixtral"] | {
    "experts": 2, "experts_per_token": 1, "layers": 1, "windows": (0,), "heads": 2, "kv_heads": 1,
    "ffn": 16,
}  # fmt: skip
POLICIES = {"sparse": "sparse(k=12, sinks=1, recent=3, min_context=0, labels=i8, channels=4)"}
POLICIES["host_words"] = POLICIES["sparse"].replace("k=12", "k=26")
POLICIES["host_mixed"] = POLICIES["host_words"].replace("k=26", "k=26, dense=[0]")
POLICIES["host"] = POLICIES["host_words"].replace("i8", "bf16")
POLICIES["mixed"] = POLICIES["sparse"].replace("k=12", "k=12, dense=[2]")
"""One layer selects, beside one with a window and one that reads everything."""
POLICIES["tail"] = POLICIES["sparse"].replace("k=12", "k=12, tail=mean")
POLICIES["together"] = POLICIES["sparse"].replace("k=12", "top_p=0.3, cap=1/2")
"""And with it experts, a shared prefix, a constraint, and keys in fp8."""
POLICIES["everything"] = POLICIES["together"]
HOSTS = ("host", "host_words", "host_mixed")
HOST_PAGES = 16
"""Pages of host memory; the cache has 64 rows, which hold the lists of two of three sequences."""
FORMATS = {"mixtral": "f8e4m3"}


def config(name: str) -> ModelConfig:
    shape: dict[str, Any] = dict(
        vocab_size=96, width=32, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=48,
        context_length=128, rope=Rope(1e4), windows=(0, 0),
    )  # fmt: skip
    return ModelConfig(**(shape | SHAPES[name]))


def attention(name: str, shape: ModelConfig) -> Attention | None:
    """The shape's policy with a calibration that is made up: any order of channels will do."""
    policy, rng = parse_policy(POLICIES.get(name, "dense")), random.Random(3)
    if policy is None:
        return None

    def head() -> HeadChannels:
        order = rng.sample(range(shape.head_dim), shape.head_dim)
        ones = (1.0,) * shape.head_dim
        return HeadChannels(tuple(order), tuple(rng.gauss(0, 0.2) for _ in order), ones, ones)

    layers = tuple(tuple(head() for _ in range(shape.kv_heads)) for _ in range(shape.layers))
    known = AttentionCalibration(shape.heads, shape.kv_heads, shape.head_dim, layers)
    return Attention(policy, known, always=True, hardware="h200",
                     offload=name in HOSTS)  # fmt: skip


def round_as_devices_do() -> None:
    """Mend Triton's interpreter: it loses the carry where rounding to fp8 reaches a power of two
    (0.4852 becomes 0.25), which no device does."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def mended(values: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if (source, target) != (tl.float32, tl.float8e4nv):
            return convert(values, source, target, mode)
        wide = torch.from_numpy(np.ascontiguousarray(values).view(np.float32))
        return wide.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(values.shape)

    interpreter._convert_float = mended


class Rounded(GraphRun):
    """A graph's meaning with keys and values that are kept in fp8."""

    def store(self, layer: int, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        """Write rows k, v rounded."""
        kept = (x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) for x in (k, v))
        super().store(layer, *kept, slots)


class EveryThird:
    """A constraint: of tokens whose number is a multiple of three."""

    idle = False

    def fill(self, masks: np.ndarray, row: int) -> None:
        """Write which tokens may come."""
        bits = np.zeros(masks.shape[1] * 32, np.uint8)
        bits[::3] = 1
        masks[row] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token: int) -> None:
        """Take a token."""
        assert token % 3 == 0

    def forced(self) -> list[int]:
        """Return that nothing must come."""
        return []

    def is_complete(self) -> bool:
        """Return that more may always come."""
        return False

    def fork(self) -> EveryThird:
        """Return itself: it has no state."""
        return self


def constrained() -> Watch:
    """Return what looks at a gen under a constraint, whose tokens spell nothing."""
    watch = Watch([b"x"] * 96, EveryThird())  # type: ignore[arg-type]
    watch.ids = None  # and so have no canonical form
    return watch


def rows_of_products() -> set[int]:
    """Return the numbers of rows that the library multiplies from now on."""
    rows, product = set(), library._matmul_f32

    def counted(x: torch.Tensor, *rest: Any) -> None:
        rows.add(len(x))
        product(x, *rest)

    library._matmul_f32 = counted
    return rows


def counted_copies(device: Any) -> list[int]:
    """Return the numbers of slots that steps copy from now on."""
    found, forward = [], device.forward

    def watched(step: Any, *rest: Any) -> torch.Tensor:
        found.extend(() if step.copies is None else (step.copies.shape[1],))
        return forward(step, *rest)

    device.forward = watched
    return found


def generate(
    executor: Any, sampler: Any = None, shared: int = 20, most: int = 9, watched: bool = False
) -> list[list[int]]:
    """Three prompts that begin alike, of several lengths, the last drawn at random."""
    engine = Engine(executor, sampler) if sampler else Engine(executor)
    pick = torch.Generator().manual_seed(1)
    start, requests = torch.randint(0, 96, (shared,), generator=pick).tolist(), []
    for row, (own, new) in enumerate(((1, 4), (5, 9), (13, 3))):
        sequence = engine.create((row,))
        sequence.append(start + torch.randint(0, 96, (own,), generator=pick).tolist())
        sampling = Sampling(max_tokens=min(new, most), temperature=float(row == 2), top_k=20, key=5)
        watch = constrained() if watched and row == 1 else None
        requests.append(Request(sequence, f"row {row}", sampling, watch))
        engine.submit(requests[-1])
    while engine:
        engine.step()
    engine.check()
    return [request.generated().tolist() for request in requests]


def scored(executor: Any, sampler: Any = None) -> tuple[list[float], int]:
    """Return the log-probabilities of a text's tokens, each after those before it, and the number
    of steps that computed them."""
    engine = Engine(executor, sampler) if sampler else Engine(executor)
    ids = torch.randint(0, 96, (14,), generator=torch.Generator().manual_seed(2)).tolist()
    sequence = engine.create((0,))
    sequence.append(ids)
    request = Request(sequence, "score", score_from=0, asked=[(token,) for token in ids[1:]])
    engine.submit(request)
    while engine:
        engine.step()
    return [value for one in request.scores for value in one.values()], engine.steps


def main() -> None:
    shape = config(sys.argv[1])
    all_rows = "wide" in sys.argv[3:]
    limits: dict[str, Any] = WIDE if all_rows else LIMITS
    graph, format = build_graph(shape), FORMATS.get(sys.argv[1], "f32")
    part, launch = graph, Launch.from_env()
    if launch.count > 1:
        format = "f32"  # a rank scales its part of a row by that part's largest number
        part, _ = run_passes((TensorParallel(launch.rank, launch.count),), graph, Context())
        ranks.join(None)
    sparse = attention(sys.argv[1], shape)
    together = sys.argv[1] == "together"
    kv = "f8e4m3" if together else "f32"
    if kv != "f32":
        round_as_devices_do()
    regimes = lower_for_gpu(shape, part, weights=format, activations="f32", kv=kv, **limits,
                            attention=sparse.passes if sparse else None,
                            max_logits=MOST_LOGITS)  # fmt: skip
    wanted = merge_kernels(regimes) + gpu_step_kernels(shape.vocab_size)
    kernels = load_kernels(wanted, Path(sys.argv[2]), interpreted=True)
    options = Options(target="cuda", weights="f32", kv_memory=1, tp=launch.count,
                      kv="fp8" if together else "f32", **limits)  # fmt: skip
    graph = ChooseWeightFormat(format).run(graph, Context())
    checkpoint: Any = SimpleNamespace(config=shape, folder=None, name="random", graph=graph)
    memory = 0
    if sparse and sparse.offload:
        options = options.changed(kv_host_memory=HOST_PAGES * 64 * 2 * 2 * 2 * 16 * 4)
        costs = key_costs(checkpoint, options, sparse, 64)
        memory = costs.fixed + HOST_PAGES * costs.device_page + 64 * costs.row
    device: Any = executor_on(checkpoint, regimes, kernels, options, 16, "cpu", attention=sparse,
                              memory=memory)  # fmt: skip
    device.warm()
    device.record_first()
    prompts = len(device._prompts) > 0
    assert prompts == (not sparse and sys.argv[1] != "qwen")  # whose windows have no tiles
    device._recorded.cost = 1e-3  # so few steps would borrow the first one's recording
    device._prompts = Recordings(cost=0.0)  # each step of prompts is recorded, as if none were
    first = device.recordings
    if device.host:
        assert device.host.room == KeyRoom(HOST_PAGES, 64)
        device._sparse.window = math.inf  # so few weights leave no time for anything
        device._staged = {recipe: staged and AnyOrder(staged, random.Random(4), "up")
                          for recipe, staged in device._staged.items()}  # fmt: skip
    if launch.rank:
        ranks.follow(device)
        return
    dense = {n: weight.dense() for n, weight in load_weights(graph, RandomTensors()).items()}
    run = (GraphRun if kv == "f32" else Rounded)(graph, dense, slots=64 * 16)
    if sparse:
        run.attend = DecodeAttention(sparse.policy, sparse.calibration, page=device.page_size,
                                     words=True)  # fmt: skip
    meaning = ReferenceExecutor(shape, run, num_pages=64, **limits)
    meaning.announcer = None  # the whole model, which no other rank follows
    begins = {"sparse": 70, "together": 70, "tail": 62, **dict.fromkeys(HOSTS, 30)}
    shared = begins.get(sys.argv[1], 20)
    most = {"host": 5, "tail": 3}.get(sys.argv[1], 9)  # a tail's decode fills a page of 64
    made = sparse_lists.group_arrays
    groups: list[int] = []  # how many rows score the labels of a whole page together
    sparse_lists.group_arrays = lambda found, pages: (
        groups.extend(len(group.rows) for group in found) or made(found, pages)
    )
    multiplied = rows_of_products()
    if all_rows:
        if sys.argv[1] == "qwen":
            device.copies_slots = False  # such steps are launched, as windows have no tiles
        if not sparse:
            device._sent = None  # which nothing is
    copied = counted_copies(device)
    found = generate(device, device_sampler(device, kernels), shared, most, together)
    # two prompts of three share with the first, computed in one step, a part of a page
    assert copied == ([2 * shared] if device.copies_slots else []), copied
    recorded = device.copies_slots if all_rows else not device.host
    some = recorded and sys.argv[1] not in ("qwen", "tail", "mixed")
    assert (len(device._prompts) > 0) == some
    assert multiplied <= {*device._counts, *device._logit_counts, *device._sizes}, multiplied
    assert sys.argv[1] not in ("sparse", "together") or 3 in groups
    expected = generate(meaning, shared=shared, most=most, watched=together)
    if launch.count == 1 and not sparse:
        (these, steps), (those, more) = (
            scored(device, device_sampler(device, kernels)),
            scored(meaning),
        )
        assert (steps, more) == ((1, 1) if all_rows else (1, 4)), (steps, more)
        assert len(these) == 13 and np.allclose(these, those, atol=2e-3), (these, those)
        # that step was of a prompt: where the last decode step's arrays lay are its own
        assert all_rows or device.time_last(1) == 0.0
    if launch.count > 1:
        assert device.time_last(3) > 0.0  # with the other ranks, or they would wait for ever
        assert generate(device, device_sampler(device, kernels), shared, most) == found
    print(json.dumps([found, expected, device.recordings - first]))
    if device.host:
        traffic = device.host.traffic()
        assert traffic.guessed and traffic.predicted and traffic.late, traffic
        assert traffic.held > traffic.predicted, traffic


if __name__ == "__main__":
    main()
