"""Train one model for a given time on one GPU and export it.

    python zoo/train/train.py tiny-dense --english CORPUS --out OUT --minutes 9
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import data
import numpy as np
import tasks
import torch
from export import export, load
from model import SHAPES, Model, Muon
from tokenizers import Tokenizer
from torch import Tensor

# (until this share of the time, context length)
STAGES = ((0.10, 512), (0.35, 1024), (0.60, 2048), (0.93, 4096), (1.0, 8192))


def stage(progress: float) -> int:
    """The context length at this share of the time."""
    return next((length for until, length in STAGES if progress < until), STAGES[-1][1])


def rate(progress: float, step: int, decay_from: float) -> float:
    """The learning rate's factor: warm-up, flat, linear decay."""
    warm = min(1.0, (step + 1) / 100)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - decay_from)))


def predict(model: Model, rows: list[list[int]], tokens: int, device: str) -> list[np.ndarray]:
    """The most likely next token at every position of every row."""
    out: list[np.ndarray] = [np.zeros(0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    at = 0
    while at < len(order):
        longest = len(rows[order[min(at + 512, len(order)) - 1]])
        part = order[at : at + max(1, min(512, tokens // longest))]
        longest = max(len(rows[i]) for i in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        for j, i in enumerate(part):
            ids[j, : len(rows[i])] = torch.tensor(rows[i])
        best = model.logits(ids.to(device)).argmax(-1).cpu().numpy()
        for j, i in enumerate(part):
            out[i] = best[j, : len(rows[i])]
        at += len(part)
    return out


def accuracy(model: Model, tokenizer: Tokenizer, device: str, each: int,
             probes: int) -> dict[str, float]:
    """Exact match of greedy answers a task, and of the retrieval probe by context length."""
    found = data.examples(7, each, tokenizer)
    rng = random.Random(77)
    for name, length in (("512", 512), ("1k", 1024), ("2k", 2048), ("4k", 4096), ("8k", 8000)):
        for _ in range(max(8, probes * 2048 // length)):
            found.append((f"probe_{name}", *tasks.encode(tasks.probe(rng, length), tokenizer)))
    best = predict(model, [ids for _, ids, _ in found], 65536, device)
    right: dict[str, list[bool]] = {}
    for (name, ids, weights), guess in zip(found, best, strict=True):
        for turn in data.answers(ids, weights):
            right.setdefault(name, []).append(all(guess[i - 1] == ids[i] for i in turn))
    return {name: round(sum(r) / len(r), 3) for name, r in right.items()}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the command line says; ends where the last stage would fail, after all the others."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("name", choices=list(SHAPES))
    args.add_argument("--english", type=Path, required=True, help="the folder of train.bin")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--tokenizer", default="zoo/tiny-dense/tokenizer.json")
    args.add_argument("--minutes", type=float, default=9.0)
    args.add_argument("--tokens", type=int, default=65536, help="tokens a step")
    args.add_argument("--workers", type=int, default=14)
    args.add_argument("--muon", type=float, default=0.02)
    args.add_argument("--adam", type=float, default=3e-3)
    args.add_argument("--decay-from", type=float, default=0.6)
    args.add_argument("--start", type=float, default=0.0, help="enter the stages at this share")
    args.add_argument("--resume", type=Path, help="a safetensors file or a .pt of float32")
    args.add_argument("--focus", action="store_true", help="more of what the first run found hard")
    args.add_argument("--report", type=float, default=60.0, help="seconds between accuracy tables")
    args.add_argument("--seed", type=int, default=1)
    given = args.parse_args(arguments)
    text, most = given.english / "train.bin", STAGES[-1][1]
    least = 2 * (data.BEFORE_END + 1)  # bytes
    if not text.is_file() or text.stat().st_size < least:
        args.error(f"--english: {text} is missing or below {least:,} bytes; corpus.py writes it")
    if given.tokens < most:
        args.error(f"--tokens is at least {most}, one row of the last stage, not {given.tokens}")
    if not 0 <= given.decay_from < 1 or not 0 <= given.start <= 1:
        args.error("--decay-from and --start are shares of the time: 0 <= decay-from < 1")
    return given


def started(given: argparse.Namespace, device: str) -> Model:
    """The model, of fresh or of given weights."""
    model = Model(SHAPES[given.name], compiled=device == "cuda")
    if given.resume and given.resume.suffix == ".pt":
        model.load_state_dict(torch.load(given.resume, map_location="cpu"))
    elif given.resume:
        load(model, given.resume)
    return model.to(device)


class Optimizers:
    """Muon for the layers' matrices, AdamW for all the rest."""

    def __init__(self, model: Model, given: argparse.Namespace, device: str) -> None:
        hidden = [p for n, p in model.named_parameters()
                  if n.startswith("layers") and p.dim() > 1 and "router" not in n]
        chosen = {id(p) for p in hidden}
        self.rates = (given.muon, given.adam)
        self.rest = [p for p in model.parameters() if id(p) not in chosen]
        self.muon = Muon(hidden)
        self.adam = torch.optim.AdamW(self.rest, lr=given.adam, betas=(0.9, 0.95),
                                      weight_decay=0.0, fused=device == "cuda")

    def step(self, factor: float) -> None:
        """Take one step of so much of the rates, and forget the gradients."""
        muon, adam = self.rates
        self.muon.step(muon * factor)
        torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = adam * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def losses(nll: Tensor, share: Tensor) -> dict[str, float]:
    """The mean loss of English and of tasks, which weigh less and more than a half."""
    flat = share.flatten()
    english = (flat > 0) & (flat < 0.5)
    found = {"english": nll[english].mean(), "tasks": nll[flat > 0.5].mean()}
    return {name: round(value.item(), 3) for name, value in found.items()}


def report(**line: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(line), flush=True)


def train(model: Model, feed: data.Feed, given: argparse.Namespace, tokenizer: Tokenizer,
          device: str, begun: float) -> tuple[int, int, list[dict[str, object]]]:
    """Train until the time is over; return the steps, the tokens seen and the accuracy tables."""
    optimizers = Optimizers(model, given, device)
    step = seen = 0
    next_report, next_line = begun + given.report, begun
    history: list[dict[str, object]] = []
    while (now := time.time()) < begun + given.minutes * 60:
        progress = (now - begun) / (given.minutes * 60)
        feed.length.value = stage(given.start + (1 - given.start) * progress)
        ids, weights = feed.batch()
        batch = torch.from_numpy(ids.astype(np.int64)).to(device, non_blocking=True)
        share = torch.from_numpy(weights.astype(np.float32)).to(device, non_blocking=True) / 100
        loss, nll = model.loss(batch[:, :-1], batch[:, 1:], share[:, 1:])
        loss.backward()
        factor = rate(progress, step, given.decay_from)
        optimizers.step(factor)
        step, seen = step + 1, seen + nll.numel()
        if step == 1 or now >= next_line:
            report(s=round(now - begun, 1), step=step, M=round(seen / 1e6, 1), T=ids.shape[1] - 1,
                   lr=round(factor, 3), **losses(nll, share[:, 1:]), queue=feed.queue.qsize())
            next_line = now + 10
        if now >= next_report:
            table = accuracy(model, tokenizer, device, 24, 64)
            history.append({"s": round(now - begun, 1), "M": round(seen / 1e6, 1), **table})
            report(**history[-1])
            next_report = time.time() + given.report
        if not math.isfinite(loss.item() if step % 50 == 0 else 0.0):
            raise SystemExit("the loss is not finite")
    return step, seen, history


def main() -> None:
    """Train until the time is over; print one line of JSON for every report."""
    given, begun = options(), time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.manual_seed(given.seed)
    torch.set_float32_matmul_precision("high")
    feed = data.Feed(given.workers, given.tokens, stage(given.start), given.tokenizer,
                     given.english / "train.bin", given.seed, given.focus)
    tokenizer, model = Tokenizer.from_file(given.tokenizer), started(given, device)
    step, seen, history = train(model, feed, given, tokenizer, device, begun)
    feed.close()
    export(model, given.out / given.name)
    torch.save(model.state_dict(), given.out.parent / f"{given.name}.pt")
    table = accuracy(model, tokenizer, device, 48, 128)
    report(done=given.name, updates=step, M=round(seen / 1e6, 1), s=round(time.time() - begun, 1),
           **table)
    (given.out / given.name / "training.json").write_text(json.dumps([*history, table]))


if __name__ == "__main__":
    main()
