"""An 8 B shape on an H200 without either: steps cost what the roofline says, on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weft.cost_model.binding import Binding, Formats
from weft.cost_model.hardware_file import load
from weft.cost_model.roofline import op_time
from weft.cost_model.scene import Scene
from weft.cost_model.work import work_of
from weft.frontend.models.presets import preset
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module

FORMATS = Formats(kv="bf16", weight="bf16")


class RooflinePrice:
    """Seconds of a step of a model shape in bf16 on a machine's first level.

    The graph's activations are f32; here they count as bf16, as such an engine keeps them.
    Layers are alike, so two graphs are priced, of one and of two layers, and the rest added.
    """

    def __init__(self, shape: str = "llama-8b", hardware: str = "h200", launch: str = "graph"):
        config = preset(shape)
        self.name = f"{shape} on {hardware}"
        self._layers = config.layers
        self._level = load(hardware).level()
        self._launch = self._level.launch_cost(launch)
        self._graphs = [
            build_graph(replace(config, layers=count, windows=config.windows[:count]))
            for count in (1, 2)
        ]

    def __call__(self, queries: Sequence[int], keys: Sequence[int], rows: int) -> float:
        """Return the seconds of a step: tokens fed and keys seen a sequence, rows of logits."""
        binding = Binding(tuple(queries), tuple(keys), rows=max(1, rows))
        one, two = (self._seconds(graph, binding) for graph in self._graphs)
        return one + (self._layers - 1) * (two - one)

    def _seconds(self, graph: Module, binding: Binding) -> float:
        scene = Scene.of(graph, binding, FORMATS)
        works = [work_of(operation, scene) for operation in graph.walk()]
        busy = [
            replace(work, dtype="bf16", activation_bytes=work.activation_bytes / 2)
            if work.dense
            else work
            for work in works
            if work.bytes or work.flops
        ]
        return sum(op_time(work, self._level, self._launch)[0].expected for work in busy)
