"""The regimes that a model is compiled for: decode steps by their rows, and every other step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...ir.core import Module, Operation
from ...ir.model import ModelConfig
from ...ir.schedule import Schedule
from ...ir.types import dtype_of, shape_of
from ..graph.activation_format import ChooseActivationFormat
from ..graph.allowed_head import WORDS, AllowedHead
from ..graph.few_experts import FuseExpertSilu, FuseFewExperts
from ..graph.fusion import DropConcatOfSplit, FuseAddNorm, FuseRopeWrite, FuseSiblingMatmuls
from ..graph.kv_offload import OffloadKeys
from ..graph.matmul_parts import FuseCombineResidual, FuseMatmulParts
from ..graph.memory_planning import PlanMemory
from ..graph.pack_weights import PackWeights
from ..graph.quantize_activations import QuantizeActivations
from ..graph.sparse_attention import OrderChannels, SparseAttention
from ..graph.stream_products import StreamProducts
from ..graph.take_rows import TakeRowsEarly, TakeRowsLate
from ..graph.weight_format import ChooseWeightFormat
from ..manager import Context, Pass, PassRecord, run_passes
from .gpu_schedules import gpu_schedule
from .lowering.lower import LowerToTiles
from .products.matmul import schedule, worth_threads
from .products.scaled_matmul import ROUNDED_ROWS
from .products.skinny_matmul import MULTIPROCESSORS, PACKED, ROWS, copy_saves, cuts_of

DECODE_ROWS = (1, 4, 16)
"""Row counts that decode kernels are built for; a step takes the smallest that holds it."""

SHORT_ROWS = 64
"""Tokens of a short step of chunks that run at once as a decode step on a CPU, by the kernels that
take most rows: a group of rows at a time, each block of weights for all groups while a cache has
it."""

GPU_PAGE = 64
"""Keys of a page on a GPU: what attention reads at a time, so that a block has one page."""

GPU_ALIGNMENT = 256
"""Bytes at whose multiples activations begin on a GPU: what its library's fast products need."""


@dataclass(frozen=True)
class Regime:
    """One lowered version of the model: the most rows of its decode steps, 0 for any step; the
    bounds of its activations' symbols; and whether a GPU may begin launches (`chained`) before the
    one in front has ended, as it may on a single queue. `narrow` is the same for steps whose logits
    are of some words. `most`: tokens of a short step that there is memory for to run at once so (0:
    as many as `rows`)."""

    rows: int
    module: Module
    records: tuple[PassRecord, ...]
    target: str = "cpu"
    apart: bool = False
    extents: tuple[tuple[str, int], ...] = ()
    chained: bool = True
    narrow: Regime | None = None
    most: int = 0

    @property
    def sparse(self) -> bool:
        """Whether its decode steps select the keys that they read."""
        return self.function.attribute("attention") is not None

    @property
    def attention_from(self) -> int:
        """The context from which sparse attention pays; 0 of a regime without it."""
        found = self.function.attribute("attention")
        return found["least"] if found is not None else 0

    @property
    def function(self) -> Operation:
        """The lowered graph.func."""
        return self.module.symbol("step")

    @property
    def kernels(self) -> list[tuple[Operation, Schedule]]:
        """The tile kernels that it calls, each with its schedule."""
        found = [op for op in self.module.operations if op.name == "tile.kernel"]
        if self.target == "cuda":
            return [(kernel, gpu_schedule(kernel, self.apart, self.chained)) for kernel in found]
        return [(kernel, schedule_for(kernel, self.rows)) for kernel in found]


def graph_passes(weights: str = "f32", activations: str = "f32") -> tuple[Pass, ...]:
    """Return the passes that every regime shares; `weights` is f32, bf16, i8 or f8e4m3."""
    fusions = (FuseSiblingMatmuls(), DropConcatOfSplit(), FuseRopeWrite())
    return (ChooseWeightFormat(weights), *fusions, ChooseActivationFormat(activations))


def regime_passes(
    config: ModelConfig, rows: int, max_tokens: int, max_batch: int, kv: str = "f32",
    offload: tuple[Pass, ...] | None = None, most: int = 0,
) -> tuple[Pass, ...]:  # fmt: skip
    """Return the passes from the shared graph to one regime's kernels and memory plan, of `most`
    rows where these are more; `offload` are those of keys across a link, if they lie there."""
    few = (FuseMatmulParts(), FuseCombineResidual())
    extents = regime_extents(config, most or rows, max_tokens, max_batch)
    return (
        *(few if rows else (TakeRowsEarly(), FuseAddNorm())),
        *(offload or ()),
        LowerToTiles(rows, config.context_length, kv=kv, offload=offload is not None),
        PlanMemory(extents),
    )


