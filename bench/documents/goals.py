"""What the figures were to be, as the project's issues have it, and which of them are not yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A figure of a record, and what it was to be: at least `aim`, or at most.

    `unit`: `x` (times as fast), `%` (of a fraction), `s`, `us` or `points`.
    """

    what: str
    file: str
    figure: str
    aim: float
    unit: str
    at_most: bool = False

    def missed(self, records: Mapping[str, Any]) -> bool:
        """Return whether the record falls short of the aim."""
        value = self._recorded(records)
        return value > self.aim if self.at_most else value < self.aim

    def row(self, records: Mapping[str, Any]) -> str:
        """Return the goal as a row of Markdown: what, aim, what is recorded."""
        aim = f"at {'most' if self.at_most else 'least'} {self._said(self.aim)}"
        return f"| {self.what} | {aim} | {self._said(self._recorded(records))} |"

    def _recorded(self, records: Mapping[str, Any]) -> float:
        return float(records[self.file]["figures"][self.figure])

    def _said(self, value: float) -> str:
        value = 100 * value if self.unit == "%" else value
        if self.unit == "s" and value < 1:
            return f"{value:.3f} s"
        digits = 0 if self.unit in {"%", "us"} else 2 if value < 9.995 else 1
        return f"{value:.{digits}f} {self.unit}"


_GPU, _KERNELS, _SPARSE, _OFFLOAD = "gpu_programs", "gpu_kernels", "sparse_attention", "moe_offload"
_OVER = "over transformers, GPU, 8 B shape"
_CLIENTS = "programs over clients of the same engine"

