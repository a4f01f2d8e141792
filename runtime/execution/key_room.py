"""How many pages of keys host memory holds, and how many rows of them a device's cache."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.diagnostics import CapacityError
from ...ir.display.units import sizes
from ...ir.model import ModelConfig
from ...ir.sparse.policy import SparsePolicy


class NoKeyRoom(CapacityError):
    """Bounds of memory in which keys across a link cannot be kept."""

    template = "{what} needs {need} {where}, of which there are {have}: {over} are missing"
    hint = "raise {option}, or give the policy a smaller k, ratio or cap"


@dataclass(frozen=True)
class KeyCosts:
    """Bytes by what they are for: a page in host memory; on the device a page (its labels, its
    tokens' places in the cache and in lists, and layers that stay there whole) and a row of the
    cache in all layers; and what is there once."""

    host_page: int
    device_page: int
    row: int
    fixed: int

    @staticmethod
    def of(
        config: ModelConfig, policy: SparsePolicy, page: int, element: int, fixed: int = 0,
        lists: int = 0,
    ) -> KeyCosts:  # fmt: skip
        """Return the costs of a model's pages of so many tokens, `element` bytes a number; `lists`
        bytes of a page are there once for all layers."""
        whole = [bool(config.windows[layer]) or layer in policy.dense
                 for layer in range(config.layers)]  # fmt: skip
        sparse, dense = whole.count(False), whole.count(True)
        token = 2 * config.kv_heads * config.head_dim * element
        label = config.kv_heads * (policy.label_bytes(config.head_dim) + 4)
        scratch = 6 * 4 * config.kv_heads
        return KeyCosts(
            sparse * page * token, page * (sparse * label + dense * token) + lists,
            sparse * (token + 8 * config.kv_heads) + scratch, fixed,
        )  # fmt: skip


@dataclass(frozen=True)
class KeyRoom:
    """What fits: pages of keys in host memory, rows of each sparse layer's cache on the device."""

    pages: int
    rows: int

    @staticmethod
    def within(
        costs: KeyCosts, policy: SparsePolicy, context: int, page: int, device: int, host: int
    ) -> KeyRoom:  # fmt: skip
        """Return what fits `device` and `host` bytes; raises NoKeyRoom where one sequence of what
        `context` allows does not."""
        pages = host // costs.host_page
        if pages < 1:
            raise _missing("a page of keys", "of host memory", costs.host_page, host,
                           "--kv-host-memory")  # fmt: skip
        wanted = min(pages, -(-context // page))
        least = _rounded(policy.budget(min(context, wanted * page)), page)
        need = costs.fixed + wanted * costs.device_page + least * costs.row
        if need > device:
            what = f"one sequence of {wanted * page} tokens, of which {least} are read,"
            raise _missing(what, "of GPU memory", need, device, "--kv-memory")
        pages = min(pages, (device - costs.fixed - least * costs.row) // costs.device_page)
        left = device - costs.fixed - pages * costs.device_page
        return KeyRoom(pages, min(left // costs.row // page, pages) * page)


def _missing(what: str, where: str, need: int, have: int, option: str) -> NoKeyRoom:
    counts = sizes(need=need, have=have, over=need - have)
    return NoKeyRoom(what=what, where=where, option=option, **counts)


def _rounded(tokens: int, page: int) -> int:
    return -(-tokens // page) * page
