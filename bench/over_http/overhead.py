"""What HTTP itself costs a request: the front, with an engine that answers at once.

`python -m bench.over_http.overhead` prints microseconds a request, one at a time and 64 at once.
"""

from __future__ import annotations

from typing import Any

from weft.frontend.checkpoints.checkpoint import open_checkpoint

from ..contest.asked import GENERATE, Asked, Told
from .deployment import Deployment
from .jobs import Volley

AT_ONCE = (1, 64)
NEW_TOKENS = 16


class Parrot:
    """A server that tells the last tokens of each prompt, and has no model."""

    may_begin = False

    @property
    def engine(self) -> Any:
        """Itself: there is never a step to make."""
        return self

    def __bool__(self) -> bool:
        return False

    def serve(self, asked: Asked, tokens: Any) -> Any:
        """Return what is `Told`."""
        return Told(tokens.prompt[-NEW_TOKENS:])
        yield


def measure(
    deployment: Deployment, model: str, tokens: int = 300, requests: int = 2000
) -> dict[str, float]:
    """Return microseconds a request, by how many are at work at once: until its answer, where that
    is one; else how far apart answers come. `front` and `clients`: of their processors. Prompts
    have some `tokens`."""
    tokenizer = open_checkpoint(model).tokenizer
    text = "The harbour of the town was built long ago by the people of the hill. "
    times = -(-tokens // len(tokenizer.encode(text)))
    sampling = {"max_tokens": NEW_TOKENS, "temperature": 0.0}
    asked = Asked(GENERATE, (text * times,), "gen 'text'", 0, sampling=sampling)
    found = {}
    for clients in AT_ONCE:
        deployment.run(Parrot(), Volley(asked, 200, clients))
        spent = deployment.run(Parrot(), Volley(asked, requests, clients))
        seconds = {"": spent.done.seconds, "front_": spent.front, "clients_": spent.clients}
        for who, value in seconds.items():
            found[f"http_{who}us_a_request_{clients}"] = 1e6 * value / requests
    return found


def main() -> None:
    """Print the figures."""
    with Deployment("tiny-dense") as deployment:
        for name, value in measure(deployment, "tiny-dense").items():
            print(f"{name:32s} {value:.0f}")


if __name__ == "__main__":
    main()
