"""What each task of an offloading pipeline asks of the machine, and how long it takes alone.

Corrections of the published model (MoE-Lightning, ASPLOS 2025, equations 12 to 14) are counted
here: P V beside Q K, projections, hidden states both ways, launches, the memory traffic of copies
and of staging, experts that few tokens touch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from .machine import HostedGpu
from .shape import MoeShape

ROW_WIDTH = 4096
"""Channels of the rows whose start `weft calibrate` measures: all heads of Mixtral."""


@dataclass(frozen=True)
class Demand:
    """Work of a task or of many: FLOPs, bytes, and how often something is started.

    `dram` is all traffic of host memory, whoever causes it; `cpu_bytes` the part that a host
    processor reads itself. `cpu_rows` are rows of attention there, of `ROW_WIDTH` channels.
    """

    gpu_flops: float = 0.0
    gpu_bytes: float = 0.0
    launches: float = 0.0
    cpu_flops: float = 0.0
    cpu_vector: float = 0.0
    cpu_bytes: float = 0.0
    cpu_starts: float = 0.0
    cpu_rows: float = 0.0
    up: float = 0.0
    down: float = 0.0
    copies: float = 0.0
    staged: float = 0.0
    disk: float = 0.0
    dram: float = 0.0

    def __add__(self, other: Demand) -> Demand:
        return Demand(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    def __mul__(self, times: float) -> Demand:
        return Demand(*(getattr(self, name) * times for name in _NAMES))

    def seconds(self, machine: HostedGpu) -> float:
        """Return how long one task of this demand takes when it has the machine alone (eq. 14).

        Not so for products of few rows on a CPU: a core reads a block of weights and packs it for
        its matrix unit before that multiplies, so that both times add up. On 14 cores an expert of
        Mixtral took 7.1, 9.2, 12.3 and 20.4 ms for 20, 40, 80 and 160 rows; the sum says 6.6, 8.8,
        13 and 21.6, the larger of both 4.5, 4.5, 8.5 and 17.
        """
        gpu = max(self.gpu_flops / machine.gpu_flops, self.gpu_bytes / machine.gpu_bandwidth)
        attended = self.cpu_vector / machine.cpu_vector + self.cpu_rows * machine.row_start
        cpu = max(attended, self.cpu_bytes / machine.dram)
        cpu += self.cpu_flops / machine.cpu_flops
        moved = self.up / machine.up + self.down / machine.down + self.staged / machine.staging
        moved += self.disk / machine.disk if self.disk else 0.0
        starts = self.launches * machine.gpu_launch + self.cpu_starts * machine.cpu_start
        return gpu + cpu + moved + starts + self.copies * machine.copy_start


_NAMES = tuple(field.name for field in fields(Demand))


@dataclass(frozen=True)
class Scene:
    """What the demand of a task depends on: its tokens, their keys, and where attention is.

    `beside` rows of prompts of `prompt` tokens are read for each token that is decoded, and see
    `prompt_context` keys of their prompt each.
    `shares` gives, for each expert, its share of the routed pairs (uniform when empty).
    """

    shape: MoeShape
    pages_per_expert: int
    tokens: float
    context: float
    attention: str = "cpu"
    kv_gpu: float = 0.0
    shares: tuple[float, ...] = ()
    beside: float = 0.0
    prompt: float = 1.0
    prompt_context: float = 0.5

    @property
    def rows(self) -> float:
        """Rows of the step: tokens that are decoded, and those of prompts beside them."""
        return self.tokens * (1.0 + self.beside)

    @property
    def page_bytes(self) -> float:
        """Bytes of a page."""
        return self.shape.page_bytes(self.pages_per_expert)

    def share(self, page: int) -> float:
        """Return the share of a layer's routed pairs times expert width that a page computes."""
        expert = page // self.pages_per_expert
        share = self.shares[expert] if self.shares else 1.0 / self.shape.experts
        return share / self.pages_per_expert

    def touched(self, page: int) -> float:
        """Return how likely a page is used by at least one of the tokens."""
        share = self.share(page) * self.pages_per_expert
        chosen = min(1.0, share * self.shape.top_k)
        return 1.0 - (1.0 - chosen) ** self.rows


LAUNCHES = {"embed": 1, "pre": 2, "attend": 1, "append": 1, "route": 3, "experts": 3, "combine": 1,
            "head": 2}  # fmt: skip
"""Kernels that a task launches on the GPU."""


def demand(kind: str, scene: Scene, pages: tuple[int, ...] = ()) -> Demand:
    """Return what a task of a kind (`ir.offload.pipeline.Kind`) asks; KeyError for no kind."""
    return _RULES[kind](scene, pages)


