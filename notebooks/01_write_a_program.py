# %% [markdown]
# # 1. Write a program
#
# A weft program is text that a model sees, with places where the model speaks. Here you write one,
# run it on a model of 7 million parameters that ships with weft, and look at what it did.
# Everything runs on a laptop's CPU.

# %%
import weft

PROGRAM = """
record Review:
    strength: str(max_tokens=24)
    score: int(1..10)

program judge(essay: str, sides: list[str] = ["clarity", "evidence"]) -> str:
    system "You judge student essays."
    user "Essay:\\n{essay}"
    fork side in sides as reviews:              # one branch a side; they share the text above
        user "Judge only its {side}."
        assistant gen review: Review            # the model can only write this record's JSON
        yield review
    user "Reviews:\\n{reviews}"
    assistant:
        "Grade: "
        select grade from ["A", "B", "C", "D"]
    return grade
"""

judge = weft.compile(PROGRAM, model="tiny-dense", trace=True)

# %% [markdown]
# `compile` has read, checked and planned the program and made kernels for the model. (The first
# time on a machine this takes some 20 s; after that the kernels come from a cache.) Run it:

# %%
ESSAY = (
    "The aim of this essay is clear: we need a new bridge. "
    "A study in Berlin showed that people like the bridge."
)
result = judge.run(essay=ESSAY)
result.value, result.values["reviews"]

# %% [markdown]
# The reviews are values, not text to be parsed: the score is an integer between 1 and 10 because
# nothing else could be generated. `result.text` is all that the model saw and said on the
# program's own stream:

# %%
print(result.text)

# %% [markdown]
# ## How sure was it?
#
# `select` scores every option, so a selected string also knows the probabilities of the others.

# %%
from weft.plots.style import bars

bars(list(result.value.probs), list(result.value.probs.values()), "probability", "the grade")

# %% [markdown]
# ## What it cost

# %%
print(result.stats)

# %% [markdown]
# *Prefix hits* are tokens that a call sent and the model did not have to compute, because an
# earlier call had sent them. *Predicted* are those of a cache that never forgets.
#
# The trace shows the steps of the run: the essay is read once, then both reviews are written
# side by side, one token of each in a step.

# %%
from weft.plots.lifetimes import step_chart

step_chart(judge.engine.trace.steps)

# %% [markdown]
# The trace shows itself, too: who worked when. (`weft run --trace out.json` writes it in the form
# that ui.perfetto.dev opens.)

# %%
judge.engine.trace

# %% [markdown]
# ## Events as they come
#
# `stream` gives each piece of text, each value that is certain, and the result. The path says
# which branch speaks: the two reviews come interleaved.

# %%
from weft.runtime.programs.events import TextPiece, ValueBound

for event in judge.stream(essay=ESSAY):
    match event:
        case TextPiece(name, text, path):
            branch = path[0][2] if path else "-"
            print(f"{name}[{branch}] {text!r}", end="  ")
        case ValueBound(name, value, _):
            print(f"\n{name} = {value!r}")

# %% [markdown]
# ## The same program as a Python function
#
# The function is read, never run: its text becomes the same IR. A dataclass is a record, and a
# function under `@weft.tool` runs on the host, in the middle of the program.

# %%
from dataclasses import dataclass
from typing import Annotated


@dataclass
class Review:
    strength: Annotated[str, weft.limit(max_tokens=24)]
    score: Annotated[int, weft.between(1, 10)]


@weft.tool
def word_count(text: str) -> int:
    return len(text.split())


@weft.program
def judge_in_python(s, essay: str, sides: list[str]) -> list[Review]:
    s.system("You judge student essays.")
    s.user(f"Essay ({word_count(essay)} words):\n{essay}")

    @s.fork(sides)
    def reviews(s, side):
        s.user(f"Judge only its {side}.")
        review = s.assistant.gen(Review)
        return review

    return reviews


compiled = weft.compile(judge_in_python, model="tiny-dense")
compiled.run(essay=ESSAY, sides=["clarity", "evidence", "style"]).value

# %% [markdown]
# ## When you make a mistake
#
# The error names the place, and what would mend it.

# %%
from weft.ir.diagnostics import WeftError

try:
    weft.compile(PROGRAM.replace("{essay}", "{esay}"))
except WeftError as error:
    print(error.render())

# %% [markdown]
# ## Now change it
#
# Change the essay or the sides below and run the cell again. The program is compiled already: only
# what is new is computed.

# %% again="MY_ESSAY = 'Stuff happens and the lake is cold.'; MY_SIDES = ['clarity', 'style']"
MY_ESSAY = "Maybe every fish has a lake. Things are like people."
MY_SIDES = ["clarity", "evidence"]

# %%
mine = judge.run(essay=MY_ESSAY, sides=MY_SIDES)
print(mine.values["reviews"])
bars(list(mine.value.probs), list(mine.value.probs.values()), "probability", "the grade")
