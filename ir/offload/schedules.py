"""The schedules of offloaded mixture-of-experts models, as data.

`cgo` is CGOPipe (MoE-Lightning, ASPLOS 2025, algorithm 1, with `j` for the misprinted `i`); `s2`,
`s3` and `s4` are its rivals there (figure 6: FastDecode's order, FlexGen with CPU attention,
FlexGen with GPU attention); `ring` is ours: pages pass one by one through a ring of any size,
hidden states have a queue of their own, and CPU experts have a micro-batch's time to answer. Where
the ring is too short for two layers, each expert starts when its page is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .pipeline import BrokenPipeline, Pipeline
from .tasks import Tasks


@dataclass(frozen=True)
class PipelineShape:
    """What a schedule is built for.

    `ringed` are the page numbers of each layer that pass through the ring, `disk` those of them
    that come from disk; `resident` those that lie in GPU memory, `cpu` those that the CPU computes.
    The ring has `ring` slots; the first page of the step goes to slot `start`. When `warm`, the
    pages of the first layer are there before the step, as each step leaves them for the next.
    Pre-attention and attention run `lead` micro-batches ahead. `staged`: pages pass through
    pinned memory (what the published code does); `relay` host slots hold pages on their way from
    disk or through pinned memory. `synchronous`: everything waits after each micro-batch (S4).
    """

    micro_batches: int
    ringed: tuple[tuple[int, ...], ...]
    ring: int
    resident: tuple[tuple[int, ...], ...] = ()
    cpu: tuple[tuple[int, ...], ...] = ()
    disk: tuple[tuple[int, ...], ...] = ()
    lead: int = 2
    warm: bool = True
    start: int = 0
    relay: int = 2
    staged: bool = False
    synchronous: bool = False

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.ringed)

    @property
    def widest(self) -> int:
        """The most pages that a layer passes through the ring."""
        return max(map(len, self.ringed))

    def pages_of(self, table: str, layer: int) -> tuple[int, ...]:
        """Return the pages that `resident`, `cpu` or `disk` list for a layer, modulo the step."""
        listed: tuple[tuple[int, ...], ...] = getattr(self, table)
        return listed[layer % self.layers] if listed else ()

    def after(self) -> PipelineShape:
        """Return the shape of the step after this one: its pages begin where these end."""
        copied = sum(map(len, self.ringed))
        return replace(self, warm=True, start=(self.start + copied) % max(self.ring, 1))


def cgo(shape: PipelineShape) -> Pipeline:
    """CGOPipe: hidden states and pages in one queue, a share of the pages behind each hidden."""
    _needs(shape, "cgo", 2)
    return _ahead("cgo", shape, hidden="up", pages="up", share=True)


def s2(shape: PipelineShape) -> Pipeline:
    """Attention overlapped as in CGOPipe, but a layer's weights as one transfer."""
    _needs(shape, "s2", 2)
    return _ahead("s2", shape, hidden="up", pages="up", share=False)


def ring(shape: PipelineShape) -> Pipeline:
    """Ours; see the module's text."""
    _needs(shape, "ring", 1)
    short = shape.ring < 2 * shape.widest
    return _ahead("ring", shape, hidden="up", pages="pages", share=True, by_page=short, late=True)


def s3(shape: PipelineShape) -> Pipeline:
    """Micro-batch after micro-batch: attention on the CPU, then its experts; weights in front."""
    _needs(shape, "s3", 2)
    tasks = Tasks("s3", shape, pages="up", hidden="up")
    for j in range(shape.micro_batches):
        tasks.embed(j)
    tasks.first_pages()
    for i, j in tasks.grid():
        if j == 0:
            tasks.whole_layer(i + 1)
        tasks.attention(i, j)
        tasks.seen_up(i, j)
        tasks.experts(i, j)
        tasks.combine(i, j)
    return tasks.finish()


def s4(shape: PipelineShape) -> Pipeline:
    """Attention on the GPU: keys and values of the next micro-batch arrive while one computes."""
    _needs(shape, "s4", 2)
    tasks = Tasks("s4", shape, pages="up", hidden="up")
    for j in range(shape.micro_batches):
        tasks.embed(j)
    tasks.first_pages()
    tasks.kv_up(0, 0)
    for i, j in tasks.grid():
        if j == 0:
            tasks.whole_layer(i + 1)
        following = tasks.later(i, j, 1)
        if following is not None:
            tasks.kv_up(*following)
        tasks.gpu_attention(i, j)
        tasks.experts(i, j)
        tasks.combine(i, j)
        if shape.synchronous:
            tasks.sync()
    return tasks.finish()


SCHEDULES: dict[str, Callable[[PipelineShape], Pipeline]] = {
    "cgo": cgo, "s2": s2, "s3": s3, "s4": s4, "ring": ring,
}  # fmt: skip


def build_pipeline(name: str, shape: PipelineShape) -> Pipeline:
    """Return the pipeline of a named schedule; raises BrokenPipeline."""
    if name not in SCHEDULES:
        problem = f"there is no such schedule: {', '.join(SCHEDULES)}"
        raise BrokenPipeline(pipeline=name, problem=problem)
    return SCHEDULES[name](shape)


def _ahead(
    name: str, shape: PipelineShape, *, hidden: str, pages: str, share: bool,
    by_page: bool = False, late: bool = False,
) -> Pipeline:  # fmt: skip
    """Build a schedule whose attention runs `lead` micro-batches ahead of the experts.

    `late`: sums that wait for the CPU's experts are taken a micro-batch later.
    """
    tasks = Tasks(name, shape, pages=pages, hidden=hidden, by_page=by_page)
    count = shape.micro_batches
    lead = min(shape.lead, count)
    for j in range(count):
        tasks.embed(j)
    tasks.first_pages()
    for j in range(lead):
        tasks.attention(0, j)
    for i, j in tasks.grid():
        tasks.seen_up(i, j)
        if share:
            tasks.share_of_layer(i + 1, j)
        elif j == 0:
            tasks.whole_layer(i + 1)
        tasks.experts(i, j)
        waiting = late and bool(shape.pages_of("cpu", i)) and count > lead
        for at in tasks.due(i, j, waiting):
            tasks.combine(*at)
        following = tasks.later(i, j, lead)
        if following is not None:
            tasks.attention(*following)
    return tasks.finish()


def _needs(shape: PipelineShape, name: str, times: int) -> None:
    """Raise BrokenPipeline where the ring cannot hold what the schedule keeps in it."""
    if shape.micro_batches < 1 or shape.lead < 1:
        raise BrokenPipeline(
            pipeline=name, problem="it needs a micro-batch and a lead of at least 1"
        )
    if shape.ring < times * shape.widest:
        raise BrokenPipeline(
            pipeline=name,
            problem=f"a layer passes {shape.widest} pages through the ring, which holds "
            f"{shape.ring}; this schedule needs {times * shape.widest}",
            hint="give the ring more slots, or keep more pages resident or on the CPU",
        )
