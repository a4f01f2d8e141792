# %% [markdown]
# # 5. A mixture of experts that is larger than the GPU
#
# weft divides such a model between GPU and host: some pages of expert weights stay, some pass
# through a ring of slots while others are computed on, some experts are computed by the CPU. Here
# you search a policy, look at the pipeline that carries it out, see the proof that nothing is
# overwritten while it is read, take the pipeline's ideas away one by one, and run a small model
# under a cap. No GPU is needed: times are predicted from a hardware file, and the run uses a
# simulated device that keeps count of its memory.

# %%
from weft.cost_model import hardware_file
from weft.cost_model.hrm.grid import Grid
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.model import Site
from weft.cost_model.hrm.prediction import predict
from weft.cost_model.hrm.search import policy_of, refined
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.cost_model.policy_text import dumps
from weft.frontend.models.presets import PRESETS
from weft.plots.text import cut

GIB = 2**30
GPU_MEMORY = 24 * GIB
hardware = hardware_file.load("h200")
machine = HostedGpu.of(hardware)
shape, workload = MoeShape.of(PRESETS["mixtral-8x7b"], "bf16"), Workload(256, 64)
site = Site(machine, GPU_MEMORY, 110 * GIB, 0.0)
found = refined(shape, workload, site, Grid(most=512, pages_per_expert=1, kv_gpu=(0.0,)))
policy = policy_of(found, shape)
print(cut(dumps(policy), width=110, lines=14))

# %% [markdown]
# A line a layer: of its eight experts' pages, `r` stays on the GPU, `s` passes through the ring,
# `c` is computed by the CPU. What bounds a step of it:

# %%
from weft.plots.hrm import roofs_chart

prediction = predict(policy, shape, workload, hardware)
roofs_chart(prediction)

# %% [markdown]
# ## The pipeline
#
# Tasks on queues, as data: each says what it reads, what it writes, and for what it waits. Here are
# three layers of a step, simulated. Pages cross while attention and experts of other micro-batches
# are computed.

# %%
from dataclasses import replace

from weft.cost_model.hrm.timed import run
from weft.cost_model.pipelines import pipeline_shape
from weft.ir.offload.schedules import SCHEDULES, build_pipeline
from weft.plots.gantt import Gantt

# In four micro-batches, so that there is something to overlap; and with a ring for the pages of two
# layers, which the published schedules need (weft's own goes without).
widest = max(len(layer.ringed) for layer in policy.layers)
several = replace(policy, micro_batch=-(-policy.batch // 4), lead=2, ring=2 * widest)


def pipeline_of(schedule, layers=3):
    return build_pipeline(schedule, pipeline_shape(several, layers=layers))


def timeline_of(pipeline):
    return run(pipeline, several, shape, workload, machine)


pipeline = pipeline_of("cgo")
Gantt("three layers, schedule cgo", pipeline, timeline_of(pipeline))

# %%
print("\n".join(str(task) for task in pipeline.tasks[8:16]))

# %% [markdown]
# ## The proof that no hazard can happen
#
# Whatever tasks take, a page is never overwritten while an expert reads it, and nothing is read
# before it is there. Start and end of each task are unknown integers; z3 shows that none fit the
# queues and waits and break an order that is needed.

# %%
from weft.passes.graph.hazards import prove_hazards

print(prove_hazards(pipeline))

# %% [markdown]
# In weft's own schedule, `ring`, pages cross on a queue of their own. Forget that experts wait for
# them, and the proof names two tasks that can meet:

# %%
from weft.ir.diagnostics import WeftError

ours = pipeline_of("ring")
print(prove_hazards(ours))
careless = tuple(
    replace(task, waits=tuple(name for name in task.waits if not name.startswith("page.")))
    if task.kind == "experts"
    else task
    for task in ours.tasks
)
try:
    prove_hazards(replace(ours, tasks=careless))
    raise AssertionError("a hazard was not found")
except WeftError as error:
    print(error.render())

# %% [markdown]
# ## Ablations
#
# The schedules that MoE-Lightning compares itself with, built from the same tasks, and weft's own
# (`ring`): a layer's share of time, simulated with everything else equal. `s4` waits after each
# micro-batch; `s3` brings keys and values to the GPU; `s2` computes attention ahead, but moves a
# layer's pages as one.

# %%
from weft.plots.style import bars

takes = {}
for name in SCHEDULES:
    three, six = pipeline_of(name, 3), pipeline_of(name, 6)
    takes[name] = (timeline_of(six).seconds - timeline_of(three).seconds) / 3
    print(prove_hazards(three))
bars(list(takes), [1e3 * seconds for seconds in takes.values()], "ms a layer, simulated")

# %%
slowest = pipeline_of("s4")
Gantt("three layers, schedule s4", slowest, timeline_of(slowest))

# %% [markdown]
# ## Run it
#
# The shipped mixture of experts has 15 MiB of weights. Under a cap that does not hold them, the
# same kernels run as a pipeline, and give the same tokens as the whole model.

# %%
import weft

PROGRAM = """
program sort(words: str) -> str:
    user "Sort these words: {words}"
    assistant gen answer(max_tokens=16)
    return answer
"""
whole = weft.compile(PROGRAM, model="tiny-moe", threads=1)
capped = weft.compile(
    PROGRAM,
    model="tiny-moe",
    threads=1,
    gpu_memory=24 * 2**20,
    kv_memory=2 * 2**20,
    max_batch=4,
    max_tokens=64,
)
words = "pear, fig, apple, kiwi"
whole.run(words=words).value, capped.run(words=words).value

# %%
print(capped.explain())

# %% [markdown]
# ## Now change it
#
# Less GPU memory, more layers, another lead, a page ring of another size: what happens to the time
# of a layer, and is the proof still there? Which ring is too small to be a pipeline at all?

# %% again="SCHEDULE, RING, LEAD = 's3', 2 * several.ring, 1"
SCHEDULE, RING, LEAD = "cgo", several.ring + 4, 3

# %%
several = replace(several, ring=RING, lead=LEAD)
pipeline = pipeline_of(SCHEDULE)
print(prove_hazards(pipeline))
Gantt(f"schedule {SCHEDULE}, a ring of {RING}, lead {LEAD}", pipeline, timeline_of(pipeline))
