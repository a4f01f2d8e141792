"""The tasks that schedules of offloaded models are put together from, with what they touch.

Slots: `x.j` residual stream, and buffers that micro-batches take in turn: `qkv`, `seen`, `routed`,
`rows` on the GPU, the same with `_host` beside the CPU; `kv.i.j` pages of keys and values, `page.s`
the ring, `relay.s` pages on their way to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .builder import PipelineBuilder
from .pipeline import Kind, Pipeline

if TYPE_CHECKING:
    from .schedules import PipelineShape

GPU, DOWN, CPU, CPU_EXPERTS, DISK, STAGE = "gpu", "down", "cpu", "cpu_experts", "disk", "stage"


class Tasks:
    """Appends the tasks of micro-batches and pages; layers from 0, the last one + 1 is the next's.

    `hidden` and `pages` name the queues of what goes up. With `by_page`, the first and the last
    micro-batch of a layer take the ring's pages one by one: as they come, and as they may go.
    """

    def __init__(
        self, name: str, shape: PipelineShape, *, hidden: str, pages: str, by_page: bool = False
    ) -> None:
        self.shape = shape
        self._builder = PipelineBuilder(name, shape.layers, shape.micro_batches)
        self._hidden, self._pages, self._by_page = hidden, pages, by_page
        self._buffers = min(shape.micro_batches, shape.lead + 2)
        self._place: dict[tuple[int, int], int] = {}  # layer, page -> slot of the ring
        self._kept: dict[int, tuple[int, int]] = {}  # slot -> the page that is still to be read
        self._wanted: deque[tuple[int, int]] = deque()  # pages that a full ring keeps waiting
        self._next = shape.start
        self._relayed = 0
        layers = range(1 if shape.warm else 0, shape.layers + 1)
        self._relays = [(i, p) for i in layers for p in self._ringed(i) if self._is_relayed(i, p)]
        self._late: deque[tuple[int, int]] = deque()
        self._parts: dict[tuple[int, int], int] = {}
        self._hold_first()

    def grid(self) -> Iterator[tuple[int, int]]:
        """Yield (layer, micro-batch) in the order of computation."""
        counts = range(self.shape.micro_batches)
        return ((i, j) for i in range(self.shape.layers) for j in counts)

    def later(self, i: int, j: int, ahead: int) -> tuple[int, int] | None:
        """Return what comes so many micro-batches after (i, j), or None past the last layer."""
        layer, micro_batch = divmod(i * self.shape.micro_batches + j + ahead,
                                    self.shape.micro_batches)  # fmt: skip
        return (layer, micro_batch) if layer < self.shape.layers else None

    def finish(self) -> Pipeline:
        """Add the head of each micro-batch, and return the pipeline."""
        for j in range(self.shape.micro_batches):
            last = f"x.{self.shape.layers}.{j}"
            self._builder.task(Kind.HEAD, GPU, self.shape.layers, j, reads=[(f"x.{j}", last)],
                               writes=[(f"logits.{j}", f"logits.{j}")])  # fmt: skip
        return self._builder.finish()

    def sync(self) -> None:
        """Let everything wait for everything until here."""
        self._builder.sync()

    def embed(self, j: int) -> None:
        """x(0, j)."""
        self._builder.task(Kind.EMBED, GPU, 0, j, writes=[(f"x.{j}", f"x.0.{j}")])

    def attention(self, i: int, j: int) -> None:
        """A, Q and B: projections on the GPU, attention on the CPU."""
        self._pre(i, j)
        self._task(Kind.QKV_DOWN, DOWN, i, j, ["qkv"], ["qkv_host"])
        kv = (f"kv.{i}.{j}", f"kv.{i}.{j}.new")
        self._task(Kind.APPEND, CPU, i, j, ["qkv_host"], ["q_host"], writes=[kv])
        self._task(Kind.ATTEND, CPU, i, j, ["q_host"], ["seen_host"], reads=[kv])

    def seen_up(self, i: int, j: int) -> None:
        """h."""
        self._task(Kind.SEEN_UP, self._hidden, i, j, ["seen_host"], ["seen"])

    def kv_up(self, i: int, j: int) -> None:
        """D4: keys and values to one of two places on the GPU."""
        old = f"kv.{i}.{j}"
        self._builder.task(Kind.KV_UP, self._hidden, i, j, reads=[(old, old)],
                           writes=[(self._kv_place(i, j), old)])  # fmt: skip

    def gpu_attention(self, i: int, j: int) -> None:
        """Projections and attention on the GPU; the new keys and values go down."""
        place, old = self._kv_place(i, j), f"kv.{i}.{j}"
        new = (place, f"{old}.new")
        self._pre(i, j)
        self._task(Kind.APPEND, GPU, i, j, ["qkv"], ["q"], reads=[(place, old)], writes=[new])
        self._task(Kind.ATTEND, GPU, i, j, ["q"], ["seen"], reads=[new])
        self._builder.task(Kind.KV_DOWN, DOWN, i, j, reads=[new], writes=[(old, f"{old}.new")])

    def experts(self, i: int, j: int) -> None:
        """C without its sum: the router, then the experts of the GPU; those of the CPU beside."""
        before, after = (f"x.{j}", f"x.{i}.{j}"), (f"x.{j}", f"mid.{i}.{j}")
        self._task(Kind.ROUTE, GPU, i, j, ["seen"], ["routed"], reads=[before], writes=[after])
        if self.shape.pages_of("cpu", i):
            self._task(Kind.ROUTED_DOWN, DOWN, i, j, ["routed"], ["routed_host"])
            self._task(Kind.CPU_EXPERTS, CPU_EXPERTS, i, j, ["routed_host"], ["rows_host"])
        for number, pages in enumerate(self._groups(i, j)):
            self._expert_group(i, j, number, pages)
        self._late.append((i, j))

    def due(self, i: int, j: int, late: bool) -> list[tuple[int, int]]:
        """Return the micro-batches whose sum is taken now; `late`: all but the newest.

        At a layer's end nothing stays: the next layer may do without delay.
        """
        keep = 1 if late and j < self.shape.micro_batches - 1 else 0
        found = []
        while len(self._late) > keep:
            found.append(self._late.popleft())
        return found

    def combine(self, i: int, j: int) -> None:
        """The sum of the experts' rows, and what the CPU has to add."""
        if self._late and self._late[0] == (i, j):
            self._late.popleft()
        taken = ["routed"]
        if self.shape.pages_of("cpu", i):
            self._task(Kind.ROWS_UP, self._hidden, i, j, ["rows_host"], ["rows_cpu"])
            taken.append("rows_cpu")
        rows = (self._slot("rows", i, j), f"rows.{i}.{j}.{self._parts[i, j]}")
        reads = [(f"x.{j}", f"mid.{i}.{j}"), rows]
        self._task(Kind.COMBINE, GPU, i, j, taken, [], reads=reads,
                   writes=[(f"x.{j}", f"x.{i + 1}.{j}")])  # fmt: skip

    def first_pages(self) -> None:
        """The first layer's pages, where the step before has not left them."""
        for k in range(self.shape.relay):
            self._read_ahead(k)
        if not self.shape.warm:
            self.whole_layer(0, one_by_one=True)

    def whole_layer(self, i: int, one_by_one: bool = False) -> None:
        """A layer's pages: as one transfer, or one by one."""
        pages = self._ringed(i)
        if one_by_one:
            self._wanted += [(i, page) for page in pages]
            self._pump()
            return
        part: list[int] = []
        for page in pages:
            relayed = sum(self._is_relayed(i, other) for other in (*part, page))
            if part and relayed > self.shape.relay:
                self._copy(i, tuple(part))
                part = []
            part.append(page)
        if part:
            self._copy(i, tuple(part))

    def share_of_layer(self, i: int, j: int) -> None:
        """The pages of a layer that go with micro-batch j of the layer before it."""
        pages, count = self._ringed(i), self.shape.micro_batches
        mine = pages[j * len(pages) // count : (j + 1) * len(pages) // count]
        self._wanted += [(i, page) for page in mine]
        self._pump()

    def _pre(self, i: int, j: int) -> None:
        self._task(Kind.PRE, GPU, i, j, [], ["qkv"], reads=[(f"x.{j}", f"x.{i}.{j}")])

    def _expert_group(self, i: int, j: int, number: int, pages: tuple[int, ...]) -> None:
        for page in pages:  # a full ring may have kept it waiting until now
            while (i, page) not in self._place and page in self._ringed(i):
                self._copy_next()
        slot, name = self._slot("rows", i, j), f"rows.{i}.{j}"
        reads = [(self._slot("routed", i, j), f"routed.{i}.{j}")]
        reads += [(slot, f"{name}.{number - 1}")] if number else []
        reads += [
            (f"page.{self._place[i, p]}", f"w.{i}.{p}") for p in pages if (i, p) in self._place
        ]
        self._builder.task(Kind.EXPERTS, GPU, i, j, number=number, pages=pages, reads=reads,
                           writes=[(slot, f"{name}.{number}")])  # fmt: skip
        self._parts[i, j] = number
        if j == self.shape.micro_batches - 1:
            for page in pages:
                self._kept.pop(self._place.get((i, page), -1), None)
            self._pump()

    def _groups(self, i: int, j: int) -> list[tuple[int, ...]]:
        """Return the pages that each experts task of (i, j) takes, at least one task."""
        resident, ringed = self.shape.pages_of("resident", i), self._ringed(i)
        edge = j in {0, self.shape.micro_batches - 1}
        if not (self._by_page and edge):
            return [tuple(sorted((*resident, *ringed)))]
        return ([resident] if resident or not ringed else []) + [(page,) for page in ringed]

    def _ringed(self, i: int) -> tuple[int, ...]:
        return self.shape.ringed[i % self.shape.layers]

    def _hold_first(self) -> None:
        """Place the first layer's pages as the step before has left them, and older keys."""
        for i, j in self.grid():
            self._builder.hold(f"kv.{i}.{j}", f"kv.{i}.{j}")
        if self.shape.warm:
            for page in self._ringed(0):
                slot = self._take(0, page)
                self._builder.hold(f"page.{slot}", f"w.0.{page}")

    def _take(self, i: int, page: int) -> int:
        slot = self._next
        self._next = (slot + 1) % self.shape.ring
        self._place[i, page] = slot
        self._kept[slot] = (i, page)
        return slot

    def _pump(self) -> None:
        """Copy wanted pages, in order, while the next slot of the ring is free."""
        while self._wanted and self._next not in self._kept:
            self._copy_next()

    def _copy_next(self) -> None:
        i, page = self._wanted.popleft()
        self._copy(i, (page,))

    def _copy(self, i: int, pages: tuple[int, ...]) -> None:
        reads, writes = [], []
        for page in pages:
            writes.append((f"page.{self._take(i, page)}", f"w.{i}.{page}"))
            if self._is_relayed(i, page):
                reads.append((self._relay_slot(), f"w.{i}.{page}"))
                self._relayed += 1
        number = pages[0]
        self._builder.task(Kind.PAGE, self._pages, i, number=number, pages=pages, reads=reads,
                           writes=writes)  # fmt: skip
        for k in range(len(reads)):
            self._read_ahead(self._relayed - len(reads) + k + self.shape.relay)

    def _is_relayed(self, i: int, page: int) -> bool:
        return self.shape.staged or page in self.shape.pages_of("disk", i)

    def _relay_slot(self) -> str:
        return f"relay.{self._relayed % self.shape.relay}"

    def _read_ahead(self, k: int) -> None:
        """Bring the k-th relayed page of the step to its host slot."""
        if k >= len(self._relays):
            return
        i, page = self._relays[k]
        on_disk = page in self.shape.pages_of("disk", i)
        self._builder.task(
            Kind.READ if on_disk else Kind.STAGE, DISK if on_disk else STAGE, i, number=page,
            pages=(page,), writes=[(f"relay.{k % self.shape.relay}", f"w.{i}.{page}")],
        )  # fmt: skip

    def _kv_place(self, i: int, j: int) -> str:
        return f"kv_gpu.{(i * self.shape.micro_batches + j) % 2}"

    def _slot(self, name: str, i: int, j: int) -> str:
        return f"{name}.{(i * self.shape.micro_batches + j) % self._buffers}"

    def _task(
        self, kind: Kind, queue: str, i: int, j: int, takes: list[str], gives: list[str], *,
        reads: list[tuple[str, str]] | None = None, writes: list[tuple[str, str]] | None = None,
    ) -> None:  # fmt: skip
        """Append a task that takes and gives buffers of (i, j); further accesses as they are."""

        def buffers(names: list[str]) -> list[tuple[str, str]]:
            return [(self._slot(n, i, j), f"{n.removesuffix('_host')}.{i}.{j}") for n in names]

        self._builder.task(kind, queue, i, j, reads=[*buffers(takes), *(reads or [])],
                           writes=[*buffers(gives), *(writes or [])])  # fmt: skip
