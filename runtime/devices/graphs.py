"""Recorded launches: what a GPU replays as one graph; elsewhere, what is simply run again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import distributed

from .quiet import unheard


class Recorder(Protocol):
    """Turns launches over fixed memory into something that is cheap to launch again."""

    def record(self, run: Callable[[], None], many: bool = False) -> Callable[[], None]:
        """Return what does again what `run` does; `run` may be called any number of times.

        `many`: it computes the rows of prompts, by kernels that have been loaded."""
        ...


class Rerun:
    """Records nothing: every replay launches anew."""

    def record(self, run: Callable[[], None], many: bool = False) -> Callable[[], None]:
        """Return `run` itself."""
        return run


class CudaGraphs:
    """Captures launches as CUDA graphs; all share one pool of memory, as one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream()  # one: a library keeps a workspace for each stream
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._prompts_in: set[int] = set()
        before = torch.backends.cuda.preferred_blas_library()
        with unheard():  # at the first choice torch writes that choosing is experimental
            torch.backends.cuda.preferred_blas_library("cublaslt")
        torch.backends.cuda.preferred_blas_library(before)

    def record(self, run: Callable[[], None], many: bool = False) -> Callable[[], None]:
        """Run once, so that kernels are loaded and libraries have their workspaces; then capture.

        Launches after the capture wait for it: both are on the caller's stream. Of NVIDIA's two
        libraries of products, cuBLASLt's choices read weights faster for few rows. Prompts are run
        once a thread only, each of which has a library's handle of its own: it takes longer. Ranks,
        which exchange there, run them always: the threads of one say nothing of the others'.
        """
        if many:
            thread = threading.get_ident()
            known = thread in self._prompts_in and not distributed.is_initialized()
            self._prompts_in.add(thread)
            return self._captured(run, known)
        before = torch.backends.cuda.preferred_blas_library()
        torch.backends.cuda.preferred_blas_library("cublaslt")
        try:
            return self._captured(run)
        finally:
            torch.backends.cuda.preferred_blas_library(before)

    def _captured(self, run: Callable[[], None], known: bool = False) -> Callable[[], None]:
        side = self._side
        if not known:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                run()
            torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
        ):
            run()
        self._graphs.append(graph)
        return graph.replay

    def forget(self) -> None:
        """Give up all graphs, and what they hold; none is replayed after this."""
        torch.cuda.synchronize()
        while self._graphs:
            self._graphs.pop().reset()
