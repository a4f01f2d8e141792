# %% [markdown]
# # 4. Tune with the cost model
#
# What should a step take, what bounds it, and what would make it faster? Here you calibrate this
# machine, compare predictions with measurements, and then tune a model that is larger than its GPU,
# on a machine that you do not have: prices are computed from a hardware file.

# %% [markdown]
# ## Calibrate
#
# `weft calibrate` measures bandwidths, rates and launches in interleaved rounds; every figure keeps
# its spread. Two rounds here, to be quick: the error bars are wider for it.

# %%
from weft.codegen.measure.cpu import cpu_probes
from weft.cost_model.calibrate import calibrate

probes = cpu_probes(threads=1)
here = calibrate("this-cpu", [probes], versions=probes.versions, device=probes.device, rounds=2)
for memory in here.level().memories:
    read = memory.read
    print(
        f"{memory.name:7} read {read.min / 1e9:6.1f} {read.median / 1e9:6.1f} "
        f"{read.max / 1e9:6.1f} GB/s"
    )

# %% [markdown]
# ## Predicted against measured
#
# A decode step of the shipped model: bars from the best to the worst of the calibration, dots
# measured now. A dot far to the right is overhead that the model does not know, or a machine that
# was busy just then.

# %%
import weft
from weft.cli.explain import measure_step, priced_step
from weft.compiler import Compilation
from weft.cost_model.report import compare
from weft.plots.roofline import by_name, comparison_chart

options = weft.Options(threads=1)
compilation = Compilation("../examples/essay_judge.weft", "tiny-dense", options=options)
costs = by_name(priced_step(compilation, 1, here))
comparison_chart(
    compare({name: cost.seconds for name, cost in costs.items()}, measure_step(compilation, 1))
)

# %% [markdown]
# ## A hierarchical roofline, and its turning points
#
# Mixtral 8x7B in bf16 is 87 GiB. On a GPU with less memory, experts lie in the host's memory, and
# cross a link that is eighty times slower than GPU memory. Turning points say what should cross
# (MoE-Lightning, ASPLOS 2025, equations 9 to 11): left of P1 a layer is best left where its data
# is; left of P2, if it is moved, the GPU waits for the link.

# %%
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm.curves import decode_attention, feed_forward
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.frontend.models.presets import PRESETS
from weft.plots.hierarchy import hierarchical_roofline

hardware, config = load("h200"), PRESETS["mixtral-8x7b"]
shape = MoeShape.of(config, "bf16")
print(hardware.provenance["device"], "|", hardware.provenance["source"])
experts = [feed_forward(shape, batch, micro_batch=64) for batch in (64, 512, 4096)]
hierarchical_roofline(hardware, [*experts, decode_attention(shape)])

# %% [markdown]
# A dot is what a layer attains on the GPU if its data is moved there, a ring what the CPU attains
# in place. Attention reads keys and values once for each token: its intensity is fixed and low, so
# it is best computed where they are. Experts' weights serve a whole batch: the larger it is, the
# better they travel.
#
# ## Search a policy
#
# How many sequences, in which micro-batches, which pages of experts live where, where attention
# runs: the search prices every batch of a grid, solves the placement of pages exactly, and refines
# by simulating the pipeline. `weft tune` is the same on the command line.

# %%
from functools import cache

from weft.cost_model.hrm.grid import Grid
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.model import Site
from weft.cost_model.hrm.prediction import lifts, predict
from weft.cost_model.hrm.search import policy_of, refined

GIB = 2**30


@cache
def tuned(batch=256, prompt=256, gpu_gib=24, host_gib=110):
    site = Site(HostedGpu.of(hardware), gpu_gib * GIB, host_gib * GIB, 0.0)
    workload, grid = Workload(prompt, 64), Grid(most=batch, pages_per_expert=1, kv_gpu=(0.0,))
    found = refined(shape, workload, site, grid)
    return found, predict(policy_of(found, shape), shape, workload, hardware), workload, grid


# %%
from weft.plots.hrm import roofs_chart

found, prediction, workload, grid = tuned()
roofs_chart(prediction)

# %% [markdown]
# ## Turn the knobs
#
# Batch, length of prompts, memory caps. Each move searches again (a second or so). Where ipywidgets
# is not installed you see the first setting, and each knob turned once.

# %%
from weft.plots.controls import sliders


def draw(batch, prompt, gpu_gib, host_gib):
    return roofs_chart(tuned(batch, prompt, gpu_gib, host_gib)[1])


sliders(draw, batch=(256, 64), prompt=(256, 1024), gpu_gib=(24, 40), host_gib=(110, 96))

# %% [markdown]
# The same as a row of settings: where pages go, and what it brings, as GPU memory grows.

# %%
from weft.plots.hrm import pages_chart, throughput_chart


def homes(found):
    return {
        home: sum(count for (name, _), count in found.counts.items() if name == home)
        for home in ("resident", "streamed", "cpu")
    }


by_memory = {gib: tuned(gpu_gib=gib) for gib in (16, 24, 40, 60)}
pages_chart({f"{gib} GiB": homes(each[0]) for gib, each in by_memory.items()})

# %%
throughput_chart(
    {gib: each[1].throughput.expected for gib, each in by_memory.items()}, "GPU memory"
)

# %% [markdown]
# ## What would lift the bound?

# %%
from weft.plots.hrm import lifts_chart

lifts_chart(lifts(found, shape, workload, grid))

# %% [markdown]
# These are predictions for a GPU of which this notebook measured nothing; the H200's ceilings in
# the hardware file were measured (see what is printed above).
#
# ## Now change it
#
# Another model (`PRESETS` has its name: `qwen3-30b-a3b`, `tiny-moe`), pages in `int8`, a slower
# link, and run again. What is the bound then?

# %% again="PAGES, LINK = 'int8', 1.0"
PAGES, LINK = "bf16", 0.5

# %%
from dataclasses import replace

slower = [replace(link, bandwidth=link.bandwidth.scaled(LINK)) for link in hardware.links]
other = replace(hardware, links=tuple(slower))
shape_now = MoeShape.of(config, PAGES)
site = Site(HostedGpu.of(other), 24 * GIB, 110 * GIB, 0.0)
now = refined(shape_now, workload, site, grid)
roofs_chart(predict(policy_of(now, shape_now), shape_now, workload, other))
