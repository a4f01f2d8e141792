"""A rank that is lost is named, whichever it is and whoever finds it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch._C._distributed_c10d import HashStore, TCPStore
from torch.distributed import DistNetworkError
from weft.runtime.execution import rank_lives, ranks
from weft.runtime.execution.rank_lives import Lives, named

COUNT, MESSAGES = 3, 20


def rank_of(rank: int, dies: int, port: int, said: Any) -> None:
    """Be a rank that sends, or follows, messages without end; one of them is killed meanwhile."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(COUNT),
        "RANK": str(rank), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    left = [MESSAGES]

    def acted(*given: Any) -> None:
        left[0] -= 1
        if left[0] < 0 and rank == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        ranks.join(None)
        if rank:
            ranks.follow(SimpleNamespace(copy_page=acted))
        channel = ranks.Channel()
        while True:
            channel.send(ranks.COPY_PAGE, np.zeros(2, np.int32))
            acted()
    except ranks.RankLost as lost:
        said.put((rank, str(lost)))
        said.close()
        said.join_thread()
    os._exit(0)


@pytest.mark.parametrize("dies", range(COUNT))
def test_each_of_the_others_names_the_rank_that_died(dies: int) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    forked = multiprocessing.get_context("forkserver")  # this process may have threads with locks
    forked.set_forkserver_preload(["weft.runtime.execution.ranks", "torch.distributed"])
    said = forked.Queue()
    processes = [forked.Process(target=rank_of, args=(rank, dies, store.port, said))
                 for rank in range(COUNT)]  # fmt: skip
    for process in processes:
        process.start()
    found = dict(said.get(timeout=200) for _ in range(COUNT - 1))
    for process in processes:
        process.join(timeout=200)
    assert processes[dies].exitcode == -signal.SIGKILL
    assert sorted(found) == [rank for rank in range(COUNT) if rank != dies]
    for rank, message in found.items():
        assert f"rank {rank} of {COUNT} lost rank {dies}: " in message


def lives_of(count: int, store: Any) -> list[Lives]:
    found = [Lives(store) for _ in range(count)]
    for each in found:
        each.know([other.own() for other in found])
    return found


def test_who_is_lost_first_is_written_down_for_those_who_come_later() -> None:
    zero, one, two, three = lives_of(4, HashStore())
    one.close()
    three.close()
    assert zero.lost() == [1, 3]
    zero.close()  # as it has lost others
    assert two.lost() == [1, 3]


def test_without_a_store_all_that_have_ended_are_lost() -> None:
    def gone(*given: Any) -> Any:
        raise DistNetworkError("its process has ended")

    zero, one, two = lives_of(3, SimpleNamespace(check=gone, compare_set=gone))
    zero.close()
    one.close()
    assert two.lost() == [0, 1]


def test_a_rank_that_lives_or_cannot_be_looked_at_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rank_lives, "GIVEN_S", 0.05)
    here, there = lives_of(2, HashStore())
    assert here.lost() == []
    own = here.own()
    monkeypatch.setattr(socket, "gethostname", lambda: "another machine")
    far = there.own()
    monkeypatch.undo()
    there.close()
    here.know([own, far])
    monkeypatch.setattr(rank_lives, "GIVEN_S", 0.05)
    assert here.lost() == []


def test_a_rank_at_which_many_look_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 ranks seven may look a hundred times each while the eighth is ending."""
    monkeypatch.setattr(rank_lives, "GIVEN_S", 0.05)
    one, two = lives_of(2, HashStore())
    one._held.listen(0)  # room for one who looks
    for _ in range(3):
        assert two.lost() == []
    one.close()
    assert two.lost() == [0]


@pytest.mark.parametrize(
    ("lost", "text"), [([], "another rank"), ([2], "rank 2"), ([0, 3], "ranks 0 and 3")]
)
def test_how_they_are_called(lost: list[int], text: str) -> None:
    assert named(lost) == text


def test_a_port_that_closes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    zero, one = lives_of(2, HashStore())
    looked, closing = [], int(one.own()[0])

    def holds(port: int) -> bool:
        looked.append(port)
        return port != closing or len(looked) < 6

    monkeypatch.setattr(rank_lives, "_holds", holds)
    assert zero.lost() == [1] and len(looked) == 6
    assert one.lost() == [1] and len(looked) == 6
