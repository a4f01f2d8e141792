"""What `--gpu-memory` and the options beside it stand for: a model between a GPU and the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..ir.diagnostics import RunError, reason
from .render import parse_size

if TYPE_CHECKING:
    from ..cost_model.policy import Policy


class BadPolicy(RunError):
    """A policy file that cannot be read, or holds no policy."""

    template = "{path}: {problem}"
    hint = "--offload-policy takes a file that weft tune writes"


class Divided(Protocol):
    """A command's options, of which these divide a model."""

    @property
    def gpu_memory(self) -> str:
        """A size, or empty."""
        ...

    @property
    def host_memory(self) -> str:
        """A size, or empty."""
        ...

    @property
    def offload(self) -> list[str] | None:
        """Texts NAME=VALUE."""
        ...

    @property
    def offload_policy(self) -> Path | None:
        """A file that weft tune wrote."""
        ...


def offload_options(options: Divided, target: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a command's stand for, beside those that are `given`."""
    from ..options import OffloadOptions

    found = OffloadOptions.parse(named_values("--offload", options.offload))
    if options.gpu_memory:
        found["gpu_memory"] = parse_size(options.gpu_memory)
    if options.host_memory:
        found["offload_host_memory"] = parse_size(options.host_memory)
    if options.offload_policy:
        found |= policy_options(read_policy(options.offload_policy), target, given)
    return found


def read_policy(path: Path) -> Policy:
    """Read a policy file; raises BadPolicy."""
    from ..cost_model.placement import PolicyError
    from ..cost_model.policy_text import parse

    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadPolicy(path=path, problem=reason(error)) from None
    except PolicyError as error:
        raise BadPolicy(path=path, problem=error.message) from None


def policy_options(policy: Policy, target: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options under which a policy is what it was made for: its sequences, the rows of
    its passes, the format of its weights unless another was asked for."""
    from ..options import GPU_DEFAULTS, Options

    usual = GPU_DEFAULTS["max_tokens"] if target == "cuda" else Options.max_tokens
    weights = policy.page_format if policy.page_format in ("f32", "bf16") else "bf16"
    return {
        "offload_policy": policy,
        "max_batch": policy.batch,
        "max_tokens": max(policy.prefill_tokens or usual, policy.batch),
        "weights": given.get("weights", weights),
    }


def named_values(flag: str, texts: list[str] | None) -> dict[str, str]:
    """Return what a flag of NAME=VALUE, perhaps several times, gives; raises BadOption."""
    from ..options import BadOption

    found: dict[str, str] = {}
    for text in texts or []:
        name, _, value = (part.strip() for part in text.partition("="))
        if name in found:
            raise BadOption(problem=f"{flag} {name}= is given twice")
        found[name] = value
    return found
