"""compile(): the whole way from a program and a model to something that runs.

compilation     the way, top to bottom: each stage is made when first asked for
checking        what is wrong with programs, found without a model: `weft check`
stages          the stages by name, as text; what each pass did; `memory_proof`, whether rows fit
lowering        a model's step, from its graph to compiled kernels
loading         weights, pages and kernels, to an executor in memory
attention       sparse attention: its policy, calibration and price; `keys_ahead`, `key_offload`:
                keys in host memory
offloading      models larger than the GPU
remote_model    models behind an endpoint
formats, choices, attention_ways    what these share: formats of numbers, what was chosen by
                measuring on this machine, what plans know of a GPU's attention
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compilation import Compilation, NoSuchProgramName, compile

__all__ = ["Compilation", "NoSuchProgramName", "compile"]


def __getattr__(name: str) -> Any:
    """Load what compiles on first use (PEP 562): the room's other modules stay light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".compilation", __name__), name)
