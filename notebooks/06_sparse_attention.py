# %% [markdown]
# # 6. Sparse attention
#
# In a long context a decode step spends its time reading keys and values. Sparse attention reads a
# *label* of every key (a few of its channels, in a few bits), scores the keys by their labels, and
# reads in full only those that a policy selects (after Double Sparsity, arXiv 2408.07092). The
# selection is approximate: what it costs is measured, not assumed. Here you look at the channels of
# the shipped model, at the bytes that a policy saves, and at what it loses.

# %% [markdown]
# ## Channel statistics
#
# `weft calibrate-attention` reads a text and orders each head's channels by what tells keys apart.
# The shipped models are calibrated.

# %%
import torch
from weft.compiler.attention import calibration_of
from weft.evaluation.attention import judged
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.sparse.policy import parse_policies

torch.set_num_threads(1)
MODEL = "tiny-dense"
checkpoint = open_checkpoint(MODEL)
_, policy = parse_policies("dense,sparse(ratio=1/16)")
calibration = calibration_of(checkpoint, policy)
label = policy.label_channels(checkpoint.config.head_dim)
print(
    calibration.provenance.tokens,
    "tokens,",
    calibration.provenance.date,
    "|",
    label,
    "channels of",
    checkpoint.config.head_dim,
    "in a label",
)

# %%
from weft.plots.channels import channel_chart

channel_chart(calibration, label)

# %% [markdown]
# The fewer channels hold most of the variance, the better a short label tells keys apart.
#
# ## What it can save
#
# Bytes that a token's attention reads in one layer: labels of all tokens, scores, indices, and the
# chosen keys and values. The bound of the speed-up, for the shape of an 8 B Llama in bf16:

# %%
from weft.cost_model.sparse_bytes import AttentionShape, speedup
from weft.plots.channels import bytes_chart

shape = AttentionShape(32, 8, 128, "bf16")
CONTEXTS = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
policies = parse_policies("sparse(ratio=1/4),sparse(ratio=1/16),sparse(ratio=1/64),sparse(k=1024)")
bytes_chart(
    {str(each): [speedup(shape, each, context) for context in CONTEXTS] for each in policies},
    CONTEXTS,
)

# %% [markdown]
# Selecting costs time, too, so it pays only from some context on. The pass `sparse-attention` asks
# the cost model from where, and leaves the rest dense: for the H200 of the hardware file, and for a
# 2-core CPU.

# %%
from weft.cost_model.hardware_file import load
from weft.cost_model.sparse_attention import least_context

for machine, level, kv in (("h200", "gpu", "bf16"), ("cpu-generic", "cpu", "f32")):
    found = least_context(
        AttentionShape(32, 8, 128, kv), load(machine).level(level), policy, 131072
    )
    print(f"{machine}: sparse(ratio=1/16) pays from {found} tokens on")

# %% [markdown]
# ## Loss against bytes
#
# The same questions under each policy: find the value of a key among some in a long text. Eight
# questions a length here, which is few; `weft evaluate` asks more, and measures perplexity, needles
# and tasks. A model of two key heads a layer is a hard case: there is little redundancy.

# %%
from weft.evaluation.harness import Evaluation, Plan
from weft.evaluation.report import losses, table
from weft.evaluation.subject import Subject
from weft.plots.attention_loss import loss_against_bytes

POLICIES = "dense,sparse(ratio=1/2),sparse(ratio=1/8)"
plan = Plan(parts=("pairs",), lengths=(512, 1024), contexts=1)
subject = Subject(checkpoint)
measured = Evaluation(subject, judged(checkpoint, parse_policies(POLICIES)), plan).run()
print(table(MODEL, measured))
loss_against_bytes(losses(measured), f"{MODEL}, {plan.contexts * 8} questions a length")

# %% [markdown]
# ## In a program
#
# `attention="sparse(...)"` for all gens, or `with attention sparse(...):` around some. Short
# contexts, as here, are read whole: nothing changes.

# %%
import weft

PROGRAM = """
program ask(text: str) -> str:
    user "{text}"
    with attention sparse(ratio=1/4):
        assistant gen answer(max_tokens=12, stop="\\n")
    return answer
"""
sparse = weft.compile(PROGRAM, model=MODEL, threads=1)
sparse.run(text="Sort these words: pear, fig, apple").value

# %% [markdown]
# ## Now change it
#
# Try another policy: labels in `bf16` or more `channels`, `unit=page`, `top_p=0.95`, or dense first
# layers. Which keeps the answers with the fewest bytes?

# %% again="MINE = 'dense,sparse(ratio=1/4,unit=page)'"
MINE = "dense,sparse(ratio=1/4,labels=bf16),sparse(ratio=1/4,channels=32)"

# %%
short = Plan(parts=("pairs",), lengths=(512,), contexts=1)
mine = Evaluation(subject, judged(checkpoint, parse_policies(MINE)), short).run()
loss_against_bytes(losses(mine), f"{MODEL}, 512 tokens")
