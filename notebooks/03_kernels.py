# %% [markdown]
# # 3. Kernels: tile IR, Triton, TVM, assembly, and the roofline of each
#
# A kernel is written once, over tiles of static shape, in some twenty operations. It has no memory
# scopes, warps or layouts. Four readers give it a life: an interpreter (what it means), a prover
# (no access leaves its buffer), and two emitters: TVM for the CPU, Triton for the GPU. Here you
# take one kernel through all of them, and then see where the model's own kernels stand.

# %%
from weft.ir.parser import parse_module
from weft.ir.verifier import verify

TEXT = """
tile.kernel name = @rmsnorm, grid = ["T", "1"], requires = ["T >= 0"], writes = ["out"] {
    |%T: index, %x: buffer<f32, [T, 256]>, %w: buffer<f32, [256]>, %out: buffer<f32, [T, 256]>|
  %row = tile.program_id axis = 0 : index
  %lane = tile.iota : tile<i32, [256]>
  %x_v = tile.load %x, %row, %lane : tile<f32, [256]>
  %w_v = tile.load %w, %lane : tile<f32, [256]>
  %square = tile.map %x_v, expr = "a * a" : tile<f32, [256]>
  %sum = tile.reduce %square, op = "sum", axis = 0 : f32
  %factor = tile.map %sum, expr = "rsqrt(a / 256.0 + 1e-05)" : f32
  %y = tile.map %x_v, %w_v, %factor, expr = "a * b * c" : tile<f32, [256]>
  tile.store %out, %row, %lane, %y
  tile.return
}
"""
module = parse_module(TEXT)
verify(module, ("tile",))
kernel = module.operations[0]
module

# %% [markdown]
# ## Reader 1: what it means
#
# The reference interpreter runs each program of the grid in NumPy, in float64 if asked (the buffers
# stay float32), and checks every access.

# %%
import numpy as np
from weft.codegen.meaning.reference import run_kernel

rng = np.random.default_rng(0)
x, w = rng.normal(size=(6, 256)).astype(np.float32), rng.normal(size=256).astype(np.float32)
meant = np.empty((6, 256), np.float32)
run_kernel(kernel, 6, x, w, meant, dtype=np.float64)
np.abs(meant - x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * w).max()

# %% [markdown]
# ## Reader 2: no access leaves its buffer
#
# For *all* launches that `requires` allows, not for those of a test. Where an index is more than
# arithmetic on constants, z3 decides.

# %%
from weft.codegen.bounds.prove import prove_bounds

for access in prove_bounds(kernel).accesses:
    print(f"{access.buffer}, axis {access.axis}: in bounds, by {access.by}")

# %% [markdown]
# Shift the load by one lane, and the prover finds the element that is not there:

# %%
from weft.ir.diagnostics import WeftError

SHIFTED = TEXT.replace("tile.load %w, %lane", "tile.load %w, %next").replace(
    "  %x_v = tile.load",
    '  %next = tile.map %lane, expr = "a + 1" : tile<i32, [256]>\n  %x_v = tile.load',
)
try:
    prove_bounds(parse_module(SHIFTED).operations[0])
except WeftError as error:
    print(error.render())

# %% [markdown]
# ## Reader 3: TVM, for the CPU
#
# How it is scheduled stands apart from what it computes: a `Schedule` has the vector width, the
# unrolling, whether the grid runs in parallel.

# %%
from weft.codegen.build import compile_kernels
from weft.ir.schedule import Schedule

built = compile_kernels([(kernel, Schedule(vector=16))])["rmsnorm"]
built

# %% [markdown]
# The compiled function takes torch tensors, and agrees with the meaning to float32's precision:

# %%
import torch

x_t, w_t = torch.from_numpy(x), torch.from_numpy(w)
out_t = torch.empty(6, 256)
built.launch(6, x_t, w_t, out_t)
float((out_t - torch.from_numpy(meant)).abs().max())

# %% [markdown]
# And the machine code of its loops over 16 lanes (`weft dump FILE --stage binary` has all of it):

# %%
assembly = built.inspect("assembly").splitlines()
loops = [line for line in assembly if "zmm" in line or "ymm" in line or "\tfmla" in line]
print(f"{len(assembly)} lines, {len(loops)} with vector registers; the last of these:")
print("\n".join(line.expandtabs(8) for line in loops[-12:]))

# %% [markdown]
# ## Reader 4: Triton, for the GPU
#
# The text below is compiled here for an H100 (`sm_90`), without a GPU: that is how the tests do it.

# %%
from weft.codegen.triton.emit import emit

print(emit(kernel).text)

# %%
import warnings

from weft.codegen.triton.compile import compile_offline

warnings.simplefilter("ignore")  # Triton 3.9 announces a default of 3.10
ptx = str(compile_offline(kernel, arch=90)["ptx"]).splitlines()
kept = [line for line in ptx if any(word in line for word in ("ld.global", "st.global", "shfl"))]
print(f"{len(ptx)} lines of PTX; its loads, stores and shuffles:")
print("\n".join(line.strip() for line in kept[:12]))

# %% [markdown]
# ## The roofline of each
#
# The model's own kernels, in a decode step of 4 sequences. The cost model counts the FLOPs and
# bytes of each operation, and divides by what the machine can do. Which machine, is printed: run
# `weft calibrate` once, and it is yours; without that, round figures of a 2-core server are used.

# %%
from weft.cli.explain import measure_step, priced_step
from weft.cli.hardware import hardware_here
from weft.compiler import Compilation

BATCH = 4
compilation = Compilation("../examples/essay_judge.weft", "tiny-dense")
hardware = hardware_here()
costs = priced_step(compilation, BATCH, hardware)
measured = measure_step(compilation, BATCH)
print(hardware.name, "|", hardware.provenance.get("device"), "|", hardware.provenance.get("date"))

# %%
from weft.plots.roofline import MeasuredRoofline

MeasuredRoofline(f"decode step, batch {BATCH}", hardware.level(), tuple(costs), measured)

# %% [markdown]
# The same in microseconds: a bar from the best to the worst that the calibration's error bars
# allow, a dot for what was measured in this notebook.

# %%
from weft.cost_model.report import compare
from weft.plots.roofline import by_name, comparison_chart

comparison_chart(compare({name: cost.seconds for name, cost in by_name(costs).items()}, measured))

# %% [markdown]
# ## On a GPU
#
# This notebook runs on a CPU. These figures were recorded on the GPU that the caption names, by
# `python -m bench.gpu_kernels --record`; peers are the kernels of FlashAttention, cuDNN and
# FlexAttention that torch ships, timed in the same run.

# %%
from weft.plots.gpu_kernels import attention_chart
from weft.plots.recorded import recorded

attention_chart(recorded("gpu_kernels"))

# %% [markdown]
# ## Now change it
#
# Change the schedule and look at the time of a large launch, or change the kernel: drop `%w_v`,
# add a bias, square twice. The prover and the interpreter will tell you what you have made.

# %% again="SCHEDULE, ROWS = Schedule(vector=8, unroll=1, parallel=False), 500"
SCHEDULE, ROWS = Schedule(vector=16, unroll=2), 4000

# %%
from statistics import median
from time import perf_counter

changed = compile_kernels([(kernel, SCHEDULE)])["rmsnorm"]
many, out = torch.randn(ROWS, 256), torch.empty(ROWS, 256)
times = []
for _ in range(30):
    start = perf_counter()
    changed.launch(ROWS, many, w_t, out)
    times.append(perf_counter() - start)
moved = 2 * many.numel() * 4
print(f"{1e6 * median(times):.0f} us, {moved / median(times) / 1e9:.1f} GB/s")
