"""The step loop: schedule, execute, sample, advance; single threaded."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from ..ir.diagnostics import CapacityError
from .batch import MAX_ENDS, Batch, Chunk
from .duplicates import Answer, Duplicates
from .kv_cache import PagedKV
from .meter import HitCounter
from .policy import Policy
from .prefix_tree import PrefixTree
from .request import Request
from .sampler import SampleKernel, sample_rows, uniforms
from .scheduler import Scheduler
from .sequence import Order, Sequence
from .step import ModelExecutor
from .table_matcher import fill_masks
from .trace import StepRecord, Trace
from .watch import Finish


class ContextTooLong(CapacityError):
    """A stream that the model's context cannot hold."""

    template = (
        "row {row}, {what}: {tokens} tokens of prompt and at most {new} new ones are {excess} more "
        "than the model's context of {context}"
    )
    hint = "shorten the prompt or lower max_tokens"


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
        self._batch = Batch(executor)
        self.hits = HitCounter(trace)
        self._scheduler = Scheduler(
            executor, self._batch, self.kv, self.tree, policy or Policy(), self.hits
        )
        self._duplicates = Duplicates()
        self._rows = np.arange(executor.max_batch)

    # Sequences.

    def create(self, order: Order) -> Sequence:
        """Return an empty sequence."""
        sequence = self.kv.create(order)
        self._scheduler.sequences.add(sequence)
        return sequence

    def fork(self, parent: Sequence, length: int, order: Order) -> Sequence:
        """Return a copy-on-write fork of the first `length` tokens of `parent`."""
        sequence = self.kv.fork(parent, length, order)
        self._scheduler.sequences.add(sequence)
        return sequence

    def free(self, sequence: Sequence, remember: bool = True) -> None:
        """Give a sequence up; with `remember`, the prefix tree keeps what a trunk computed."""
        if sequence in self._scheduler.sequences:
            self._scheduler.sequences.remove(sequence)
            if remember and sequence.resident:
                self.tree.insert(sequence.tokens[: sequence.resident], sequence.pages)
            self.kv.drop(sequence)

    @property
    def preemptions(self) -> int:
        """How often a sequence had to drop its KV to make room."""
        return self._scheduler.preemptions

    def take_prefix_hits(self, instance: int) -> int:
        """Return, and forget, the tokens that an instance's sequences did not have to compute.

        `instance` is the first number of their order.
        """
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
        answer = self._duplicates.known(request)
        if answer is not None:
            self._answer(request, answer)
        elif not self._duplicates.joins(request):
            self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        if request.watch is not None and request.sampling is not None:
            finish = self._force(request)
            if finish is not None:
                self._finish(request, finish)
                return
        self._scheduler.enqueue(request)

    def _answer(self, request: Request, answer: Answer) -> None:
        """Give a request the answer of an equal one; the tree has the KV of its tokens."""
        self._scheduler.reuse(request)
        self.hits.begins(request)
        answer.give(request)
        self._scheduler.reuse(request, request.sequence.length)
        self._scheduler.done.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request that is not done; those that waited for its answer are computed."""
        self._scheduler.cancel(request)
        request.sequence.busy = False
        for twin in self._duplicates.left(request):
            if not self._duplicates.joins(twin):
                self._enqueue(twin)

    def forget_answers(self) -> None:
        """Compute again what is asked from now on, be it what was asked before."""
        self._duplicates.forget()

    def __bool__(self) -> bool:
        return bool(self._scheduler or self._scheduler.done)

    def step(self) -> list[Request]:
        """Compute one step; return the requests that are done.

        After an exception (an interrupt, a kernel that failed) all requests can go on.
        """
        try:
            self._step()
        except BaseException:
            self._scheduler.start_over()
            raise
        done: list[Request] = []
        while self._scheduler.done:
            finished, self._scheduler.done = self._scheduler.done, []
            for request in finished:
                request.sequence.busy = False
                self._share(request)
            done += finished
        return done

    def _share(self, request: Request) -> None:
        """Give a finished request's answer to those that wait for it."""
        if request.error is not None:
            for twin in self._duplicates.left(request):
                if not self._duplicates.joins(twin):
                    self._enqueue(twin)
            return
        twins = self._duplicates.finished(request)
        if twins:
            answer = Answer.of(request)
            for twin in twins:
                twin.first_token_time = request.first_token_time
                self._answer(twin, answer)

    def _step(self) -> None:
        start = perf_counter()
        chunks = self._scheduler.schedule()
        if chunks or self._batch.size:
            running = self._batch.size
            step, tokens, sampled = self._batch.pack(chunks)
            packed = perf_counter()
            logits = self.executor.forward(step)
            computed = perf_counter()
            drawn = self._draw(logits, sampled) if sampled else None
            finished = perf_counter()
            self._score(logits, sampled, chunks)
            for chunk in chunks:
                if chunk.joins and not chunk.request.first_token_time:
                    chunk.request.first_token_time = finished
            self._scheduler.progress(chunks)
            if drawn is not None:
                self._advance(sampled, *drawn)
            self.steps += 1
            self.computed_tokens += tokens
            if self.trace is not None:
                model, sample = computed - packed, finished - computed
                host = perf_counter() - start - model - sample
                kv_tokens = self._batch.kv_tokens(running + len(chunks))
                prefill = tokens - running
                self.trace.steps.append(
                    StepRecord(start, running, prefill, kv_tokens, model, sample, host)
                )

    def _draw(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample a token for each of the first `count` rows."""
        batch = self._batch
        if batch.constrained:
            fill_masks(batch)
        if batch.random:
            batch.uniform[:count] = uniforms(batch.key[:count], batch.produced[:count])
        mask, temperature, top_k, top_p, min_p, uniform = batch.settings(
            count, batch.constrained > 0
        )
        rows = logits if logits.shape[0] == count else logits[:count]
        return self._sample(rows, mask, temperature, top_k, top_p, min_p, uniform)  # type: ignore[arg-type]

    def _score(self, logits: Tensor, first: int, chunks: list[Chunk]) -> None:
        """Hand the log-probabilities of scored positions to their requests."""
        for chunk in chunks:
            if chunk.scores:
                rows = logits[first : first + chunk.scores]
                chunk.request.scores += list(torch.log_softmax(rows, 1).cpu())
                first += chunk.scores

    def _advance(self, count: int, tokens: Tensor, logprobs: Tensor, margins: Tensor) -> None:
        """Append the drawn tokens; take out the rows that are finished or forced on."""
        batch, rows, drawn = self._batch, self._rows[:count], tokens.numpy()
        produced, margin = batch.produced[:count], batch.margin[:count]
        batch.token[:count] = drawn
        batch.history[rows, produced] = drawn
        batch.logprob[rows, produced] = logprobs.numpy()
        np.minimum(margin, margins.numpy(), out=margin)
        ended = (batch.ends[:count] == drawn[:, None]).any(1)
        produced += 1
        over = ended | (produced >= batch.limit[:count])
        if batch.watched or over.any():
            self._look(ended.tolist(), over.tolist(), drawn.tolist())

    def _look(self, ended: list[bool], over: list[bool], drawn: list[int]) -> None:
        """Look at watched and finished rows, last row first, because leaving moves the last."""
        batch = self._batch
        for row in range(len(drawn) - 1, -1, -1):
            request = batch.requests[row]
            finish = Finish("length", -1) if over[row] else None
            if ended[row]:
                batch.produced[row] -= 1
                finish = Finish("end", -1)
            elif request.watch is not None:
                finish = request.watch.accept(drawn[row]) or finish
            if finish is not None:
                batch.leave(row)
                self._finish(request, finish)
            elif request.watch is not None and request.watch.matcher is not None:
                if request.watch.matcher.idle:
                    batch.unconstrain(row)
                elif request.watch.matcher.forced():
                    self._force_row(request, row)

    def _force_row(self, request: Request, row: int) -> None:
        """Take out a row whose constraint forces tokens: they are prefilled, not sampled."""
        self._batch.leave(row)
        finish = self._force(request)
        if finish is not None:
            self._finish(request, finish)
        else:
            self._scheduler.enqueue(request)

    def _force(self, request: Request) -> Finish | None:
        """Append what the constraint forces now; return how the generation ends, if it does."""
        assert request.watch is not None and request.sampling is not None
        while True:
            room = request.sampling.max_tokens - request.produced
            if room == 0:
                return Finish("length", -1)
            forced = request.watch.forced(room)
            if not forced:
                return None
            for token in forced:
                request.sequence.append((token,))
                request.produced += 1
                request.flushed += 1
                request.token_logprobs.append(None)
                finish = request.watch.accept(token)
                if finish is not None:
                    return finish

    def _finish(self, request: Request, finish: Finish) -> None:
        """Close a generation whose tokens are in its sequence; cut it back to what stays."""
        if request.watch is not None:
            finish = request.watch.settled(finish)
        request.reason = finish.reason
        sequence = request.sequence
        if finish.keep >= 0:
            self.kv.truncate(sequence, sequence.length - request.flushed + finish.keep)
            sequence.append(finish.tail)
            request.flushed = finish.keep + len(finish.tail)
            kept = request.token_logprobs[: finish.keep]
            request.token_logprobs = kept + [None] * len(finish.tail)
        if request.watch is not None:
            request.watch.close()
        self._remember(sequence)
        self._scheduler.done.append(request)

    def _remember(self, sequence: Sequence) -> None:
        """Let other streams find what a generation has computed."""
        tokens = sequence.tokens[: sequence.resident]
        self.tree.insert(tokens, sequence.pages)
        self.hits.known(tokens)

    def _check_capacity(self, request: Request) -> None:
        new = request.sampling.max_tokens if request.sampling else 0
        tokens, context = request.sequence.length, self.executor.context_length
        if tokens + new > context:
            raise ContextTooLong(
                row=request.row, what=request.name, tokens=tokens, new=new, context=context,
                excess=tokens + new - context,
            )  # fmt: skip
        if request.sampling and len(request.sampling.ends) > MAX_ENDS:
            raise CapacityError(message=f"{request.name}: more than {MAX_ENDS} end tokens")
        self._scheduler.check_fit(request, tokens + new)
