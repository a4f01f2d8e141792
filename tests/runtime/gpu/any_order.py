"""Runs a step's tasks in any order that queues and waits allow, as a device may."""

from __future__ import annotations

import random
from typing import Any

from weft.runtime.execution.host_keys import Staged


class AnyOrder:
    """Stands for a `Staged`: at each turn some queue whose next task may begin is drawn; `late`
    of them all is taken only when no other can go on."""

    def __init__(self, staged: Staged, dice: random.Random, late: str = "") -> None:
        self._tasks, self._dice, self._late = staged.tasks, dice, late

    def run(self, launches: list[Any], device: Any) -> None:
        """Launch all tasks."""
        left = {task.queue: [t for t in self._tasks if t.queue == task.queue]
                for task in self._tasks}  # fmt: skip
        done: set[str] = set()
        while any(left.values()):
            ready = [queue for queue, tasks in left.items()
                     if tasks and set(tasks[0].waits) <= done]  # fmt: skip
            others = [queue for queue in ready if queue != self._late]
            task = left[self._dice.choice(others or ready)].pop(0)
            for function, arguments in launches[task.first : task.end]:
                function(*arguments)
            done.add(task.name)
