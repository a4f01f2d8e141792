# %% [markdown]
# # 2. Read the IR, and diff a pass
#
# Between the text of a program and machine code stand four dialects of one IR. All have the same
# text form, and every stage can be printed, diffed and fed back in. Here you follow one program
# down to the plan that the engine executes, see what each pass did, and write a pass of your own.

# %%
import weft

judge = weft.compile("../examples/essay_judge.weft", model="tiny-dense")
list(judge.stages)

# %% [markdown]
# ## Program IR
#
# Streams of prompt state: each operation takes the text so far and gives the text after it.
# The passes of this stage have marked what is shared (`prefix`).

# %%
judge.stages["program"]

# %% [markdown]
# ## Plan IR
#
# What the engine executes. Text that is known is tokens now; a stream is a handle on keys and
# values (`kv`); the fork's branches go on from one prefill. Scroll to the right for the attributes.

# %%
judge.stages["plan"]

# %% [markdown]
# ## What each pass did
#
# `explain()` lists the passes with their reasons: what each did (`did`) and what it left undone
# and why (`left`), beside the line of the source.

# %%
from weft.plots.text import cut

print(cut(judge.explain(), width=150, lines=32))

# %% [markdown]
# The same as a picture: the time of each pass, and how many operations the module has after it.

# %%
from weft.compiler import Compilation
from weft.plots.passes import pass_chart

compilation = Compilation("../examples/essay_judge.weft", "tiny-dense")
compilation.plan
pass_chart(compilation.records)

# %% [markdown]
# ## Diff a pass
#
# `diff(NAME)` is a unified diff of the IR text: here `free-kv`, which frees keys and values as
# soon as nothing reads them any more.

# %%
from weft.plots.text import show_diff

show_diff(judge.diff("free-kv"))

# %% [markdown]
# The same pass on the command line: `weft dump FILE --after free-kv --diff`.
#
# ## From text, at any stage
#
# The printed form is the IR: parsing it gives an equal module. So a pass can be tried on a text
# of a few lines, as the tests of the passes do.

# %%
from weft.ir.parser import parse_module
from weft.ir.printer import print_module

plan = judge.stages["plan"]
assert parse_module(print_module(plan)) == plan

SMALL = """
program.func name = @greet, parameters = [], returns = str { |%s: stream|
  %s_1 = program.literal %s, text = "Hello, " : stream
  %s_2 = program.literal %s_1, text = "world" : stream
  %s_3, %answer = program.gen %s_2, name = "answer", type = str, max_tokens = 8 : stream, str
  program.return %answer
}
"""
small = parse_module(SMALL)

# %% [markdown]
# Run a pass on it, by name:

# %%
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import named_passes

canonical, records = run_passes(named_passes(["canonicalize"]), small, Context())
show_diff(records[0].diff())

# %% [markdown]
# ## Write a pass
#
# A pass is a frozen dataclass: what it reads and writes, which facts it needs and keeps, and
# `run`, which returns a new module. After each pass the verifier checks the module; with
# `validate`, weft also checks that the pass kept the meaning, by running both modules on symbols.
#
# This one bounds what a `gen` may say.

# %%
from dataclasses import dataclass
from typing import ClassVar

from weft.ir.core import Module
from weft.passes.manager import ProgramPass
from weft.passes.rewrite import rewrite


@dataclass(frozen=True)
class BoundGens(ProgramPass):
    """Let no gen have more than `most` tokens."""

    most: int = 8

    name: ClassVar[str] = "bound-gens"

    def run(self, module: Module, context: Context) -> Module:
        def rule(operation):
            if operation.name != "program.gen" or operation["max_tokens"] <= self.most:
                return None
            context.did(f"{operation['name']} bounded", operation.span)
            return [operation.with_attributes(max_tokens=self.most)]

        return rewrite(module, rule)


context = Context()
lowered = compilation.lowered
bounded, records = run_passes([BoundGens(12)], lowered, context)
print([remark.message for remark in context.remarks])
show_diff(records[0].diff())

# %% [markdown]
# Other token limits are another meaning, and the validator of rewriting passes says so. Registered
# passes are validated by name; here the check of `canonicalize` is asked about our pass:

# %%
from weft.ir.diagnostics import WeftError
from weft.passes.validation.registry import validation

try:
    validation()("canonicalize", lowered, bounded, Context())
except WeftError as error:
    print(cut(error.render(), width=150))

# %% [markdown]
# ## Now change it
#
# Choose another example program and another pass, and run the two cells again: `list(NAMES)` has
# the passes that ran, and `../examples/` has the programs. What would `BoundGens(4)` do to it?

# %% again="EXAMPLE, PASS = 'tree_of_thoughts', 'lower-to-plan'"
EXAMPLE, PASS = "self_consistency", "prefix-sharing"

# %%
other = Compilation(f"../examples/{EXAMPLE}.weft", "tiny-dense")
other.plan
NAMES = {record.name: record for record in other.records}
print(list(NAMES))
show_diff(NAMES[PASS].diff() or "(no change)")