def _embed(scene: Scene, _: tuple[int, ...]) -> Demand:
    moved = 2.0 * scene.rows * scene.shape.width * scene.shape.element
    return Demand(gpu_bytes=moved, launches=LAUNCHES["embed"])


def _pre(scene: Scene, _: tuple[int, ...]) -> Demand:
    """Norm and projections: 2 T D (H + 2 K) C FLOPs; their weights, x and q k v once."""
    shape = scene.shape
    weights = float(shape.element * shape.width * shape.qkv_width)
    rows = scene.rows * shape.element * (2 * shape.width + shape.qkv_width)
    flops = 2.0 * scene.rows * shape.width * shape.qkv_width
    return Demand(gpu_flops=flops, gpu_bytes=weights + rows, launches=LAUNCHES["pre"])


def _qkv_bytes(scene: Scene) -> float:
    return float(scene.rows * scene.shape.qkv_width * scene.shape.element)


def _on_host(scene: Scene) -> float:
    """Return how many times the GPU's bytes activations have beside the CPU."""
    return scene.shape.host_element / scene.shape.element


def _qkv_down(scene: Scene, _: tuple[int, ...]) -> Demand:
    """Widened on the GPU, so that the link carries what the CPU reads."""
    moved = _qkv_bytes(scene) * _on_host(scene)
    return Demand(down=moved, copies=1, dram=moved)


def _append(scene: Scene, _: tuple[int, ...]) -> Demand:
    """q, k and v read; q written, and k and v in their format; 3 FLOPs an element rotated."""
    shape, flops = scene.shape, 3.0 * scene.rows * scene.shape.qkv_width
    if scene.attention == "gpu":
        return Demand(gpu_bytes=2.0 * _qkv_bytes(scene), launches=LAUNCHES["append"])
    read_and_q = scene.rows * (shape.qkv_width + shape.heads * shape.head_dim)
    moved = read_and_q * shape.host_element + scene.rows * shape.kv_token_bytes
    return Demand(cpu_bytes=moved, dram=moved, cpu_vector=flops, cpu_starts=1)


def _kv_bytes(scene: Scene) -> float:
    """Keys and values that are there before the step: of what is decoded."""
    return scene.tokens * scene.context * scene.shape.kv_token_bytes


def _new_kv_bytes(scene: Scene) -> float:
    """Keys and values of prompts beside, which their own rows read once."""
    return scene.tokens * scene.beside * scene.shape.kv_token_bytes


def _attend(scene: Scene, _: tuple[int, ...]) -> Demand:
    """(4 C + 5) H FLOPs a key: Q K, softmax and P V; keys and values once."""
    shape = scene.shape
    pairs = scene.tokens * (scene.context + scene.beside * scene.prompt_context) * shape.heads
    rows = 2.0 * scene.rows * shape.heads * shape.head_dim * shape.element
    keys = _kv_bytes(scene) + _new_kv_bytes(scene)
    flops, moved = (4.0 * shape.head_dim + 5.0) * pairs, keys + rows
    if scene.attention == "gpu":
        return Demand(gpu_flops=flops, gpu_bytes=moved, launches=LAUNCHES["attend"])
    moved = keys + rows * _on_host(scene)
    started = scene.rows * shape.heads * shape.head_dim / ROW_WIDTH
    return Demand(cpu_vector=flops, cpu_bytes=moved, dram=moved, cpu_starts=1, cpu_rows=started)


def _seen_up(scene: Scene, _: tuple[int, ...]) -> Demand:
    shape = scene.shape
    moved = float(scene.rows * shape.heads * shape.head_dim * shape.host_element)
    return Demand(up=moved, copies=1, dram=moved)


def _kv_up(scene: Scene, _: tuple[int, ...]) -> Demand:
    """What lies on the GPU is copied within its memory: read and written."""
    moved = _kv_bytes(scene) * (1.0 - scene.kv_gpu)
    within = 2.0 * _kv_bytes(scene) * scene.kv_gpu
    return Demand(up=moved, copies=1, dram=moved, gpu_bytes=within)


def _kv_down(scene: Scene, _: tuple[int, ...]) -> Demand:
    moved = scene.rows * scene.shape.kv_token_bytes * (1.0 - scene.kv_gpu)
    return Demand(down=moved, copies=1, dram=moved)


def _route(scene: Scene, _: tuple[int, ...]) -> Demand:
    """Output projection, residual, norm and router."""
    shape = scene.shape
    own = shape.heads * shape.head_dim
    weights = float(shape.element * shape.width * (own + shape.experts))
    rows = scene.rows * shape.element * (own + 4 * shape.width)
    flops = 2.0 * scene.rows * shape.width * (own + shape.experts)
    return Demand(gpu_flops=flops, gpu_bytes=weights + rows, launches=LAUNCHES["route"])


