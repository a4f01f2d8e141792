"""The executor of compiled kernels: a step is a flat list of launches over preallocated memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ir.core import Operation
from ...ir.model import ModelConfig, Rope
from ..devices.zeros import zeros
from .dtypes import TORCH
from .executor import PAGE_SIZE, by_name, check_step, page_bytes
from .host_keys import HostKeys, Staged
from .host_products import ProductChoice
from .library import Launch, library_threads
from .narrow_steps import NarrowSteps
from .ranks import announcer
from .recipe import Memory, Recipe
from .short_steps import usual
from .slot_copies import HostSlots
from .sparse_decode import SparseDecode, decode_rows, grouped, split
from .step import StepInput
from .timing import BoundLaunch, host_seconds, launch_seconds, step_seconds
from .token_rows import KeptRows
from .weights import Weight

KEPT_PLANS = 512

Watcher = Callable[[Sequence[tuple[str, str]], Sequence[Launch]], None]


class CompiledExecutor:
    """Runs lowered functions of one model; see `step.ModelExecutor`.

    `functions` are pairs of the most rows that a decode-only step may have for it, and the
    lowered graph.func with its memory plan; the last one serves every other step. `convert` turns
    a tensor into what kernels take with the least work a launch (default: TVM's own tensors).
    Where the library's workers would spin in the kernels' way it has `library_threads` threads
    while a step runs (0: as many as torch is set to). `host` has the keys, where they lie across a
    link, and `staged` the tasks of each function that launches on several queues. `products` says
    what multiplies the f32 rows of long steps; `short` says which steps of chunks run as decode
    steps, `short_rows` tokens at a time, for which the last of these has memory (0: as many as such
    a step may have rows).
    Of ranks the first lets the others know of every step and page copy before it is done here.
    """

    timed_in_order = True
    tokens_are_dear = True
    """A row of a full step takes no less than a token of a prompt (tiny-dense, AMD, one thread: 0.2
    ms of 16 rows behind 300 keys, 0.1 of a prompt)."""

    def __init__(
        self, config: ModelConfig, functions: Sequence[tuple[int, Operation]],
        kernels: Mapping[str, Any], weights: Mapping[str, Weight], *, num_pages: int,
        max_batch: int, max_tokens: int, kv_format: str = "f32", device: str = "cpu",
        page_size: int = PAGE_SIZE,
        convert: Callable[[Tensor], Any] | None = None,
        sparse: SparseDecode | None = None, library_threads: int = 0,
        host: HostKeys | None = None, staged: Sequence[Staged | None] = (),
        products: ProductChoice | None = None, short_rows: int = 0,
    ) -> None:  # fmt: skip
        self.config, self.host = config, host
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.page_size, self.num_pages = page_size, num_pages
        self.max_batch, self.max_tokens = max_batch, max_tokens
        self.page_bytes = page_bytes(config, TORCH[kv_format].itemsize, page_size)
        self.page_bytes += sparse.page_bytes if sparse else 0
        pool = (config.layers, num_pages, config.kv_heads, page_size, config.head_dim)
        self._pools = [] if host else [
            zeros(pool, TORCH[kv_format], device) for _ in "kv"
        ]  # fmt: skip
        k, v = (host.k, host.v) if host else (list(pool.unbind()) for pool in self._pools)
        # Labels of slots, and keys across a link, are not copied so.
        self.copies_slots = sparse is None and not host
        self._slots = HostSlots((k, v)) if self.copies_slots and device == "cpu" else None
        cos, sin = rope_tables(config.rope, config.head_dim, config.context_length)
        size = max(function["memory"]["bytes"] for _, function in functions)
        arena = zeros((size,), torch.uint8, device)
        tables = {"cos": cos.to(device), "sin": sin.to(device)}
        layers = host.layers if host else sparse.layers if sparse else {}
        tables |= host.tables if host else {}
        self.products = products or ProductChoice()
        self.decode_rows = max((rows for rows, _ in functions), default=0)
        """The most rows of a step for which there are kernels for decode; 0: there are none."""
        self.short_rows = max(short_rows, self.decode_rows)
        functions = [(self._most_rows(rows, function), function) for rows, function in functions]
        memory = Memory(kernels, weights, k, v, tables, arena, convert or tvm_tensor(), layers,
                        product=self.products.library)  # fmt: skip
        narrow = [(rows, function) for rows, function in functions if function.attribute("head")]
        self._narrow = NarrowSteps(narrow, memory, max_batch, config.vocab_size) if narrow else None
        functions = [pair for pair in functions if pair not in narrow]
        recipes = [(rows, function.attribute("attention"), Recipe(function, memory))
                   for rows, function in functions]  # fmt: skip
        tasks = staged or [None] * len(recipes)
        self._staged = {id(recipe): found
                        for (*_, recipe), found in zip(recipes, tasks, strict=True)}  # fmt: skip
        self._kernels = kernels
        self._recipes = [(rows, recipe) for rows, selects, recipe in recipes if not selects]
        self._sparse_recipes = [(rows, recipe) for rows, selects, recipe in recipes if selects]
        self._sparse = sparse
        self._library_threads = library_threads
        self.short = usual(all(each.data.dtype == torch.float32 for each in weights.values()))
        self._logits = torch.empty(max_batch, config.vocab_size)
        self._plans: dict[tuple[int, bool], tuple[StepInput, list[Launch], Tensor, Recipe]] = {}
        self._token_rows = KeptRows()
        self.watcher: Watcher | None = None
        """Runs a step's launches in this one's stead: a trace that times each."""
        self.announcer = announcer(page_size)

    def _most_rows(self, rows: int, function: Operation) -> int:
        """Return the rows that a function of decode steps has memory for."""
        wide = rows == self.decode_rows and rows and not function.attribute("attention")
        return self.short_rows if wide else rows

    @property
    def short_tokens(self) -> int:
        """Steps of chunks with so many tokens or fewer run as decode steps."""
        return self.short.parts * self.decode_rows

    @property
    def takes_words(self) -> bool:
        """Whether it has `forward_narrow`."""
        return self._narrow is not None and self._sparse is None

    def forward(self, step: StepInput) -> Tensor:
        """Return logits [R, V] f32, a view that the next call overwrites."""
        sparse = self._sparse is not None and self._sparse.wanted(step)
        if sparse and step.is_decode and (groups := self._groups(step)):
            return self._parts(step, grouped(step, groups))
        known = self._plans.get((id(step), sparse))
        if known is None:
            check_step(step, self.max_batch, self.max_tokens)
        if self.announcer is not None:
            self.announcer.step(step, None)
        if known is None:
            if sparse and (not step.is_decode or step.tokens.shape[0] > self.decode_rows):
                return self._mixed(step)
            if self.short.takes(step, self.decode_rows):
                return self._short(step)
            known = self._plan(step, sparse)
        self._launch(known[3], known[1], step.copies)
        return known[2]

    def _launch(self, recipe: Recipe, launches: list[Launch], copies: Tensor | None) -> None:
        if copies is not None and self._slots is not None:
            launches = self._slots.among(copies, launches, recipe.writes)
        if self._library_threads and recipe.calls_library:
            with library_threads(self._library_threads):
                self._run(recipe, launches)
        else:
            self._run(recipe, launches)

    def _run(self, recipe: Recipe, launches: list[Launch]) -> None:
        if self.watcher is not None:
            self.watcher(recipe.kernels, launches)
        else:
            self._run_all(recipe, launches)

    def _run_all(self, recipe: Recipe, launches: Iterable[Launch]) -> None:
        """Launch a step, on several queues where its recipe has tasks on them."""
        staged = self._staged.get(id(recipe))
        if staged is not None and self.host is not None:
            staged.run(list(launches), self.host.device)
            return
        for function, arguments in launches:
            function(*arguments)

    def _short(self, step: StepInput) -> Tensor:
        """Run a short step of chunks by dense kernels of decode steps, a few tokens at a time."""
        found = self._logits[: step.logits_rows.shape[0]]
        for part, wanted in self._token_rows(step, self.short_rows):
            known = self._plans.get((id(part), False))
            _, launches, logits, recipe = known or self._plan(part, sparse=False)
            self._launch(recipe, launches, step.copies)
            if len(wanted):
                # By NumPy: torch would wake its own pool.
                found.numpy()[wanted] = logits.numpy()[: len(wanted)]
        return found

    def forward_narrow(self, step: StepInput, words: Tensor) -> Tensor:
        """Return logits as `forward` does, of some `words` [W] i32 only: column j is the logit of
        words[j], and what stands behind them is of no matter."""
        narrow = self._narrow
        assert narrow is not None
        known = narrow.known(step, words)
        if known is not None:
            run, logits = known
            self._launch(*run, step.copies)
            return logits
        check_step(step, self.max_batch, self.max_tokens)
        short = self.short.takes(step, self.decode_rows)
        parts = self._token_rows(step, self.short_rows) if short else None
        for recipe, launches in narrow.runs(step, words, self._extents, parts):
            self._launch(recipe, launches, step.copies)
        return narrow.logits(step.logits_rows.shape[0], len(words))

    def _mixed(self, step: StepInput) -> Tensor:
        """Run a step of decode rows, some of them sparse, and prompts: these are read whole."""
        return self._parts(step, split(step, decode_rows(step), self.decode_rows))

    def _groups(self, step: StepInput) -> list[tuple[int, int]]:
        """Return the runs of decode rows that are run apart, as a cache cannot hold what all read;
        nothing where it does."""
        if self.host is None or self._sparse is None:
            return []
        budgets = self._sparse.known(len(step.kv_lengths))
        return self.host.groups(np.minimum(step.kv_lengths.numpy(), budgets))

    def _parts(
        self, step: StepInput, parts: Iterable[tuple[StepInput, np.ndarray]]
    ) -> Tensor:  # fmt: skip
        """Run a step part by part; each says which rows of logits it gives."""
        found = torch.empty(step.logits_rows.shape[0], self.vocab_size)
        for part, wanted in parts:
            logits = self.forward(part)
            if len(wanted):
                found.numpy()[wanted] = logits.numpy()
        return found

    def describe(self) -> list[tuple[str, str]]:
        """Return what a person should know of keys that lie across a link."""
        return [] if self.host is None else self.host.describe()

    def launches(self, step: StepInput) -> list[BoundLaunch]:
        """Return the launches of a step, to be timed: they may run in any order, and repeatedly."""
        return self._numbered(step, self._selects(step))

    def dense_launches(self, step: StepInput) -> list[BoundLaunch]:
        """Return them for a step that reads all keys, as the parts of a short step do: it may have
        more rows than decode steps."""
        return self._numbered(step, sparse=False)

    def _numbered(self, step: StepInput, sparse: bool) -> list[BoundLaunch]:
        recipe = self._recipe(step, sparse)
        return numbered(recipe, self._bind(recipe, step, sparse)[0])

    def seconds(self, run: Callable[[], None]) -> float:
        """Return how long some launches take on this device."""
        return host_seconds(run)

    def group_seconds(
        self, launches: Sequence[BoundLaunch], groups: Iterable[Sequence[int]]
    ) -> list[float]:
        """Return the mean seconds of each group of a step's launches, as they are in that step.

        On a CPU all run in their order, since its caches hold what they hold there: one kernel's
        over and over would find a small model's weights in them. On a GPU each group is a graph.
        """
        if not self.timed_in_order:
            return [launch_seconds([launches[n] for n in group], self.seconds) for group in groups]
        times = step_seconds(launches)
        return [mean(times[number] for number in group) for group in groups]

    def _selects(self, step: StepInput) -> bool:
        """Whether a decode step selects keys; then its budgets are in place."""
        return self._sparse is not None and step.is_decode and self._sparse.wanted(step)

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of keys and values, and of labels, in all layers."""
        if self.announcer is not None:
            self.announcer.copy_page(source, target)
        for pool in self._pools:
            pool.select(1, target).copy_(pool.select(1, source))
        if self.host is not None:
            forget = self._kernels[f"keys_forget_{self.config.kv_heads}"]
            self.host.copy_page(source, target, forget.launch)
        if self._sparse is not None:
            self._sparse.copy_page(source, target)

    def _plan(
        self, step: StepInput, sparse: bool
    ) -> tuple[StepInput, list[Launch], Tensor, Recipe]:
        """Bind a step's tensors to launches; decode steps, whose views come again, are kept."""
        recipe = self._recipe(step, sparse)
        plan = (step, *self._bind(recipe, step, sparse), recipe)
        if step.is_decode and step.copies is None:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[id(step), sparse] = plan  # holds the step, so that its id stays its own
        return plan

    def _bind(
        self, recipe: Recipe, step: StepInput, sparse: bool = False
    ) -> tuple[list[Launch], Tensor]:
        """Return a step's launches, those of the library with its rows rounded up, and logits."""
        tokens, filled = step.tokens.shape[0], None
        if recipe is self._recipes[-1][1]:  # its memory is for all tokens that a step may have
            rows = self.products.library.rows(tokens, self.max_tokens)
            filled = {"T": rows} if rows > tokens else None
        return recipe.bind(self._inputs(step, sparse), self._extents(step), filled=filled)

    def _inputs(self, step: StepInput, sparse: bool) -> dict[str, Tensor]:
        inputs = by_name(step)
        if sparse and self._sparse is not None:
            inputs |= self._sparse.budgets(step)
        return inputs

    def _recipe(self, step: StepInput, sparse: bool = False) -> Recipe:
        """Return the recipe of the smallest regime that takes the step."""
        rows = step.tokens.shape[0] if step.is_decode else self.max_tokens + 1
        recipes = self._sparse_recipes if sparse else self._recipes
        fitting = (recipe for limit, recipe in recipes if rows <= limit)
        return next(fitting, self._recipes[-1][1])

    def _extents(self, step: StepInput) -> dict[str, int]:
        tokens, sequences = step.tokens.shape[0], step.kv_lengths.shape[0]
        return {
            "T": tokens, "B": sequences, "B1": sequences + 1, "R": step.logits_rows.shape[0],
            "M": tokens * self.config.experts_per_token, "N": self.num_pages,
            "MAXP": step.page_table.shape[1], "L": step.page_table.shape[1] * self.page_size,
            **(self.host.extents if self.host else {}),
        }  # fmt: skip


def numbered(
    recipe: Recipe, launches: list[Launch], kernels: Mapping[str, Any] | None = None
) -> list[BoundLaunch]:
    """Return a recipe's launches with their numbers and names, and with those of `kernels` that
    are launched instead of the ones that calls name."""
    known = kernels or {}
    runs = {each.launch: name for name, each in known.items()}
    return [
        BoundLaunch(number, *names, launch, runs.get(launch[0], "") if names[0] in known else "")
        for number, (names, launch) in enumerate(zip(recipe.kernels, launches, strict=True))
    ]


def rope_tables(rope: Rope, head_dim: int, positions: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin [positions, C / 2], f32; angles are f32 as checkpoints are trained."""
    frequencies = torch.tensor(rope.inverse_frequencies(head_dim), dtype=torch.float32)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


def tvm_tensor() -> Callable[[Tensor], Any]:
    """Return the conversion that saves half a microsecond a tensor and launch."""
    from tvm_ffi import from_dlpack

    return from_dlpack
