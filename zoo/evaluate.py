"""Measure the two tiny models as exported: task accuracy, long-context retrieval, perplexity.

    python zoo/evaluate.py [--quick] [--json] [--model zoo/tiny-dense ...]

An answer counts when greedy decoding would give it exactly, its end included: every token of it is
the most likely one after the tokens before it (literal parts that a program writes are left out).
Retrieval asks one question a fresh conversation: `key: value` lines with random 8-character keys,
some sharing a prefix with others, then "What is the value of KEY?".
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "train"))
import data  # noqa: E402
import tasks  # noqa: E402

LEAST_TEXT = 1000
"""Characters of a text that perplexity is told of."""
LENGTHS = {"512": 512, "1k": 1024, "2k": 2048, "4k": 4096, "8k": 8000}


class Subject:
    """A model under test, loaded as any user of transformers would."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        self.name = folder.name
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.experts = getattr(self.model.config, "num_local_experts", 0)

    def logits(self, rows: list[list[int]], cache: Any = None) -> torch.Tensor:
        """The logits of rows padded on the right, after an optional shared prefix."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return self.model(ids, past_key_values=cache, use_cache=cache is not None).logits


def task_accuracy(subject: Subject, each: int, seed: int) -> dict[str, float]:
    """Exact match a task on held-out examples."""
    right: dict[str, list[bool]] = {}
    found = sorted(data.examples(seed, each, subject.tokenizer), key=lambda e: len(e[1]))
    for at in range(0, len(found), 16):
        part = found[at : at + 16]
        best = subject.logits([ids for _, ids, _ in part]).argmax(-1).tolist()
        for (name, ids, weights), guess in zip(part, best, strict=True):
            for turn in data.answers(ids, weights):
                right.setdefault(name, []).append(all(guess[i - 1] == ids[i] for i in turn))
    return {name: sum(right[name]) / len(right[name]) for name in tasks.CHAT_TASKS}


def retrieval(subject: Subject, length: int, contexts: int, seed: int) -> dict[str, float]:
    """Exact match of single questions over contexts of `length` tokens, and how many were asked."""
    rng, right, hard = random.Random(f"{seed}:{length}"), [], []
    for _ in range(contexts):
        count = int((length - 60) / 14.2)
        table = [(k, str(rng.randint(1000, 9999))) for k, _ in tasks.pairs(rng, count, True)]
        lead = "Remember these pairs.\n" + tasks.layout(rng, table, 0) + "\n\n"
        asked = [table[int((i + rng.random()) * len(table) / 8)] for i in range(8)]
        chats = [
            tasks.encode(tasks.say(f"{lead}What is the value of {k}?", v), subject.tokenizer)
            for k, v in asked
        ]
        shared = 0
        while len({ids[shared] for ids, _ in chats}) == 1:
            shared += 1
        cache = subject.model(
            torch.tensor([chats[0][0][:shared]]), use_cache=True, logits_to_keep=1
        ).past_key_values
        for at in range(0, 8, 4):
            four = copy.deepcopy(cache)
            four.batch_repeat_interleave(4)
            part = chats[at : at + 4]
            best = subject.logits([ids[shared:] for ids, _ in part], four).argmax(-1).tolist()
            for (ids, weights), guess, (key, _) in zip(part, best, asked[at : at + 4], strict=True):
                turn = data.answers(ids, weights)[0]
                right.append(all(guess[i - 1 - shared] == ids[i] for i in turn))
                if any(k != key and k[:3] == key[:3] for k, _ in table):
                    hard.append(right[-1])
    return {
        "accuracy": sum(right) / len(right),
        "asked": len(right),
        "shared_prefix": sum(hard) / max(1, len(hard)),
        "asked_shared": len(hard),
    }


def perplexity(subject: Subject, text: str) -> dict[str, float]:
    """Perplexity a token, and bits a character, over chunks of 1024 tokens."""
    ids = subject.tokenizer.encode(text, add_special_tokens=False).ids
    total, count = 0.0, 0
    for at in range(0, len(ids), 1023):
        row = [tasks.BOS, *ids[at : at + 1023]]
        if len(row) < 32:
            break
        logp = subject.logits([row])[0, :-1].log_softmax(-1)
        total -= logp.gather(1, torch.tensor(row[1:])[:, None]).sum().item()
        count += len(row) - 1
    bits = total / math.log(2) / (len(text) * count / len(ids))
    return {"perplexity": math.exp(total / count), "bits_per_character": bits}


def expert_use(subject: Subject, each: int, seed: int) -> dict[str, list[list[float]]]:
    """For each task and layer, each expert's share of the tokens' two choices."""
    out: dict[str, list[list[float]]] = {}
    for name in tasks.CHAT_TASKS:
        rows = [ids for _, ids, _ in data.examples(seed, each, subject.tokenizer, [name])]
        counts = torch.zeros(subject.model.config.num_hidden_layers, subject.experts)
        for row in rows:
            layers = subject.model(torch.tensor([row]), output_router_logits=True).router_logits
            for i, logits in enumerate(layers):
                top = logits.reshape(len(row), -1).topk(2, -1).indices.flatten()
                counts[i] += torch.bincount(top, minlength=subject.experts)
        out[name] = [
            [round(x, 4) for x in row] for row in (counts / counts.sum(1, keepdim=True)).tolist()
        ]
    return out


def measure(folder: Path, quick: bool, seed: int, text: str) -> dict[str, Any]:
    """Everything about one model."""
    subject, begun = Subject(folder), time.time()
    out: dict[str, Any] = {}
    each, contexts = (12, 2) if quick else (100, 16)
    for label, length in LENGTHS.items():
        if quick and label not in ("2k", "4k"):
            continue
        found = retrieval(subject, length, max(2, contexts // (4 if label == "8k" else 1)), seed)
        out[f"retrieval_{label}"] = round(found["accuracy"], 4)
        if found["asked_shared"]:
            out[f"retrieval_{label}_shared_prefix"] = round(found["shared_prefix"], 4)
    out["tasks"] = {k: round(v, 4) for k, v in task_accuracy(subject, each, seed).items()}
    found = perplexity(subject, text[:8000] if quick else text)
    out |= {k: round(v, 3) for k, v in found.items()}
    if subject.experts and not quick:
        out["experts"] = expert_use(subject, 20, seed)
    out["seconds"] = round(time.time() - begun, 1)
    return out


def table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, one column a model."""
    lines = ["| measure | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    first = next(iter(results.values()))
    keys = [k for k, v in first.items() if isinstance(v, (int, float)) and k != "seconds"]
    for key in keys:
        cells = " | ".join(str(r.get(key, "")) for r in results.values())
        lines.append(f"| {key} | {cells} |")
    for key in first["tasks"]:
        lines.append(
            f"| {key} | " + " | ".join(f"{r['tasks'][key]:.2f}" for r in results.values()) + " |"
        )
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    """Print the table, and with --json one JSON object as the last line."""
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument(
        "--model", type=Path, nargs="+", default=[HERE / "tiny-dense", HERE / "tiny-moe"]
    )
    args.add_argument("--quick", action="store_true", help="fewer examples; 2k and 4k only")
    args.add_argument("--json", action="store_true")
    args.add_argument("--seed", type=int, default=2024)
    args.add_argument("--threads", type=int, default=0)
    args.add_argument("--text", type=Path, default=HERE / "heldout.txt")
    given = args.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    text = given.text.read_text("utf-8")
    if len(text) < LEAST_TEXT:
        args.error(f"--text: {given.text} has {len(text)} characters, of {LEAST_TEXT} at least")
    results = {
        folder.name: measure(folder, given.quick, given.seed, text) for folder in given.model
    }
    print(table(results))
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