def _expert_flops(scene: Scene, pages: tuple[int, ...]) -> float:
    """6 D F FLOPs a pair of token and expert, over the pages' share of pairs."""
    pairs = scene.rows * scene.shape.top_k * sum(map(scene.share, pages))
    return 6.0 * scene.shape.width * scene.shape.ffn * pairs


def _row_bytes(scene: Scene, pages: tuple[int, ...]) -> float:
    """Activations of the pages' pairs: x in, gate and up out, hidden in, row out."""
    pairs = scene.rows * scene.shape.top_k * sum(map(scene.share, pages))
    wide = 2.0 * scene.shape.width * scene.pages_per_expert + 3.0 * scene.shape.ffn
    return pairs * wide * scene.shape.element


def _experts(scene: Scene, pages: tuple[int, ...]) -> Demand:
    if not pages:
        return Demand(launches=LAUNCHES["experts"])
    held = scene.shape.gpu_page_bytes(scene.pages_per_expert)
    weights = held * sum(map(scene.touched, pages))
    return Demand(
        gpu_flops=_expert_flops(scene, pages),
        gpu_bytes=weights + _row_bytes(scene, pages),
        launches=LAUNCHES["experts"],
    )


def _cpu_experts(scene: Scene, pages: tuple[int, ...]) -> Demand:
    """Each micro-batch reads its pages' weights from host memory again."""
    rows = _row_bytes(scene, pages) * _on_host(scene)
    moved, flops = (
        scene.page_bytes * sum(map(scene.touched, pages)) + rows,
        _expert_flops(scene, pages),
    )
    return Demand(cpu_flops=flops, cpu_bytes=moved, dram=moved, cpu_starts=1)


def _hidden_bytes(scene: Scene) -> float:
    return float(scene.rows * scene.shape.width * scene.shape.element)


def _routed_down(scene: Scene, _: tuple[int, ...]) -> Demand:
    moved = _hidden_bytes(scene) * _on_host(scene) + 8.0 * scene.rows * scene.shape.top_k
    return Demand(down=moved, copies=1, dram=moved)


def _rows_up(scene: Scene, _: tuple[int, ...]) -> Demand:
    moved = _hidden_bytes(scene)
    return Demand(up=moved, copies=1, dram=moved)


def _combine(scene: Scene, _: tuple[int, ...]) -> Demand:
    rows = scene.rows * scene.shape.width * scene.shape.element * (scene.shape.top_k + 2)
    return Demand(gpu_bytes=float(rows), launches=LAUNCHES["combine"])


def _head(scene: Scene, _: tuple[int, ...]) -> Demand:
    """Norm and logits of every token, and of the last of each prompt; logits in f32."""
    shape = scene.shape
    rows = scene.tokens * (1.0 + scene.beside / scene.prompt)
    flops = 2.0 * rows * shape.width * shape.vocabulary
    moved = shape.head_bytes + 4.0 * rows * shape.vocabulary
    return Demand(gpu_flops=flops, gpu_bytes=moved, launches=LAUNCHES["head"])


def _page(scene: Scene, pages: tuple[int, ...]) -> Demand:
    """What is wider where it arrives is read and written there."""
    moved = scene.page_bytes * len(pages)
    wide = scene.shape.gpu_page_bytes(scene.pages_per_expert) * len(pages)
    widened = moved + wide if wide != moved else 0.0
    return Demand(up=moved, copies=1, dram=moved, gpu_bytes=widened)


def _stage(scene: Scene, pages: tuple[int, ...]) -> Demand:
    """A copy within host memory: read and written, so two accesses beside the one of DMA."""
    moved = scene.page_bytes * len(pages)
    return Demand(staged=moved, dram=2.0 * moved)


def _read(scene: Scene, pages: tuple[int, ...]) -> Demand:
    moved = scene.page_bytes * len(pages)
    return Demand(disk=moved, dram=moved)


_RULES: dict[str, Callable[[Scene, tuple[int, ...]], Demand]] = {
    "embed": _embed, "pre": _pre, "qkv_down": _qkv_down, "append": _append, "attend": _attend,
    "seen_up": _seen_up, "kv_up": _kv_up, "kv_down": _kv_down, "route": _route,
    "experts": _experts, "cpu_experts": _cpu_experts, "routed_down": _routed_down,
    "rows_up": _rows_up, "combine": _combine, "head": _head, "page": _page, "stage": _stage,
    "read": _read,
}  # fmt: skip
