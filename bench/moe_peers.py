"""accelerate as a peer of offloading: the same model in transformers, as shipped and pinned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class NoPeer(Exception):
    """A peer that cannot run here, and why."""


class Accelerate:
    """A model under accelerate's hooks: what exceeds the cap is copied for each forward.

    As shipped, weights lie in pageable memory; with `pinned`, the map of weights that the hooks
    copy from is pinned first. On a machine without a GPU the hooks copy within the CPU's memory:
    that runs the code, and its times mean nothing.
    """

    def __init__(
        self, folder: Path | None, config: Any, cap: int, pinned: bool, dtype: str = "bfloat16"
    ) -> None:
        try:
            from accelerate import cpu_offload, dispatch_model, infer_auto_device_map
        except ImportError as error:
            raise NoPeer(f"accelerate is not installed: {error}") from None
        torch.set_grad_enabled(False)
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda:0" if self.on_gpu else "cpu")
        model = _model(folder, config, getattr(torch, dtype))
        weights = dict(model.state_dict())
        if pinned and self.on_gpu:
            weights = {name: tensor.pin_memory() for name, tensor in weights.items()}
        if not self.on_gpu:
            self._model = cpu_offload(model, execution_device=self.device, state_dict=weights)
            return
        blocks = [type(model.model.layers[0]).__name__]
        memory: Any = {0: cap, "cpu": 1 << 40}
        places = infer_auto_device_map(model, memory, no_split_module_classes=blocks)
        self._model = dispatch_model(model, places, state_dict=weights)

    def decode(self, prompts: Sequence[Sequence[int]], new: int) -> list[float]:
        """Generate greedily for prompts of one length; return seconds of each decode step."""
        rows = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        out = self._model(input_ids=rows, use_cache=True, logits_to_keep=1)
        chosen, cache, times = out.logits[:, -1:].argmax(-1), out.past_key_values, []
        for _ in range(new - 1):
            start = time.perf_counter()
            out = self._model(input_ids=chosen, past_key_values=cache, use_cache=True)
            chosen = out.logits[:, -1:].argmax(-1)
            self._wait()
            times.append(time.perf_counter() - start)
        return times

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def rate(
    folder: Path | None, config: Any, cap: int, pinned: bool, prompts: Sequence[Sequence[int]],
    new: int, batches: Sequence[int],
) -> float:  # fmt: skip
    """Return accelerate's best decode rate in tokens/s over batch sizes; raises NoPeer.

    Prompts are padded to one length by repeating their tokens: accelerate has no ragged batch.
    A batch that does not fit is left out.
    """
    longest = max(map(len, prompts))
    padded = [(list(prompt) * longest)[:longest] for prompt in prompts]
    peer, found = Accelerate(folder, config, cap, pinned), []
    for batch in batches:
        try:
            times = peer.decode(padded[:batch], new)
        except torch.OutOfMemoryError:
            continue
        found.append(batch / statistics.median(times[1:] or times))
    if not found:
        raise NoPeer("no batch fits under the cap")
    return max(found)


def _model(folder: Path | None, config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    shape = MixtralConfig(
        vocab_size=config.vocab_size, hidden_size=config.width, intermediate_size=config.ffn,
        num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads, head_dim=config.head_dim,
        num_local_experts=config.experts, num_experts_per_tok=config.experts_per_token,
        tie_word_embeddings=config.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model: Any = MixtralForCausalLM(shape)
    model = model.to(dtype)
    model = model.to_empty(device="cpu").eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(0.0, parameter.shape[-1] ** -0.5)
        del name
    return model
