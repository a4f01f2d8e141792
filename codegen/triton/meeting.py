"""Meetings of programs in Triton's text: a counter that they add to, and then watch.

Every meeting adds `MOST_MET` to its counter, so much a program that all together do, and each waits
until the next multiple is reached; counters may wrap. As programs that meet begin one after another
(passes/tile/meeting.py), those of which some wait have all been begun before any that come later.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dialects.tile import MOST_MET

MEET = "meet"
"""The function that the file of a kernel with meetings has."""

MEET_TEXT: str = f'''
@triton.jit
def meet(counter, programs):
    """Wait for the other programs; what they wrote before is read after."""
    tl.debug_barrier()
    tl.inline_asm_elementwise(
        """{{
        .reg .pred done; .reg .b32 seen, end;
        mov.u32 seen, %tid.x;
        setp.ne.u32 done, seen, 0;
        @done bra MET;
        atom.acq_rel.gpu.global.add.u32 seen, [$1], $2;
        and.b32 end, seen, {-MOST_MET};
        add.s32 end, end, {MOST_MET};
        add.s32 seen, seen, $2;
        WATCH:
        sub.s32 seen, seen, end;
        setp.ge.s32 done, seen, 0;
        @done bra MET;
        ld.acquire.gpu.global.b32 seen, [$1];
        bra WATCH;
        MET:
        mov.b32 $0, 0;
        }}""", "=r,l,r", [tl.cast(counter, tl.int64), {MOST_MET} // programs],
        dtype=tl.int32, is_pure=False, pack=1,
    )
    tl.debug_barrier()

'''
"""All threads have written before the first barrier, whose thread that adds releases that too. It
alone watches, and acquires what others released; the second barrier hands that on to all. Where
all threads watched, they slowed down programs beside them that had not come yet."""


LAST = "last_of"
"""The function that the file of a kernel has in which a last program goes on."""

LAST_TEXT: str = '''
@triton.jit
def last_of(counter, programs):
    """Return 1 for the last program to come, which reads what the others wrote before, else 0."""
    tl.debug_barrier()
    last = (tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == programs - 1).to(tl.int32)
    if last != 0:
        tl.store(counter, 0)
    tl.debug_barrier()
    return last

'''
"""All threads have written before the first barrier, whose thread that adds releases that too; it
acquires what others released, and the second barrier hands that on to all threads."""


def last_at(counter: str, axis: int) -> str:
    """Return the text of whether this is the last of the programs of a grid axis, at a pointer."""
    return f"{LAST}({counter}, tl.num_programs({axis}))"


def met_at(counter: str, axis: int) -> str:
    """Return the line of a meeting of the programs of a grid axis, at a pointer."""
    return f"{MEET}({counter}, tl.num_programs({axis}))"


def phase_lines(
    name: str, names: str, head: str, body: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return functions of a kernel's parts between meetings, and the lines by which a launch runs
    them in turn: Triton's interpreter runs programs one after another, so that none can wait."""
    phases: list[list[str]] = [[]]
    for line in body:
        if line.strip().startswith(f"{MEET}("):
            phases.append([])
        else:
            phases[-1].append(line)
    if len(phases) == 1:
        return [], []
    functions = []
    for number, phase in enumerate(phases):
        functions += ["\n", head, f"def {name}_{number}({names}):", *(phase or ["    pass"])]
    called = [f"            {name}_{number}[programs]({names})" for number in range(len(phases))]
    return functions, ["    if INTERPRETED:", "        if min(programs) > 0:", *called,
                       "        return None"]  # fmt: skip
