"""CGOPipe as its published code runs it: what its events and buffers really are, as data.

Facts of the code, read and not run: a page's event is recorded on a stream that is idle, hidden
states are allocated on the stream of copies and freed while another stream reads them, and
attention two micro-batches ahead is launched only where there are more than two.
"""

from dataclasses import replace

from weft.ir.offload.pipeline import Access, Kind, Pipeline


def events_on_the_idle_stream(pipeline):
    """Record the event of each page copy on a stream that nothing else is launched on."""
    tasks = [
        replace(task, event_queue="prefetch") if task.kind is Kind.PAGE else task
        for task in pipeline.tasks
    ]
    return replace(pipeline, name="idle-stream", tasks=tuple(tasks))


def hidden_state_reused(pipeline):
    """Let all micro-batches' hidden states share one buffer that nobody waits to be free."""
    by_name = pipeline.by_name

    def shared(accesses):
        return tuple(
            Access("seen.0", a.holds) if a.slot.startswith("seen.") else a for a in accesses
        )

    tasks = []
    for task in pipeline.tasks:
        waits = task.waits
        if task.kind is Kind.SEEN_UP:  # the allocator gives it a block that its own stream freed
            waits = tuple(wait for wait in waits if by_name[wait].kind is not Kind.ROUTE)
        tasks.append(replace(task, reads=shared(task.reads), writes=shared(task.writes),
                             waits=waits))  # fmt: skip
    return replace(pipeline, name="reused-hidden", tasks=tuple(tasks))


def no_attention_ahead(pipeline: Pipeline) -> Pipeline:
    """Launch no attention but the first layer's: what `if num_mb > 2` leaves with two."""
    ahead = {Kind.PRE, Kind.QKV_DOWN, Kind.APPEND, Kind.ATTEND}
    gone = {task.name for task in pipeline.tasks if task.kind in ahead and task.layer > 0}
    tasks = [
        replace(task, waits=tuple(wait for wait in task.waits if wait not in gone))
        for task in pipeline.tasks
        if task.name not in gone
    ]
    return replace(pipeline, name="nothing-ahead", tasks=tuple(tasks))
