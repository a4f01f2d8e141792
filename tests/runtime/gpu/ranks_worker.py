"""One rank of a model on several GPUs; rank 0 prints how far the logits of two sequences are off.

Arguments: the model, how many ranks, a folder for kernels, the target (cpu: to try this out).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from weft.compiler import Compilation
from weft.compiler.loading import serve
from weft.evaluation.subject import Subject
from weft.frontend.checkpoints.checkpoint import ZOO, open_checkpoint
from weft.options import Options
from weft.tests.runtime.gpu.two_sequences import DECODED, PROGRAM, PROMPT, logits, off


def main(model: str, ranks: str, cache: str, target: str) -> None:
    options = Options.from_env().changed(
        target=target, weights="bf16", kv_memory=64 << 20, max_batch=320, max_tokens=512,
        prove=False, tp=int(ranks), cache=Path(cache),
    )  # fmt: skip
    compilation = Compilation(PROGRAM, model, options=options)
    executor = compilation.executor
    if compilation.launch.rank:
        serve(executor)
    checkpoint = open_checkpoint(model)
    ids = checkpoint.tokenizer.encode((ZOO / "heldout.txt").read_text(encoding="utf-8"))
    rows = [ids[at : at + PROMPT + DECODED] for at in (500, 3500)]
    found = list(logits(executor, rows))
    meaning = Subject(checkpoint)
    wanted = [meaning.whole(row)[PROMPT - 1 :] for row in rows]
    errors = [off(torch.stack([each[at] for each in found]), wanted[at]) for at in (0, 1)]
    crossed = off(found[0][[1]], wanted[0][[0]])
    medians = [float(each.median()) for each in errors]
    print(json.dumps({"medians": medians, "crossed": float(crossed)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