GOALS: tuple[Goal, ...] = (
    Goal("128 requests that share nothing, GPU, 8 B shape", _GPU, "w1_seconds", 2.40, "s", True),
    Goal("128 requests that share a prefix, GPU, 8 B shape", _GPU, "w2_seconds", 0.62, "s", True),
    Goal("8 prompts of 16 branches, GPU, 8 B shape", _GPU, "w3_seconds", 0.62, "s", True),
    Goal("one request, GPU, 8 B shape", _GPU, "w4_seconds", 1.10, "s", True),
    Goal(f"128 requests that share nothing {_OVER}", _GPU, "w1_vs_transformers", 2.0, "x"),
    Goal(f"128 requests that share a prefix {_OVER}", _GPU, "w2_vs_transformers", 2.5, "x"),
    Goal(f"8 prompts of 16 branches {_OVER}", _GPU, "w3_vs_transformers", 5.0, "x"),
    Goal(f"one request {_OVER}", _GPU, "w4_vs_transformers", 2.0, "x"),
    Goal("a decode step of one sequence, GPU, share of its roofline", _GPU,
         "decode_b1_fraction_of_roofline", 0.80, "%"),
    Goal("a decode step of 64 sequences, GPU, share of its roofline", _GPU,
         "decode_b64_fraction_of_roofline", 0.80, "%"),
    Goal("host time that a decode step shows, GPU", _GPU, "host_exposed_fraction", 0.025, "%",
         True),
    Goal("prefill of 8192 tokens, GPU, share of a matrix product's rate", _GPU,
         "prefill_fraction_of_matmul", 0.70, "%"),
    Goal("decode attention, GPU, share of a copy's bandwidth", _KERNELS,
         "decode_attention_fraction_of_copy_page16", 0.95, "%"),
    Goal("small decode attention, GPU, pages of 64, seconds over the best peer's", _KERNELS,
         "decode_over_best_peer_small_max_page64", 1.0, "x", True),
    Goal("small decode attention, GPU, pages of 16, seconds over the best peer's", _KERNELS,
         "decode_over_best_peer_small_max_page16", 1.0, "x", True),
    Goal("cascade or flat, GPU, seconds lost by the choice", _KERNELS, "cascade_regret_max", 0.05,
         "%", True),
    Goal("64 branches over a shared 16 Ki prefix, GPU, over reading it for each", _KERNELS,
         "cascade_16k_x64_speedup", 6.0, "x"),
    Goal("cascades whose time is within 15 % of the roofs', GPU", _KERNELS,
         "cascade_cells_within_15_percent_of_model", 1.0, "%"),
    Goal(f"{_CLIENTS}, CPU", "programs", "speedup_geomean", 1.5, "x"),
    Goal(f"{_CLIENTS}, 8 B shape, simulated", "programs", "simulated_8b_speedup_geomean", 1.5, "x"),
    Goal(f"{_CLIENTS}, 8 B shape, GPU", "programs_gpu", "gpu_speedup_geomean", 1.5, "x"),
    Goal("the same over an HTTP server, GPU", "programs_gpu",
         "gpu_http_speedup_geomean", 1.5, "x"),
    Goal("the program that gains least, CPU", "programs", "speedup_min", 1.0, "x"),
    Goal("the program that gains least, GPU", "programs_gpu", "gpu_speedup_min", 1.0, "x"),
    Goal("prefix hits, share of the ideal (worst program)", "programs", "hit_rate_of_ideal_min",
         1.0, "%"),
    Goal("constrained decoding over free, CPU", "programs", "constrained_vs_free", 1.0, "x"),
    Goal("constrained decoding over free, GPU", "programs_gpu", "gpu_constrained_vs_free", 1.0,
         "x"),
    Goal("where a quarter of the tokens are forced, over free decoding, CPU", "programs",
         "forced_speedup", 1.2, "x"),
    Goal("grammar work a token", "programs", "grammar_us_per_token", 20.0, "us", True),
    Goal("JSON of 1,000 random schemas that parses", "programs", "json_parse_rate", 1.0, "%"),
    Goal("compile 500 statements, check 10,000 rows", "programs", "compile_10k_rows_s", 5.0, "s",
         True),
    Goal("memory proof", "programs", "memory_proof_s", 1.0, "s", True),
    Goal("a GPU of 16 GB, Mixtral: decode over accelerate as shipped", _OFFLOAD, "vs_accelerate",
         10.0, "x"),
    Goal("its step, share of the link's bound", _OFFLOAD, "fraction_of_bound", 0.90, "%"),
    Goal("320 sequences, experts on the CPU too, over streaming alone", _OFFLOAD,
         "cpu_experts_gain_n320", 1.2, "x"),
    Goal("error of predicted steps, median", _OFFLOAD, "hrm_error_median", 0.10, "%", True),
    Goal("error of predicted steps, worst", _OFFLOAD, "hrm_error_max", 0.25, "%", True),
    Goal("Mixtral at the rate of all-resident: host memory saved, tokens exact", _OFFLOAD,
         "host_memory_saving", 2.0, "x"),
    Goal("search of a policy", _OFFLOAD, "search_s", 10.0, "s", True),
    Goal("hazard proof of a pipeline", _OFFLOAD, "proof_s", 5.0, "s", True),
    Goal("sparse attention (1/16) over dense, 128 Ki, batch 8, GPU", _SPARSE,
         "speedup_128k_batch8", 7.5, "x"),
    Goal("sparse attention (1/16) over dense, 128 Ki, batch 1, GPU", _SPARSE,
         "speedup_128k_batch1", 4.0, "x"),
    Goal("sparse attention of 2048 tokens over dense, 128 Ki, GPU", _SPARSE, "speedup_k2048_128k",
         12.0, "x"),
    Goal("sparse attention over torch's dense, in its paper's setting, GPU", _SPARSE,
         "published_setting_speedup", 14.1, "x"),
    Goal("sparse over dense decode steps at 64 Ki, GPU", _SPARSE, "end_to_end_64k_speedup", 1.9,
         "x"),
    Goal("sparse over streaming all keys from the host at 256 Ki, GPU", _SPARSE,
         "offload_256k_speedup", 16.3, "x"),
    Goal("perplexity that sparse attention loses", _SPARSE, "perplexity_loss", 0.01, "%", True),
    Goal("retrieval that sparse attention loses, mean", _SPARSE, "retrieval_loss_points", 2.0,
         "points", True),
    Goal("calibration of an 8 B shape, GPU", _SPARSE, "calibration_8b_s", 60.0, "s", True),
    Goal("calibration of a shipped model, CPU", _SPARSE, "calibration_tiny_s", 60.0, "s", True),
    Goal("decode of one sequence over transformers, CPU, tiny-dense", "cpu",
         "tiny_decode_vs_transformers", 2.0, "x"),
    Goal("decode of one sequence over llama.cpp, CPU, 1.1 B shape, f32", "cpu",
         "one_b_decode_vs_llamacpp", 1.0, "x"),
    Goal("decode of one sequence over llama.cpp, CPU, 1.1 B shape, bf16", "cpu",
         "one_b_decode_vs_llamacpp_bf16", 1.0, "x"),
    Goal("matrix-vector products in f32, CPU, share of the read bandwidth", "cpu",
         "matvec_f32_fraction", 0.95, "%"),
    Goal("matrix-vector products in bf16, CPU", "cpu", "matvec_bf16_fraction", 0.80, "%"),
    Goal("matrix-vector products in int8, CPU", "cpu", "matvec_int8_fraction", 0.75, "%"),
    Goal("decode attention, CPU, share of the read bandwidth", "cpu", "attention_fraction", 0.85,
         "%"),
    Goal("host work a decode step, CPU, batch 16", "cpu", "host_us_per_step_batch16", 100.0, "us",
         True),
    Goal("from `weft run` to the first token, kernels cached", "cpu", "first_token_warm_s", 3.0,
         "s", True),
    Goal("cold compile of tiny-dense", "cpu", "cold_compile_s", 60.0, "s", True),
)  # fmt: skip


def missed_table(records: Mapping[str, Any]) -> list[str]:
    """Return how many goals the records reach, and a table of the others."""
    missed = [goal for goal in GOALS if goal.missed(records)]
    return [
        f"Of {len(GOALS)} figures that weft set out for, {len(GOALS) - len(missed)} are reached. "
        "These are not:", "",
        "| figure | aim | recorded |", "|---|---|---|", *(goal.row(records) for goal in missed),
    ]  # fmt: skip
