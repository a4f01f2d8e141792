"""Writes the tables of figures in README.md and bench/README.md, and those of offloading and of
sparse attention in docs/ and docs/experiments/, from records.

`python -m bench.document` brings them up to date, and the figures that sentences quote
(`documents/prose.py`). No figure is typed by hand: a table stands between `<!-- figures: NAME -->`
and `<!-- end -->`, and a test compares it with the files.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .documents.goals import missed_table
from .documents.offload import OFFLOAD_TABLES, measured_at
from .documents.prose import QUOTED, quote
from .documents.sparse import SPARSE_TABLES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "bench" / "README.md",
             *(ROOT / "docs" / folder / f"{name}.md" for folder in ("", "experiments")
               for name in ("offload", "sparse_attention")))  # fmt: skip
_TABLE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def times(value: float) -> str:
    """Return a ratio: 1.85 x."""
    return f"{value:.2f} x" if value < 9.995 else f"{value:.1f} x"


def percent(value: float) -> str:
    """Return a fraction: 86 %."""
    return f"{100 * value:.0f} %"


def seconds(value: float) -> str:
    """Return seconds."""
    return f"{value:.1f} s"


def microseconds(value: float) -> str:
    """Return microseconds."""
    return f"{value:.0f} us"


def tenths(value: float) -> str:
    """Return a fraction: 0.8 %."""
    return f"{100 * value:.1f} %"


def whole(value: float) -> str:
    """Return a count: 22."""
    return f"{value:.0f}"


def points(value: float) -> str:
    """Return percentage points: 1.6 points."""
    return f"{value:.1f} points"


@dataclass(frozen=True)
class Line:
    """One figure: what it is, where it is recorded, and the command that prints it."""

    what: str
    file: str
    figure: str
    section: str
    form: Callable[[float], str]
    command: str


_ONLY = "python -m bench.cpu --only {}"
_PROGRAMS = "python -m bench.gpu_programs --only {}"
_KERNELS = "python -m bench.gpu_kernels --only {}"


def _cpu(what: str, figure: str, section: str, form: Callable[[float], str]) -> Line:
    return Line(what, "cpu", figure, section, form, _ONLY.format(section))


def _workload(what: str, name: str, ending: str, form: Callable[[float], str]) -> Line:
    return Line(what, "gpu_programs", name + ending, name, form, _PROGRAMS.format(name))


def _setting(what: str, setting: str, name: str, ending: str, options: str) -> Line:
    """Return a share that another model or setting reaches, whose figures have names of its own."""
    section = f"{setting}_{name}"
    command = f"python -m bench.gpu_programs {options} --only {name}"
    if setting.endswith("tp2"):
        command = command.replace("python", "torchrun --nproc-per-node 2", 1)
    return Line(what, "gpu_programs", section + ending, section, percent, command)


def _sparse(what: str, figure: str, section: str, form: Callable[[float], str]) -> Line:
    command = f"python -m bench.sparse_attention --only {section}"
    return Line(what, "sparse_attention", figure, f"{section} tiny-moe", form, command)


def _sparse_gpu(what: str, figure: str, section: str) -> Line:
    command = f"python -m bench.sparse_speed --only {section}"
    return Line(what, "sparse_attention", figure, f"speed {section}", times, command)


def _offload(what: str, figure: str, section: str, form: Callable[[float], str]) -> Line:
    command = f"python -m bench.moe_offload --only {section}"
    return Line(what, "moe_offload", figure, section, form, command)


def _kernel(what: str, figure: str, section: str, form: Callable[[float], str]) -> Line:
    return Line(what, "gpu_kernels", figure, section, form, _KERNELS.format(section))


def _programs(what: str, figure: str, form: Callable[[float], str]) -> Line:
    """Return a figure over all programs; they are recorded together."""
    return Line(what, "programs", figure, "essay_judge", form, "python -m bench.programs")


def _programs_gpu(what: str, figure: str, section: str, form: Callable[[float], str]) -> Line:
    command = f"python -m bench.programs --target cuda --only {section}"
    if section != "constrained":  # a figure over all programs
        command = "python -m bench.programs --target cuda"
    return Line(what, "programs_gpu", figure, section, form, command)


def _http_gpu(what: str, figure: str, form: Callable[[float], str]) -> Line:
    command = "python -m bench.programs --http --target cuda"
    return Line(what, "programs_gpu", f"gpu_http_{figure}", "http", form, command)


_SETTINGS = (
    ("fp8_kv_fp8", "--weights fp8 --kv fp8", "GPU, fp8 weights and keys"),
    ("qwen3-30b-a3b", "--model random:qwen3-30b-a3b", "GPU, 30 B mixture of experts, 3 B active"),
    ("tp2", "--tp 2", "two GPUs"),
)
"""Settings by the names of their figures, their options, and what they are."""

HEADLINES: tuple[Line, ...] = (
    _workload("GPU, 8 B shape: 128 requests that share one prefix of 2048 tokens, over "
              "transformers",
              "w2", "_vs_transformers", times),
    _workload("GPU: 8 prompts, 16 branches each, over transformers", "w3", "_vs_transformers",
              times),
    _workload("GPU: decode step of one sequence, share of its roofline", "decode_b1",
              "_fraction_of_roofline", percent),
    _workload("GPU: prefill of 8192 tokens, share of a matrix product's rate", "prefill",
              "_fraction_of_matmul", percent),
    _programs_gpu("GPU, 8 B shape: programs of several calls, over the same engine driven request "
                  "by request (geometric mean)", "gpu_speedup_geomean", "multi_chain", times),
    _http_gpu("GPU, 8 B shape: the same over an HTTP server of the same engine (geometric "
              "mean)", "speedup_geomean", times),
    _kernel("GPU: decode attention that reads 512 MiB or more, pages of 16, share of a "
            "copy's bandwidth (worst case)", "decode_attention_fraction_of_copy_page16", "decode",
            percent),
    _kernel("GPU: attention of 64 branches over a shared 16 Ki prefix, over reading it for each",
            "cascade_16k_x64_speedup", "cascade", times),
    _sparse_gpu("GPU, 8 B shape: decode step of 8 sequences of 64 Ki, sparse (1/16) over dense",
                "end_to_end_64k_speedup", "end_to_end"),
    _sparse_gpu("GPU: sparse decode with keys in host memory at 256 Ki, over streaming all keys",
                "offload_256k_speedup", "offload"),
    _offload("GPU of 16 GB, Mixtral of 16 layers: decode, over accelerate as shipped",
             "vs_accelerate", "accelerate", times),
    _programs("prefix hits of all 26 programs, share of the ideal (worst program)",
              "hit_rate_of_ideal_min", percent),
    _programs("CPU, one thread, tiny-dense: programs of several calls, over the same engine driven "
              "request by request (geometric mean)", "speedup_geomean", times),
    _programs("the same for an 8 B shape, simulated", "simulated_8b_speedup_geomean", times),
    _cpu("CPU, tiny-dense: decode of one sequence, over llama.cpp", "tiny_decode_vs_llamacpp",
         "peers-tiny", times),
    _cpu("CPU, tiny-dense: decode of 16 sequences, over llama.cpp",
         "tiny_decode_vs_llamacpp_batch16", "peers-tiny", times),
    _cpu("from `weft run` to the first token, kernels cached", "first_token_warm_s", "startup",
         seconds),
)  # fmt: skip
"""What the README shows."""

REST: tuple[Line, ...] = (
    _workload("GPU, 8 B shape: 128 requests that share nothing, over transformers",
              "w1", "_vs_transformers", times),
    _workload("GPU: one request, over transformers", "w4", "_vs_transformers", times),
    _workload("GPU: decode step of 64 sequences, share of its roofline", "decode_b64",
              "_fraction_of_roofline", percent),
    _workload("GPU: 128 requests that share nothing, share of the floor", "w1",
              "_fraction_of_floor", percent),
    _workload("GPU: one shared prefix, share of the floor", "w2", "_fraction_of_floor", percent),
    _workload("GPU: 8 prompts of 16 branches, share of the floor", "w3", "_fraction_of_floor",
              percent),
    _workload("GPU: one request, share of the floor", "w4", "_fraction_of_floor", percent),
    Line("GPU: decode step of one sequence of 128 Ki, share of its roofline", "gpu_programs",
         "decode_128k_fraction_of_roofline", "long", percent, _PROGRAMS.format("long")),
    Line("GPU: decode step of 256 sequences, share of its roofline", "gpu_programs",
         "decode_b256_fraction_of_roofline", "wide", percent, _PROGRAMS.format("wide")),
    *(_setting(what, setting, name, ending, options)
      for setting, options, kind in _SETTINGS
      for what, name, ending in (
          (f"{kind}: decode step of one sequence, share of its roofline", "decode_b1",
           "_fraction_of_roofline"),
          (f"{kind}: of 64 sequences", "decode_b64", "_fraction_of_roofline"),
          (f"{kind}: prefill of 8192 tokens, share of a bf16 product's rate", "prefill",
           "_fraction_of_matmul"),
      )),
    *(_setting(f"two GPUs, 30 B mixture of experts: {what}", "qwen3-30b-a3b_tp2", name,
               "_fraction_of_roofline", "--model random:qwen3-30b-a3b --tp 2")
      for what, name in (("decode step of one sequence, share of its roofline", "decode_b1"),
                         ("of 64 sequences", "decode_b64"))),
    Line("GPU: 30 B mixture of experts, a checkpoint folder of 61 GB in memory, until it is ready",
         "gpu_programs", "qwen3-30b-a3b_folder_load_s", "qwen3-30b-a3b_folder", seconds,
         "python -m bench.gpu_folder --model random:qwen3-30b-a3b --work FOLDER"),
    _programs_gpu("GPU, 8 B shape: how many of the 26 programs were so measured", "gpu_programs",
                  "multi_chain", whole),
    _programs_gpu("the one that gains least", "gpu_speedup_min", "multi_chain", times),
    _http_gpu("GPU: how many of the 26 programs were measured over HTTP", "programs", whole),
    _http_gpu("the one that gains least over HTTP", "speedup_min", times),
    _http_gpu("HTTP clients' seconds over those of clients in the engine's process",
              "over_requests_geomean", times),
    _http_gpu("a request over HTTP, with an engine that answers at once", "us_a_request_1",
              microseconds),
    _http_gpu("of 64 requests at once: between answers", "us_a_request_64", microseconds),
    _programs_gpu("GPU: constrained decoding a token, over free decoding (slower of two sizes of a "
                  "batch)", "gpu_constrained_vs_free", "constrained", times),
    _programs_gpu("GPU: a record of which two thirds of the tokens are forced, one sequence, over "
                  "free decoding", "gpu_forced_speedup", "constrained", times),
    _kernel("GPU: decode attention, pages of 64, share of a copy (worst case)",
            "decode_attention_fraction_of_copy_page64", "decode", percent),
    _kernel("GPU: decode attention, pages of 128, share of a copy (worst case)",
            "decode_attention_fraction_of_copy_page128", "decode", percent),
    _kernel("GPU: decode attention below 512 MiB, pages of 64 as the engine's, seconds over the "
            "best peer's (worst case)", "decode_over_best_peer_small_max_page64", "peers", times),
    _kernel("the same with pages of 16, from 512 MiB on too",
            "decode_over_best_peer_max_page16", "peers", times),
    _kernel("GPU: cascade or flat, seconds lost by the choice (worst of the grid)",
            "cascade_regret_max", "cascade", percent),
    _kernel("GPU: cascades of the grid within 15 % of the roofs alone",
            "cascade_cells_within_15_percent_of_model", "cascade", percent),
    _kernel("the same with 8 us for launches, as the model's examples have (ours take less)",
            "cascade_cells_within_15_percent_of_model_of_examples", "cascade", percent),
    _kernel("the same of what is predicted with measured latencies",
            "cascade_cells_within_15_percent_of_planned", "cascade", percent),
    _sparse_gpu("GPU: sparse attention (1/16), 128 Ki, batch 8, over our dense kernel",
                "speedup_128k_batch8", "operation"),
    _sparse_gpu("the same at batch 1", "speedup_128k_batch1", "operation"),
    _sparse_gpu("the same of 2048 tokens, batch 8", "speedup_k2048_128k", "operation"),
    _sparse_gpu("GPU: sparse attention, 32/32 heads, 16 Ki, batch 32, over torch's",
                "published_setting_speedup", "published"),
    _offload("GPU of 16 GB, Mixtral of 16 layers: decode, over accelerate with pinned weights",
             "vs_accelerate_pinned", "accelerate", times),
    _offload("its step, share of the bound", "fraction_of_bound", "bound", percent),
    _offload("320 sequences, experts on the CPU too, over streaming alone", "cpu_experts_gain_n320",
             "cpu_experts", times),
    _offload("search of a policy for Mixtral, 16 and 32 layers: the slower one", "search_s",
             "planning", seconds),
    _offload("hazard proof of its pipeline of 32 layers, five schedules: the slowest", "proof_s",
             "planning", seconds),
    _offload("its decode steps: the worst error of their prediction", "hrm_error_max", "errors",
             percent),
    _programs("CPU, one thread: the program that gains least", "speedup_min", times),
    _programs("simulated 8 B: the program that gains least", "simulated_8b_speedup_min", times),
    _programs("CPU: constrained decoding a token, over free decoding", "constrained_vs_free",
              times),
    _programs("CPU: where a quarter of the tokens are forced, over free decoding",
              "forced_speedup", times),
    _programs("JSON of 1,000 random schemas that parses", "json_parse_rate", percent),
    _programs("and is tokenized as its text alone would be", "canonical_rate", percent),
    _programs("grammar work a token", "grammar_us_per_token", microseconds),
    Line("compile 500 statements, check 10,000 rows", "programs", "compile_10k_rows_s",
         "compile_time", seconds, "python -m bench.programs"),
    _cpu("CPU, tiny-dense: decode of one sequence, over transformers",
         "tiny_decode_vs_transformers", "peers-tiny", times),
    _cpu("CPU, 1.1 B shape, f32: decode of one sequence, over llama.cpp",
         "one_b_decode_vs_llamacpp", "peers-1b", times),
    _cpu("CPU, 1.1 B shape, bf16: decode of one sequence, over llama.cpp",
         "one_b_decode_vs_llamacpp_bf16", "peers-1b", times),
    _cpu("CPU, tiny-dense: decode of 16 sequences, over transformers",
         "tiny_decode_vs_transformers_batch16", "peers-tiny", times),
    _cpu("CPU: matrix-vector products in f32, share of the read bandwidth", "matvec_f32_fraction",
         "kernels", percent),
    _cpu("CPU: in bf16", "matvec_bf16_fraction", "kernels", percent),
    _cpu("CPU: in int8", "matvec_int8_fraction", "kernels", percent),
    _cpu("CPU: decode attention, share of the read bandwidth", "attention_fraction", "kernels",
         percent),
    _cpu("CPU: host work a decode step, batch 16", "host_us_per_step_batch16", "host",
         microseconds),
    _sparse("sparse attention, adaptive with its tail: perplexity lost (worse model)",
            "perplexity_loss", "perplexity", tenths),
    _sparse("the same without its tail", "perplexity_loss_no_tail", "perplexity", tenths),
    _sparse("sparse attention, adaptive with its tail: retrieval lost, mean (worse model)",
            "retrieval_loss_points", "retrieval", points),
    Line("GPU: calibration of the 8 B shape for sparse attention, 8192 tokens", "sparse_attention",
         "calibration_8b_s", "speed calibration", seconds,
         "python -m bench.sparse_speed --only calibration"),
    _sparse("CPU: calibration of the slower shipped model, 8192 tokens", "calibration_tiny_s",
            "calibration", seconds),
    _cpu("from `weft run` to the first token, nothing cached", "first_token_cold_s", "startup",
         seconds),
)  # fmt: skip
"""What only bench/README.md shows besides."""

LINES = HEADLINES + REST
TABLES = {"headlines": HEADLINES, "all": LINES}


def read_records(folder: Path = RESULTS) -> dict[str, Any]:
    """Return all records by the names of their files."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def table(name: str, folder: Path = RESULTS) -> str:
    """Return a table of figures as Markdown, with where each was recorded below it."""
    records = read_records(folder)
    if name == "missed":
        return "\n".join(missed_table(records)) + "\n"
    if name in OFFLOAD_TABLES:
        record = records["moe_offload"]
        found = [*dict.fromkeys(_source(each, "moe_offload") for each in measured_at(name, record))]
        notes = found if len(found) == 1 else _numbered(found)
        return "\n".join([*OFFLOAD_TABLES[name](record["figures"]), "", *notes]) + "\n"
    if name in SPARSE_TABLES:
        record, (rows_of, sections) = records["sparse_attention"], SPARSE_TABLES[name]
        made = [_source(record["sections"][section], "sparse_attention") for section in sections]
        rows = [*rows_of(record["figures"]), "", *_numbered(dict.fromkeys(made))]
        return "\n".join(rows) + "\n"
    rows = ["| figure | value | command | recorded |", "|---|---|---|---|"]
    sources: list[str] = []
    for line in TABLES[name]:
        record = records[line.file]
        source = _source(record["sections"][line.section], line.file)
        if source not in sources:
            sources.append(source)
        value = line.form(record["figures"][line.figure])
        number = sources.index(source) + 1
        rows.append(f"| {line.what} | {value} | `{line.command}` | {number} |")
    return "\n".join([*rows, "", *_numbered(sources)]) + "\n"


def _numbered(sources: Iterable[str]) -> list[str]:
    """Return where figures were recorded, a line each."""
    notes = [f"{number}. {source}" for number, source in enumerate(sources, 1)]
    return ["Recorded on:", "", *notes]


def update(text: str, folder: Path = RESULTS) -> str:
    """Return a document with every table between its markers as the files have it."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(found[2], folder)}{found[3]}", text)


def _source(section: dict[str, Any] | None, file: str) -> str:
    if section is None:
        return f"not recorded yet (`bench/results/{file}.json`)"
    machine = section["machine"]
    where = machine.get("gpu", "none")
    if where == "none":
        where = f"{machine.get('cpu', 'no GPU')}, {machine['cores']} cores"
    return f"{where}; commit {section['commit']}, {section['date']} (`bench/results/{file}.json`)"


def main() -> None:
    """Bring the documents up to date."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()  # it takes no options
    for path in DOCUMENTS:
        path.write_text(update(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name in QUOTED:
        path = ROOT / name
        path.write_text(quote(path.read_text(encoding="utf-8"), name, read_records()), "utf-8")


if __name__ == "__main__":
    main()
