# %% [markdown]
# # 7. Prefix trees and KV lifetimes of a real batch
#
# A batch of rows makes many calls, and most of what they send is the same. weft joins the prompts
# of all calls of all rows into one tree *before anything runs*. So it knows what will be computed
# once and read by many, when each stretch of keys and values is read for the last time, and how
# much memory that takes. Here you look at all three, and then take memory away.

# %%
import json
from pathlib import Path

import weft

PROGRAM = """
record Review:
    strength: str(max_tokens=24)
    score: int(1..10)

program judge(essay: str, sides: list[str]) -> str:
    system "You judge student essays."
    user "Essay:\\n{essay}"
    fork side in sides as reviews:
        user "Judge only its {side}."
        assistant gen review: Review
        yield review
    user "Reviews:\\n{reviews}"
    assistant:
        "Grade: "
        select grade from ["A", "B", "C", "D"]
    return grade
"""
ESSAYS = [
    json.loads(line)["essay"]
    for line in Path("../examples/data/essay_judge.jsonl").read_text().splitlines()
]
SIDES = (["clarity"], ["evidence", "style"], ["clarity", "evidence", "style"])
ROWS = [{"essay": essay, "sides": sides} for essay in ESSAYS for sides in SIDES]

judge = weft.compile(PROGRAM, model="tiny-dense", trace=True)
len(ROWS)

# %% [markdown]
# ## The prefix tree, before the run
#
# Each call is a line, each token a unit of width; what several calls begin with is one block.
# Hatched is what only the run can tell (a review, say): calls that read it share it, too.

# %%
from weft.plots.prefixes import prefix_map

tree = judge.prefix_tree(ROWS)
prefix_map(tree)

# %% [markdown]
# The tree shows itself with its texts, too: a row a stretch, darker where more calls read it.

# %%
tree

# %% [markdown]
# ## Run it: predicted and measured
#
# Hits are counted twice. *Predicted* is what a cache that never forgets would give the calls that
# were really made; *measured* is what the pages gave them.

# %%
outcome = judge.run_rows(ROWS)
print(outcome.stats)
print(outcome.values)

# %%
from weft.plots.style import bars

bars(
    ["sent by all calls", "of these hits", "computed by the model"],
    [outcome.stats.sent_tokens, outcome.stats.hits_measured, judge.engine.computed_tokens],
    "tokens",
)

# %% [markdown]
# What was computed is what was sent less the hits, and the tokens that were generated. Fewer, even:
# where two rows ask the same of the same text, the answer is computed once.
#
# ## Steps of the run

# %%
from weft.plots.lifetimes import step_chart

step_chart(judge.engine.trace.steps)

# %% [markdown]
# ## KV lifetimes, from the plan
#
# The pass `kv-lifetimes` wrote on every operation that makes keys and values which operations read
# them. A stretch is freed after its last read; one that no call reads is never kept.

# %%
from weft.plots.lifetimes import lifetime_chart

lifetime_chart(judge.stages["plan"], "judge")

# %% [markdown]
# ## Take memory away
#
# With less memory the cache must forget, and rows wait for pages. The same batch with ever less:
# values stay the same, measured hits fall below the predicted ones.

# %%
SIZES_MIB = (6, 3, 2, 1.75, 1.5)
runs = {}
for size in SIZES_MIB:
    small = weft.compile(PROGRAM, model="tiny-dense", kv_memory=int(size * 2**20))
    runs[size] = small.run_rows(ROWS)
    assert runs[size].values == outcome.values

# %%
from weft.plots.lifetimes import memory_chart

memory_chart({size: each.stats for size, each in runs.items()})

# %% [markdown]
# With too little, no schedule can help, and the error says what a row needs:

# %%
from weft.ir.diagnostics import WeftError

try:
    weft.compile(PROGRAM, model="tiny-dense", kv_memory=2**20).run_rows(ROWS)
except WeftError as error:
    print(error.render())

# %% [markdown]
# ## Now change it
#
# Take another batch and run again: more essays, other sides, or your own text. Which change makes
# the share of hits fall? (A word that differs *before* what is shared parts the prompts there.)

# %% again="MY_ROWS = [{'essay': ESSAYS[0], 'sides': [side]} for side in ('clarity', 'tone')]"
MY_ROWS = [{"essay": f"Essay number {n}. {ESSAYS[n % 3]}", "sides": ["clarity"]} for n in range(6)]

# %%
print(judge.run_rows(MY_ROWS).stats)
prefix_map(judge.prefix_tree(MY_ROWS))
