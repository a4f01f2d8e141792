"""The step loop: schedule, execute, sample, advance; single threaded."""

from __future__ import annotations

from math import inf
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from .constraints.table_matcher import fill_masks
from .constraints.watch import Finish, take_tokens
from .execution.sampler import SampleKernel, sample_rows, uniforms
from .execution.step import ModelExecutor, StepInput
from .memory.kv_cache import PagedKV
from .memory.prefix_tree import PrefixTree
from .memory.sequence import Order, Sequence
from .schedule.allowed_words import AllowedWords, Narrow
from .schedule.batch import Batch
from .schedule.endings import Endings
from .schedule.flight import Draw, Flight, Landed, live
from .schedule.held_rows import Held
from .schedule.limits import check_limits
from .schedule.pace import AT_ONCE, IN_VAIN, Pace
from .schedule.policy import Policy
from .schedule.request import Request
from .schedule.row_costs import HitCounter
from .schedule.scheduler import Scheduler
from .schedule.scoring import Scores
from .schedule.shared_work import SharedWork
from .schedule.siblings import OwnDraw
from .tracing.trace import Trace

_NOTHING = Landed((torch.empty(0, dtype=torch.int32), torch.empty(0), torch.empty(0)))


class Engine:
    """Runs requests of many sequences together on one executor."""

    def __init__(
        self,
        executor: ModelExecutor,
        sample: SampleKernel = sample_rows,
        policy: Policy | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.executor = executor
        self.kv = PagedKV(
            executor.num_pages, executor.page_size, executor.context_length, executor.copy_page
        )
        self.tree = PrefixTree(self.kv)
        self.trace = trace
        self.steps = 0
        self.computed_tokens = 0
        self._sample = sample
        self._kinds = getattr(sample, "greedy", sample), getattr(sample, "full", sample)
        self._batch = Batch(executor)
        self.hits = HitCounter(trace)
        self._scheduler = Scheduler(
            executor, self._batch, self.kv, self.tree, policy or Policy(), self.hits
        )
        self._endings = Endings(self.kv, self.tree, self.hits, self._scheduler.ended)
        self._rows = np.arange(executor.max_batch)
        self.ahead = bool(getattr(executor, "asynchronous", False))
        self._shared = SharedWork(
            self._scheduler, self._batch, self.hits, self._endings, executor.max_batch,
            draws=not self.ahead,
        )  # fmt: skip
        self.shares_steps = bool(getattr(executor, "copies_slots", False))
        """Whether requests may read what others compute in the same step."""
        self._allowed = None if self.ahead else AllowedWords.of(executor)
        self.held: Held | None = getattr(executor, "held", None) if self.ahead else None
        if trace is not None:
            trace.watch(executor, self.ahead)
        self._flight: Flight | None = None
        self._landing: Flight | None = None
        self._pace = Pace(executor)
        # What one step can need: the pages of its tokens, and twice one more for each sequence.
        self._most_pages = executor.max_tokens // executor.page_size + 4 * executor.max_batch

    # Sequences.

    def create(self, order: Order) -> Sequence:
        """Return an empty sequence."""
        sequence = self.kv.create(order)
        self._scheduler.sequences.add(sequence)
        return sequence

    def fork(self, parent: Sequence, length: int, order: Order, gives: bool = False) -> Sequence:
        """Return a copy-on-write fork of the first `length` tokens of `parent`, which with `gives`
        holds what the fork computes of them."""
        sequence = self.kv.fork(parent, length, order)
        self._scheduler.forked(sequence, parent, gives)
        return sequence

    def free(self, sequence: Sequence, remember: bool = True) -> None:
        """Give a sequence up; with `remember`, the prefix tree keeps what a trunk computed."""
        if sequence in self._scheduler.sequences:
            self._scheduler.sequences.remove(sequence)
            if remember and sequence.resident > sequence.remembered:
                self.tree.insert(sequence.tokens[: sequence.resident], sequence.pages, sequence)
            self.kv.drop(sequence)

    def know_streams(self) -> None:
        """Let the prefix tree forget first what no open stream reads again.

        Programs say so: their streams go on. Of a request nobody knows.
        """
        self.tree.streams = self._scheduler.streams.reads

    @property
    def preemptions(self) -> int:
        """How often a sequence had to drop its KV to make room."""
        return self._scheduler.preemptions

    def take_prefix_hits(self, instance: int) -> int:
        """Return, and forget, the tokens that an instance's sequences did not have to compute;
        `instance` is the first number of their order."""
        return self.hits.take(instance).measured

    def check(self) -> None:
        """Check the integrity of the KV memory's books."""
        self.kv.check(self._scheduler.sequences, self.tree.held())

    # Requests.

    def submit(self, request: Request) -> None:
        """Take a request; `step` returns it when it is done."""
        self._check_capacity(request)
        request.sequence.busy = True
        request.prompt = request.sequence.length
        self._shared.ask(request)

    def cancel(self, request: Request) -> None:
        """Forget a request that is not done; those that waited for its answer are computed."""
        self._scheduler.cancel(request)
        if self._flight is not None:
            self._flight.forget(request)
        request.sequence.busy = False
        self._shared.left(request)
        if not self._scheduler:
            self._land()  # nobody may step any more, and nobody waits for what is on its way

    def forget_answers(self) -> None:
        """Compute again what is asked from now on, be it what was asked before."""
        self._shared.duplicates.forget()

    def steps_now(self, fresh: int, rest: float = inf) -> bool:
        """Say whether to step ahead now, with `fresh` requests of late, or to let more come.

        `rest`: seconds until all that will come are there, if that is known.
        """
        if not self.ahead or self._scheduler.backlog >= self.executor.max_tokens:
            return self.ahead
        waiting = self._scheduler.waiting
        idle = fresh >= IN_VAIN and not waiting and self._batch.size > 0
        due = self._pace.due(self._flight, waiting, rest)
        return self._pace.noted(due and (idle or fresh >= AT_ONCE or self._enough()), rest > 0)

    @property
    def may_begin(self) -> bool:
        """Whether a device that runs ahead is idle, enough is asked for, and pages are there."""
        idle = self.ahead and self._flight is None and self._enough()
        return idle and self.kv.free >= self._most_pages

    def _enough(self) -> bool:
        """Whether prompts wait that keep a device busy while the host launches the step behind."""
        return self._scheduler.backlog >= self._pace.enough()

    def opening(self, sequence: Sequence) -> int:
        """Return up to where a device that does nothing should compute a stream at once; or 0."""
        coming = self.tree.upcoming
        idle = self.ahead and self._flight is None and not self._scheduler
        return self._pace.opening(sequence.length) if idle and coming and coming.waiting else 0

    def __bool__(self) -> bool:
        return bool(self._scheduler or self._scheduler.done or self._flight)

    def step(self) -> list[Request]:
        """Compute one step; return the requests that are done. After an exception (an interrupt, a
        kernel that failed) all requests can go on."""
        try:
            self._step()
        except BaseException:
            flights = [flight for flight in (self._landing, self._flight) if flight is not None]
            self._flight = self._landing = None
            self._scheduler.start_over(r for flight in flights for r in flight.unanswered())
            raise
        done: list[Request] = []
        while self._scheduler.done:
            finished, self._scheduler.done = self._scheduler.done, []
            for request in finished:
                request.sequence.busy = False
                self._shared.share(request)
            done += finished
        return done

    def _step(self) -> None:
        start = perf_counter()
        if self._flight is not None:
            scarce = self.kv.free < self._most_pages
            if self._flight.may_be_followed(self._batch, scarce, self.held, self._scheduler):
                self._flight.let_go(self._batch)
            else:
                self._land()
                if self._scheduler.done and scarce:
                    return  # first let go of what they hold
        chunks = self._scheduler.schedule(self._pace.more())
        if not chunks and not self._batch.size:
            self._land()
            return
        self._shared.siblings.draws(chunk.request for chunk in chunks if chunk.joins)
        running, before = self._batch.size, self._flight
        step, tokens, sampled = self._batch.pack(chunks)
        packed = perf_counter()
        narrow = self._narrow(step, sampled)
        source = None if before is None else before.source(self._batch, running, tokens)
        held = self.held is not None and self.held.begin(self._batch, source, running)
        if narrow is not None:
            logits = self.executor.forward_narrow(step, narrow.ids)  # type: ignore[attr-defined]
        elif source is None:
            logits = self.executor.forward(step)
        else:
            logits = self.executor.forward(step, source)  # type: ignore[call-arg]
        computed = perf_counter()
        draw = self._draw(logits, sampled, running, narrow, held) if sampled else _NOTHING
        drawn, record = perf_counter(), None
        if self.trace is not None:
            times, cached = (start, packed, computed, drawn), self.kv.num_pages - self.kv.free
            pages = (self.kv.live, cached - self.kv.live)
            record = self.trace.step(times, self._batch, running, chunks, pages)
        scores = Scores(logits[sampled:], chunks) if logits.shape[0] > sampled else None
        self._scheduler.progress(chunks)
        births = self._batch.birth[:sampled].copy()
        self._flight = Flight(births, tuple(chunks), draw, self._batch.leaves, scores, record,
                              tokens if chunks else 0, packed)  # fmt: skip
        if before is not None:
            self._settle(before)
        if not self.ahead:
            self._land()
        self.steps += 1
        self.computed_tokens += tokens
        if record is not None:
            record.ended = perf_counter()

    def _narrow(self, step: StepInput, sampled: int) -> Narrow | None:
        """Return the words that a step computes logits of; None: of all. Masks are filled before
        the model has put what was just looked at out of the caches, or while a device runs."""
        batch = self._batch
        if self.ahead or not batch.constrained or fill_masks(batch) or self._allowed is None:
            return None
        return self._allowed.choose(batch, sampled, step.logits_rows.shape[0])

    def _draw(
        self, logits: Tensor, count: int, running: int, narrow: Narrow | None, held: bool
    ) -> Draw:
        """Sample a token for each of the first `count` rows; the first `running` are older."""
        batch = self._batch
        masked = batch.constrained > 0 and not held
        if masked and self.ahead:
            fill_masks(batch)
        if batch.random:
            positions = batch.produced[:count].copy()
            if self._flight is not None:  # a token of theirs is still on its way
                positions[:running] += 1
            batch.uniform[:count] = uniforms(batch.key[:count], positions)
        mask, *how = batch.settings(count, masked)
        rows = logits if logits.shape[0] == count else logits[:count]
        if narrow is not None and self._allowed is not None:
            mask = self._allowed.masks(batch, narrow, count)
        if self.ahead:
            return self._sample.start(rows, mask, *how)  # type: ignore[attr-defined]
        drawn = self._kinds[batch.random > 0](rows, mask, *how)  # type: ignore[arg-type]
        others: list[OwnDraw] = []
        if siblings := self._shared.siblings:
            drawn = drawn[0].clone(), drawn[1].clone(), drawn[2].clone()
            full = self._kinds[True]
            others = siblings.draw(
                batch, rows, drawn[0], mask, how, full, narrow,  # type: ignore[arg-type]
            )  # fmt: skip
        return Landed(drawn if narrow is None else narrow.named(drawn), others)

    def _land(self) -> None:
        """Wait for the draw that is on its way, if one is, and take it in."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._settle(flight)

    def _settle(self, flight: Flight) -> None:
        """Take in the draw of a step, in the batch as it is now."""
        self._landing = flight
        self._endings.meanwhile(flight.last, () if flight.ready() else self._batch.requests)
        drawn, waited = flight.wait(self.ahead)
        if flight.scores is not None:
            self._scheduler.done += flight.scores.give()
        now = perf_counter()
        self._pace.landed(flight, self._flight, now, waited)
        if flight.record is not None:
            flight.record.landed = now
        for chunk in flight.chunks:
            if chunk.joins and not chunk.request.first_token_time:
                chunk.request.first_token_time = now
        if isinstance(flight.draw, Landed) and flight.draw.others:
            self._shared.part(flight.draw.others, drawn[0].numpy())
        rows = flight.rows(self._batch)
        if rows is None:
            first = slice(0, len(flight.births))
            self._advance(first, *(tensor.numpy() for tensor in drawn))
        else:
            there, values = live(drawn, rows)
            self._advance(there, *values)
        if flight.last:
            values = [tensor.tolist() for tensor in drawn]
            while flight.last:
                request, number = flight.last.popitem()
                self._endings.last(request, *(value[number] for value in values))
        self._landing = None

    def _advance(self, rows: slice | np.ndarray, *found: np.ndarray) -> None:
        """Append what was `found` for some rows, tokens, their log-probabilities and margins; take
        out those that are finished or forced on."""
        drawn, logprobs, margins = found
        batch, numbers = self._batch, self._rows[rows] if isinstance(rows, slice) else rows
        produced = batch.produced[rows].copy()
        batch.make_room()
        batch.token[rows] = drawn
        batch.history[numbers, produced] = drawn
        batch.logprob[numbers, produced] = logprobs
        batch.margin[rows] = np.minimum(batch.margin[rows], margins)
        ended = (batch.ends[rows] == drawn[:, None]).nonzero()[0]
        produced += 1
        batch.produced[rows] = produced
        over = produced >= batch.limit[rows]
        over[ended] = True
        (some,) = (over | (produced > batch.calm[rows])).nonzero()
        if len(some):
            looked, ends = numbers[some], over[some].tolist()
            batch.sees(looked)
            at_rows, tokens = looked.tolist(), drawn[some].tolist()
            turned = take_tokens(batch.requests, at_rows, tokens, ends)
            # The last one first: a row that leaves gives its place to the last.
            for at in sorted(turned, key=at_rows.__getitem__, reverse=True):
                self._look(at_rows[at], some[at] in ended, ends[at], tokens[at])

    def _look(self, row: int, ended: bool, over: bool, drawn: int) -> None:
        """Look at a watched or finished row."""
        batch = self._batch
        request = batch.requests[row]
        finish = Finish("length", -1) if over else None
        if ended:
            batch.produced[row] -= 1
            finish = Finish("end", -1)
        elif request.watch is not None:
            finish = request.watch.accept(drawn) or finish
        if finish is not None:
            batch.leave(row)
            self._endings.finish(request, finish)
        elif request.watch is not None and request.watch.matcher is not None:
            if request.watch.matcher.idle:
                batch.unconstrain(row)
            elif forced := request.watch.matcher.forced():
                if self.held is None or not self.held.stays(batch, request, len(forced)):
                    self._force_row(request, row)

    def _force_row(self, request: Request, row: int) -> None:
        """Take out a row whose constraint forces tokens: they are prefilled, not sampled."""
        self._batch.leave(row)
        self._shared.enqueue(request)

    def _check_capacity(self, request: Request) -> None:
        check_limits(request, self.executor.context_length)
        new = request.sampling.max_tokens if request.sampling else 0
        self._scheduler.check_fit(request, request.sequence.length + new)
