"""A pipeline over time: a track for each queue, a bar for each task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..cost_model.simulate import Timeline
from ..ir.display import timeline as drawn
from ..ir.display.units import seconds_text
from ..ir.display.view import Facts, Figure, Shown, View
from ..ir.offload.pipeline import Pipeline


@dataclass(frozen=True)
class Gantt(Shown):
    """A simulated pipeline: who works when, and how busy each queue is."""

    title: str
    pipeline: Pipeline
    timeline: Timeline

    def tracks(self) -> Iterable[drawn.Track]:
        """Yield the queues, each with its tasks in order."""
        for queue, tasks in self.pipeline.queues.items():
            yield drawn.Track(
                queue,
                tuple(
                    drawn.Interval(
                        self.timeline.start[task.name], self.timeline.end[task.name], task.name,
                        str(task.kind),
                    )
                    for task in tasks
                ),
            )  # fmt: skip

    def view(self) -> View:
        """Return the chart with the time of the step and each queue's share of it."""
        facts = [("takes", seconds_text(self.timeline.seconds))]
        facts += [(queue, f"{self.timeline.busy(queue):.0%} busy")
                  for queue in self.pipeline.queues]  # fmt: skip
        chart = drawn.Timeline(self.title, tuple(self.tracks()))
        return View("pipeline", self.title, (Facts(tuple(facts)), Figure(chart)))
