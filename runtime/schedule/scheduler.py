"""Continuous batching: what the next step computes, who waits, and who gives pages back.

Running rows decode in every step; prefills take the tokens that are left, in chunks. Rows wait
when pages run out. Only the oldest request may take pages from others, which then drop their KV
and compute it again later: so the oldest always goes on, and no row is lost. While pages are scarce
the queue is in order of age too, so that it is the oldest whose turn it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import count

from ..execution.step import ModelExecutor, most_logits
from ..memory.kv_cache import PagedKV
from ..memory.prefix_tree import PrefixTree
from ..memory.sequence import Sequence
from ..memory.streams import Streams
from .batch import Batch, Chunk
from .limits import KVTooSmall
from .policy import Key, Policy
from .pressure import Pressure
from .request import Request
from .row_costs import HitCounter, PromptLog
from .same_step import SameStep
from .turns import Turns
from .whole_blocks import packed


class Scheduler:
    """Queues of requests over one batch and one KV memory."""

    def __init__(
        self, executor: ModelExecutor, batch: Batch, kv: PagedKV, tree: PrefixTree, policy: Policy,
        hits: HitCounter,
    ) -> None:  # fmt: skip
        self.sequences: set[Sequence] = set()
        self.hits = hits
        self.done: list[Request] = []
        self.preemptions = 0
        self._most = executor.max_tokens, executor.max_batch, most_logits(executor)
        self._batch = batch
        self._kv = kv
        self._tree = tree
        self._policy = policy
        self._waiting: list[tuple[Key, int, Request]] = []
        self._clock = 0
        self._pressed = False
        self._pressure = Pressure(batch, kv, tree, policy)
        self.turns = Turns(batch, kv, policy, self._pressure, executor, self.enqueue)
        self._prefilling: list[Request] = []
        self._parked: set[Request] = set()
        self._same = SameStep(kv, bool(getattr(executor, "copies_slots", False)))
        self._tie = count()
        self._backlog: int | None = None
        self._asked = PromptLog()
        self.streams = Streams(kv, tree, self.sequences, self._waiting_sequences)

    def __bool__(self) -> bool:
        return bool(self._batch.size or self._waiting or self._prefilling or self._parked)

    def enqueue(self, request: Request) -> None:
        """Let a request wait for its turn."""
        if request.arrived < 0:
            request.arrived = self._clock
        key = self._policy.key(request, self._pressed)
        heapq.heappush(self._waiting, (key, next(self._tie), request))
        if self._backlog is not None:
            self._backlog += self._missing(request)

    @property
    def backlog(self) -> int:
        """Tokens of requests that wait, or are under way, that the next step may compute."""
        if self._backlog is None:
            self._asked = PromptLog()
            requests = (*self._prefilling, *(entry[2] for entry in self._waiting))
            self._backlog = sum(map(self._missing, requests))
        return self._backlog

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiting)

    def _waiting_sequences(self) -> Iterator[Sequence]:
        """Yield the sequences of the requests that wait, in the order of their turns."""
        yield from (entry[2].sequence for entry in sorted(self._waiting))

    def _missing(self, request: Request) -> int:
        """Return what a request adds to the next step: nothing if it will wait for another."""
        sequence = request.sequence
        if self.hits.alone(sequence):
            return sequence.length - sequence.resident
        if request.behind is not None and self._same.able:
            return sequence.length - max(sequence.resident, sequence.fresh_from)
        tokens = sequence.tokens[: request.first_logits]
        known = max(sequence.resident, self._tree.known(tokens, sequence))
        shared = self._asked.add(tokens)
        if self._same.able:
            return sequence.length - max(known, shared)
        waits = shared > known and self._waits(request, known, shared)
        return 0 if waits else sequence.length - known

    def schedule(self, more: bool = False) -> list[Chunk]:
        """Secure the running rows' pages; return the chunks that the step computes besides. With
        `more` to come these may be cut: see `whole_blocks`."""
        self._clock += 1
        self._press(self._pressure.is_high(self._clock, self._outside()))
        if not self._pressed:
            self.turns.take(self._clock, self._waiting, self._outside())
        self._secure_running()
        chunks = self._pick()
        if not chunks and not self._batch.size and self._waiting and not self._pressed:
            self._press(True)
            chunks = self._pick()
        if not chunks and not self._batch.size and self:
            chunks = self._pick() or self._pick_without_parking()
        self._backlog = None
        return packed(chunks, self._batch.size, self._same.reads if more else None)

    def progress(self, chunks: list[Chunk]) -> None:
        """Take note of computed chunks; fills that are done with them go to `done`."""
        for chunk in chunks:
            request, sequence = chunk.request, chunk.request.sequence
            end = chunk.start + chunk.count
            if not request.goes_on:  # the tree gets what a generation leaves at its end
                self._tree.insert(sequence.tokens[:end], sequence.pages, sequence)
                sequence.remembered = end
            sequence.resident = end
            self.streams.computed(sequence, self._clock)
            finished = end == sequence.length or chunk.joins
            self._release_followers(request, None if finished else end)
            if finished:
                self._prefilling.remove(request)
                if not chunk.joins and not chunk.scores:
                    self.done.append(request)

    def forked(self, sequence: Sequence, parent: Sequence, gives: bool) -> None:
        """Take a fork of a sequence; with `gives`, the parent holds what it computes."""
        self.sequences.add(sequence)
        self.streams.forked(sequence, parent, gives)

    def ended(self, request: Request) -> None:
        """Take a request that is done."""
        self.done.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request, wherever it is, be it done and not handed out; it keeps its pages."""
        self._backlog = None
        if request in self._batch.requests:
            self._batch.leave(self._batch.requests.index(request))
        for some in (self._prefilling, self.done):
            if request in some:
                some.remove(request)
        self._parked.discard(request)
        self._leave_queue(request)
        self._release_followers(request, None)
        for other in self._prefilling:
            other.followers = [pair for pair in other.followers if pair[1] is not request]

    def start_over(self, others: Iterable[Request] = ()) -> None:
        """Let every request that was being worked on compute its KV again: a step has failed.

        `others` had left the batch or the queue, but not got their last token or their scores.
        """
        for request in dict.fromkeys([*self._batch.requests, *self._prefilling]):
            self._preempt(request.sequence)
        for request in others:
            self._kv.drop(request.sequence)
            self.enqueue(request)

    def check_fit(self, request: Request, tokens: int) -> None:
        """Raise KVTooSmall if the sequence could not hold `tokens` even alone."""
        if -(-tokens // self._kv.page_size) > self._kv.num_pages:
            raise self._too_small(request, tokens)

    def _outside(self) -> Iterator[Request]:
        """Yield the requests that are not in the batch, those that read on first."""
        yield from self._prefilling
        yield from (entry[2] for entry in self._waiting)
        yield from self._parked

    def _press(self, pressed: bool) -> None:
        """Order the queue for scarce pages, or for enough of them."""
        if pressed != self._pressed:
            self._pressed = pressed
            key = self._policy.key
            self._waiting = [(key(entry[2], pressed), *entry[1:]) for entry in self._waiting]
            heapq.heapify(self._waiting)

    def _pick_without_parking(self) -> list[Chunk]:
        for request in list(self._parked):
            self._parked.remove(request)
            self.enqueue(request)
        return self._pick(parking=False)

    def _pick(self, parking: bool = True) -> list[Chunk]:
        """Choose chunks within the step's budgets: started prefills first, then the queue."""
        budget, rows, logits = (most - self._batch.size for most in self._most)
        chunks: dict[Request, Chunk] = {}
        self._same.begin(chunks)

        def take(request: Request) -> bool:
            nonlocal budget, logits
            chunk = self._chunk(request, budget, logits) if len(chunks) < rows else None
            if chunk is None:
                self._same.refused(request)
                return False
            chunks[request] = chunk
            self._same.took(request, chunk)
            budget, logits = budget - chunk.count, logits - (chunk.scores or chunk.joins)
            return True

        for request in list(self._prefilling):
            if request in self._prefilling:
                take(request)
        while self._waiting and len(chunks) < rows and budget > 0:
            request = self._waiting[0][2]
            if not request.goes_on and not self._same.goes_behind(request):
                self.reuse(request)
                if self._is_filled(request) or (parking and self._park(request)):
                    heapq.heappop(self._waiting)
                    continue
            if take(request):
                self._leave_queue(request)
                self._admit(request)
            elif self._waiting and self._waiting[0][2] is request:
                break
        # A later request may have taken an earlier one's pages.
        alive = set(self._prefilling)
        for request in self._same.orphans(alive):
            self._preempt(request.sequence)
            alive.discard(request)
        return [chunk for request, chunk in chunks.items() if request in alive]

    def _chunk(self, request: Request, budget: int, logits: int) -> Chunk | None:
        """Return the next chunk of a request with pages to write to, or None: no room now."""
        sequence = request.sequence
        start = sequence.resident
        number = min(sequence.length - start, budget)
        if request.score_from is not None:
            number = min(number, max(request.score_from, start) + logits - start)
        if number <= 0 or (request.sampling is not None and logits <= 0):
            return None
        if not self._secure(request, start + number):
            return None
        return Chunk(request, start, number)

    def _leave_queue(self, request: Request) -> None:
        """Take a request out of the queue; whom it took pages from may stand before it by now."""
        if self._waiting and self._waiting[0][2] is request:
            heapq.heappop(self._waiting)
            return
        self._waiting = [entry for entry in self._waiting if entry[2] is not request]
        heapq.heapify(self._waiting)

    def _admit(self, request: Request) -> None:
        self._prefilling.append(request)
        if not request.goes_on:
            self.hits.begins(request)

    def _is_filled(self, request: Request) -> bool:
        """Say whether a fill has nothing left to compute; then it is done."""
        if request.first_logits < request.sequence.length or request.sequence.pending:
            return False
        self.hits.begins(request)
        self.done.append(request)
        return True

    def reuse(self, request: Request, limit: int | None = None, of: Sequence | None = None) -> None:
        """Take from the prefix tree what is known of a sequence up to `limit` (default: the first
        position whose logits are wanted); from `of`, which begins alike, if that has lost none."""
        sequence, limit = request.sequence, request.first_logits if limit is None else limit
        if of is not None and self._kv.share(of, sequence, limit):
            return
        if limit <= sequence.resident:
            self._kv.rewind(sequence, limit)
        elif not self.hits.alone(sequence):
            known, pages = self._tree.match(sequence.tokens[:limit], sequence)
            if known > sequence.resident:
                self._kv.adopt_rest(sequence, pages, known)

    def _park(self, request: Request) -> bool:
        """Let the request wait for a prefix that another is computing, if that pays. What this step
        computes of it, it may have at once; then it waits for all that a step cannot hold."""
        known = request.sequence.resident
        if request.first_logits <= known or self.hits.alone(request.sequence):
            return False
        now, (shared, leader) = self._same.leaders(request, self._prefilling)
        if leader is None or (shared == now[0] and self._same.follow(request, now)):
            return False
        later = self._same.able and shared > now[0]
        if later or self._waits(request, known, shared):
            leader.followers.append((shared, request))
            self._parked.add(request)
        return request in self._parked

    def _waits(self, request: Request, known: int, shared: int) -> bool:
        """Say whether a request that knows some tokens should wait for another that shares more.

        Branches always do for the whole of their stream, and not for less, as a begin token.
        """
        sequence = request.sequence
        stream = min(sequence.fresh_from, request.first_logits)
        whole = sequence.origin is not None and shared >= stream
        return whole or self._policy.waits(shared - known)

    def _release_followers(self, leader: Request, resident: int | None) -> None:
        """Requeue those who waited for tokens that are there now; all of them for None."""
        ready = [pair for pair in leader.followers if resident is None or pair[0] <= resident]
        leader.followers = [pair for pair in leader.followers if pair not in ready]
        for _, request in ready:
            if request in self._parked:
                self._parked.remove(request)
                if not request.needs_logits:
                    self.reuse(request)  # it may have all that it is to be filled with
                if request.needs_logits or not self._is_filled(request):
                    self.enqueue(request)

    # Pages.

    def _secure_running(self) -> None:
        """Give each running row that begins a page that page, or send it back to the queue."""
        batch = self._batch
        (begins,) = (batch.resident[: batch.size] % self._kv.page_size == 0).nonzero()
        for request in [batch.requests[row] for row in begins.tolist()]:
            if request not in batch.requests:
                continue
            row = batch.requests.index(request)
            resident = int(batch.resident[row])
            request.sequence.resident = resident
            if self._kv.reserve(request.sequence, resident + 1):
                page = resident // self._kv.page_size
                batch.table[row, page] = request.sequence.pages[page]
            elif self._take_pages(request, resident + 1):
                batch.set_pages(batch.requests.index(request))
            elif request in batch.requests:
                self._preempt(request.sequence)

    def _secure(self, request: Request, end: int) -> bool:
        if self._kv.reserve(request.sequence, end):
            return True
        if request is not self._oldest(request):
            return False
        return self._take_pages(request, end)

    def _take_pages(self, request: Request, end: int) -> bool:
        """Make the youngest others drop their KV until `request` fits; fail it if it never will."""
        oldest = request is self._oldest(request)
        while not self._kv.reserve(request.sequence, end):
            # Before the oldest of those that work comes nobody: older ones only wait for another.
            victims = [
                each
                for each in self.sequences
                if each.held and each is not request.sequence
                and (oldest or not each.busy or each.order > request.order)
            ]  # fmt: skip
            if not victims:
                if oldest:
                    self._fail(request, end)
                return False
            self._preempt(max(victims, key=lambda victim: victim.order))
        return True

    def _oldest(self, request: Request) -> Request:
        active = [request, *self._batch.requests, *self._prefilling]
        active += [entry[2] for entry in self._waiting]
        return min(active, key=lambda other: other.order)

    def _preempt(self, sequence: Sequence) -> None:
        """Make a sequence drop its KV; if a request works on it, that starts over its prefill."""
        self.preemptions += 1
        stopped: Request | None = None
        for row, request in enumerate(self._batch.requests):
            if request.sequence is sequence:
                stopped = request
                self._batch.leave(row)
                break
        for request in self._prefilling:
            if request.sequence is sequence:
                stopped = request
                self._prefilling.remove(request)
                self._same.changed()
                self._release_followers(request, None)
                break
        if stopped is not None:
            self.enqueue(stopped)
        self._kv.drop(sequence)

    def _fail(self, request: Request, tokens: int) -> None:
        self.cancel(request)
        request.error = self._too_small(request, tokens)
        self.done.append(request)

    def _too_small(self, request: Request, tokens: int) -> KVTooSmall:
        have, pages = self._kv.num_pages, -(-tokens // self._kv.page_size)
        return KVTooSmall(row=request.row, what=request.name, tokens=tokens, pages=pages,
                          have=have, short=pages - have)  # fmt: skip
