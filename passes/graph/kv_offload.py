"""The schedule of sparse decode whose keys and values lie in host memory, as a pipeline to prove.

Of a layer the device keeps labels, and one of two buffers of rows; the other is filled for the
layer after it meanwhile. A layer's predicted list comes first: rows that it names are copied while
the layer before attends (`fetch`). The layer's own query then selects, what is not there is copied
(`late`), and attention reads the buffer and the current token's own row, which is on its way to the
host.
"""

from __future__ import annotations

from ...ir.pipeline import Access, Kind, Pipeline, Task

BUFFERS = 2


def kv_offload_pipeline(layers: int) -> Pipeline:
    """Return the tasks of one decode step; every read names what it must find.

    Queues: `gpu`, `up` (host to device) and `down`. The lists of predictions come from the step
    before, so the first task of `up` may start at once.
    """
    tasks: list[Task] = []
    for layer in range(layers):
        if layer == 0:
            tasks.append(_fetch(0))
        tasks.append(_pre(layer))
        tasks.append(_task(layer, "own_down", Kind.KV_DOWN, "down", (("own", layer),),
                           ((f"row{layer}", "new"),), (f"pre{layer}",)))  # fmt: skip
        tasks.append(_task(layer, "select", Kind.SELECT, "gpu", ((f"q{layer % BUFFERS}", layer),),
                           ((f"list{layer % BUFFERS}", layer),), ()))  # fmt: skip
        tasks.append(_late(layer))
        if layer + 1 < layers:
            tasks.append(_fetch(layer + 1))
        tasks.append(_attend(layer))
        tasks.append(_task(layer, "rest", Kind.COMBINE, "gpu", (("seen", layer),),
                           (("x", layer + 1),), ()))  # fmt: skip
    holds = [Access("x", "0")]
    for layer in range(layers):
        holds += [Access(f"predicted{layer}", "0"), Access(f"host{layer}", "past")]
    return Pipeline("kv-offload", layers, 1, tuple(tasks), tuple(holds))


def _task(
    layer: int, name: str, kind: Kind, queue: str, reads: tuple[tuple[str, object], ...],
    writes: tuple[tuple[str, object], ...], waits: tuple[str, ...],
) -> Task:  # fmt: skip
    found, made = (tuple(Access(slot, str(holds)) for slot, holds in part)
                   for part in (reads, writes))  # fmt: skip
    return Task(f"{name}{layer}", kind, queue, layer, 0, (), found, made, waits)


def _pre(layer: int) -> Task:
    """Norm and projections: the query, and the current token's row, once the last one is down."""
    waits = (f"own_down{layer - 1}",) if layer else ()
    return _task(layer, "pre", Kind.PRE, "gpu", (("x", layer),),
                 (("own", layer), (f"q{layer % BUFFERS}", layer)), waits)  # fmt: skip


def _fetch(layer: int) -> Task:
    """The rows that the prediction names, into the buffer that attention read two layers before: it
    is launched behind the late rows of the layer in between, whose list came after that."""
    reads = ((f"predicted{layer}", 0), (f"host{layer}", "past"))
    return _task(layer, "fetch", Kind.KV_UP, "up", reads,
                 ((f"rows{layer % BUFFERS}", f"predicted_{layer}"),), ())  # fmt: skip


def _late(layer: int) -> Task:
    """The rows that are missing, beside those that came in time."""
    buffer = f"rows{layer % BUFFERS}"
    reads = ((f"list{layer % BUFFERS}", layer), (buffer, f"predicted_{layer}"),
             (f"host{layer}", "past"))  # fmt: skip
    return _task(layer, "late", Kind.KV_UP, "up", reads, ((buffer, f"all_{layer}"),),
                 (f"select{layer}",))  # fmt: skip


def _attend(layer: int) -> Task:
    reads = ((f"rows{layer % BUFFERS}", f"all_{layer}"), ("own", layer),
             (f"q{layer % BUFFERS}", layer))  # fmt: skip
    return _task(layer, "attend", Kind.ATTEND, "gpu", reads, (("seen", layer),),
                 (f"late{layer}",))  # fmt: skip