def regime_extents(
    config: ModelConfig, rows: int, max_tokens: int, max_batch: int, max_logits: int = 0
) -> tuple[tuple[str, int], ...]:
    """Return the most that the symbols in types of activations stand for; any step has up to
    `max_logits` rows of logits, and never fewer than max_batch."""
    tokens = rows or max_tokens
    extents = {"T": tokens, "R": rows or max(max_logits, max_batch),
               "M": tokens * config.experts_per_token,
               "B": rows or max_batch, "L": -(-config.context_length // 16) * 16,
               WORDS: config.vocab_size}  # fmt: skip
    return tuple(extents.items())


def lower_model(
    config: ModelConfig, graph: Module, *, max_tokens: int, max_batch: int, weights: str = "f32",
    kv: str = "f32", decode_rows: Sequence[int] = DECODE_ROWS, attention: Sparse | None = None,
    narrow: bool = False,
) -> list[Regime]:  # fmt: skip
    """Return the regimes of a model's graph, decode first, the one for any step last.

    With sparse `attention` decode has its regimes twice, sparse and dense, where sparse pays. With
    `narrow` dense ones have one for steps whose logits are of some words, where there may be.
    """
    context = Context(model_name=config.architecture)
    shared, shared_records = run_passes(graph_passes(weights), graph, context)
    sparse = None
    if attention is not None:
        shared, sparse, more = attention.rewritten(shared, context, kv, config.context_length)
        shared_records += more
    some = None
    if narrow:
        some, more = run_passes((AllowedHead(),), shared, context)
        some = some if some.symbol("step").attribute("head") else None
        shared_records += more

    def lowered(module: Module, rows: int) -> Regime:
        offload = attention.offloaded(module is sparse, rows) if attention is not None else None
        wide = module is not sparse and rows == max(decode_rows, default=0) > 0
        most = max(rows, SHORT_ROWS) if wide else rows
        passes = regime_passes(config, rows, max_tokens, max_batch, kv, offload, most)
        found, records = run_passes(passes, module, context, _FUSED | {"labels"})
        extents = regime_extents(config, most, max_tokens, max_batch)
        twin = lowered(some, rows) if module is shared and some is not None else None
        records = (*shared_records, *records)
        return Regime(rows, found, records, extents=extents, narrow=twin, most=most)

    selecting = [] if sparse is None else [lowered(sparse, rows) for rows in decode_rows]
    return selecting + [lowered(shared, rows) for rows in (*decode_rows, 0)]


_FUSED = frozenset({"weight-formats", "joined-matmuls", "fused-rope-write"})


@dataclass(frozen=True)
class Sparse:
    """Sparse decode attention as it is asked for: a policy's text, `hardware` for its price,
    whether it is taken at any price, and whether keys lie across a link (`offload`), where `ahead`
    they are fetched for predicted queries. The price is of `batch` sequences in a step, and of an
    adaptive policy that reads this `share` of a context (0: as texts do), on the hardware's first
    level of a `kind` ("": its first)."""

    policy: str
    hardware: str = "cpu-generic"
    always: bool = False
    offload: bool = False
    ahead: bool = True
    batch: int = 1
    share: float = 0.0
    kind: str = ""

    def offloaded(self, sparse: bool, rows: int) -> tuple[Pass, ...] | None:
        """Return the passes of keys across a link over a sparse graph or another; None: none do.
        Steps with prompts in them (`rows` = 0) fetch nothing ahead: they would predict for all."""
        if not self.offload:
            return None
        return (OffloadKeys(self.ahead and rows > 0),) if sparse else ()

    def rewritten(
        self, shared: Module, context: Context, kv: str, context_length: int
    ) -> tuple[Module, Module | None, list[PassRecord]]:
        """Return the graph of all steps, that of sparse decode (None where it does not pay, and
        then the first is as it was), and what passes say."""
        label = (OrderChannels(self.policy),)
        labelled, before = run_passes(label, shared, context, _FUSED)
        select = (SparseAttention(self.policy, self.hardware, kv, context_length, self.batch,
                                  self.always, self.share, self.kind),)  # fmt: skip
        sparse, after = run_passes(select, labelled, context, _FUSED | {"labels"})
        if sparse.symbol("step").attribute("attention") is None:
            return shared, None, after
        return labelled, sparse, [*before, *after]


def lower_for_gpu(
    config: ModelConfig, graph: Module, *, max_tokens: int, max_batch: int, weights: str = "bf16",
    activations: str = "bf16", kv: str = "bf16", attention: Sparse | None = None,
    quantize: bool = False, processors: int = MULTIPROCESSORS, copies: float = 0.0,
    max_logits: int = 0,
) -> list[Regime]:  # fmt: skip
    """Return the regimes of a model on a GPU: decode of one sequence, decode of sequences that
    share no keys worth reading once for many (of few by itself, where products of few rows have
    kernels), and any step; where products of some rows are streamed, decode of up to so many rows
    in both forms too.

    `weights` are kept in f32, bf16, i8 or f8e4m3, `activations` in bf16 or f32; norms and logits
    are f32. With `quantize`, products of several rows with f8e4m3 weights round those rows too.
    `processors`: multiprocessors of a GPU of compute capability 9.0; 0 of another one. `copies`:
    bytes that decode steps may have for copies of weights, where that was measured faster. Any step
    has up to `max_logits` rows of logits, and never fewer than max_batch.
    """
    context = Context(model_name=config.architecture)
    shared, before = run_passes(graph_passes(weights, activations), graph, context)
    sparse = None
    if attention is not None:
        shared, sparse, more = attention.rewritten(shared, context, kv, config.context_length)
        before += more
    regimes, rounded = [], quantize and weights == "f8e4m3"
    few = (min(ROUNDED_ROWS, max_batch),) if rounded else ()
    for module in (shared,) if sparse is None else (sparse, shared):
        some = _streams(module, processors) if attention is None else 0
        kinds = [(1, True), *((rows, True) for rows in few), *([(some, True)] if some else []),
                 (max_batch, True), *([(some, False)] if some else []), (0, False)]  # fmt: skip
        for rows, apart in dict.fromkeys((min(rows, max_batch), apart) for rows, apart in kinds):
            offload = attention.offloaded(module is sparse, rows) if attention else None
            passes = gpu_regime_passes(
                config, rows, max_tokens, max_batch, kv, offload, rounded and rows != 1, apart,
                processors, copies, max_logits,
            )  # fmt: skip
            lowered, records = run_passes(passes, module, context, _FUSED | {"labels"})
            extents = regime_extents(config, rows, max_tokens, max_batch, max_logits)
            regimes.append(Regime(rows, lowered, (*before, *records), "cuda", apart, extents,
                                  offload is None))  # fmt: skip
    return regimes


def _streams(module: Module, processors: int) -> int:
    """Return up to how many rows some product of a graph is streamed; 0: none is."""
    weights = (op.operands[1].type for op in module.walk() if op.name == "graph.matmul")
    shapes = [shape_of(type) for type in weights if dtype_of(type) == "bf16"]
    some = any(
        cuts_of(n, k, False, processors) or cuts_of(n // 2, k, True, processors)  # type: ignore[arg-type, operator]
        for n, k in shapes
    )
    return ROWS if some and processors else 0


def gpu_regime_passes(
    config: ModelConfig, rows: int, max_tokens: int, max_batch: int, kv: str,
    offload: tuple[Pass, ...] | None = None, quantize: bool = False, apart: bool = True,
    processors: int = MULTIPROCESSORS, copies: float = 0.0, max_logits: int = 0,
) -> tuple[Pass, ...]:  # fmt: skip
    """Return the passes from the shared graph to a GPU's kernels and memory plan; `offload` as in
    `regime_passes`, `quantize`, `processors`, `copies`, `max_logits` as in `lower_for_gpu`. Norms
    and rotation stay kernels of their own: each of a product's many programs would wait for what
    they read."""
    cuts = partial(cuts_of, processors=processors)
    packed = PackWeights(partial(copy_saves, processors=processors), PACKED, copies)
    streams = (StreamProducts(cuts), packed) if 1 < rows <= ROWS else ()
    return (
        *(
            (FuseMatmulParts(norms=False), FuseCombineResidual(), FuseFewExperts(), FuseAddNorm())
            if rows == 1
            else (TakeRowsLate(), FuseAddNorm(), *streams)
            if rows
            else (TakeRowsEarly(), FuseAddNorm(), FuseExpertSilu())
        ),
        *((QuantizeActivations(),) if quantize else ()),
        *(offload or ()),
        LowerToTiles(
            rows,
            config.context_length,
            GPU_PAGE,
            kv,
            "cuda",
            apart=apart and rows > 0,
            offload=offload is not None,
        ),
        PlanMemory(regime_extents(config, rows, max_tokens, max_batch, max_logits), GPU_ALIGNMENT),
    )


def with_narrow(regimes: Sequence[Regime]) -> list[Regime]:
    """Return the regimes, and behind them those of steps whose logits are of some words."""
    return [*regimes, *(regime.narrow for regime in regimes if regime.narrow is not None)]


def merge_kernels(regimes: Sequence[Regime]) -> list[tuple[Operation, Schedule]]:
    """Return every kernel once; regimes may share kernels, under one name and schedule."""
    merged: dict[str, tuple[Operation, Schedule]] = {}
    for regime in regimes:
        for kernel, chosen in regime.kernels:
            known = merged.setdefault(kernel["name"].name, (kernel, chosen))
            assert known == (kernel, chosen), f"two kernels are named {kernel['name'].name}"
    return list(merged.values())


def schedule_for(kernel: Operation, rows: int) -> Schedule:
    """Return a CPU schedule: work that one core does sooner than it wakes another stays there."""
    buffers = {value.name: value.type for value in kernel.regions[0].arguments}
    of = kernel.attribute("of")
    if rows == 0 or of in {"graph.partial", "graph.select"}:
        return Schedule()
    if of not in {"graph.matmul", "graph.moe_expert"}:
        return Schedule(parallel=False)
    *_, wide, depth = shape_of(buffers["w"])
    assert isinstance(wide, int) and isinstance(depth, int)
    if of == "graph.moe_expert":  # regimes share it, so rows say nothing
        return Schedule(parallel=worth_threads(wide, depth, 1, dtype_of(buffers["w"])))
    return schedule(wide, depth, rows, dtype_of(buffers["w"]))
