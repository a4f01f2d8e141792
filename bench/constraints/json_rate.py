"""JSON of random schemas: does what a constraint lets through parse, valid, in canonical tokens?"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.semantics.constraints import constraint_of
from weft.ir.constraints.tables import ConstraintTables
from weft.ir.constraints.token_table import TokenTable
from weft.ir.types import Term

from .programs import Bench
from .random_schemas import random_schema

Figures = dict[str, Any]


def json_parse_rate(
    count: int = 1000, seed: int = 0, model: str = "tiny-dense", bench: Bench | None = None
) -> Figures:
    """Return the share of outputs that parse, are valid, and are canonical, over random schemas.

    Tokens are drawn from a model that knows nothing (logits from a hash), at temperature 1; the
    budget is what the shortest text needs plus 0 to 40 tokens, so that most runs meet its end.
    """
    bench, random = bench or Bench(model), Random(seed)
    tokenizer = open_checkpoint(model).tokenizer
    tables = ConstraintTables(tokenizer)
    good, canonical, regular, failures = 0, 0, 0, []
    for number in range(count):
        schema = random_schema(random)
        table = tables.find(*_constraint(schema))
        regular += isinstance(table, TokenTable)
        least = int(table.distance[1]) if isinstance(table, TokenTable) else 400
        budget = max(1, least + random.randint(0, 40))
        ids, text = _generated(bench, schema, budget, number)
        problem = _problem(text, schema)
        good += problem is None
        same = _is_canonical(tokenizer, ids)
        canonical += same
        if problem is not None or not same:
            failures.append({"number": number, "schema": schema, "text": text, "why": problem})
    return {
        "json_parse_rate": good / count,
        "canonical_rate": canonical / count,
        "regular_rate": regular / count,
        "schemas": count,
        "failures": failures[:5],
    }


def _constraint(schema: dict[str, Any]) -> tuple[str, str]:
    found = constraint_of(Term("schema", (json.dumps(schema, ensure_ascii=False),)), {})
    assert found is not None
    return found


def _generated(
    bench: Bench, schema: dict[str, Any], budget: int, seed: int
) -> tuple[list[int], str]:
    """Run a program of one gen; return its stream's tokens, and the text of the gen."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_text(json.dumps(schema, ensure_ascii=False))
        program = Path(folder) / "p.weft"
        program.write_text(
            'program p():\n    user "JSON, please."\n    assistant gen v'
            f'(max_tokens={budget}, temperature=1.0, seed={seed}): schema "s.json"\n'
        )
        executable = bench.executable(program, toy=True)
        ids: list[int] = []
        free = executable.engine.free

        def noted(sequence: Any, remember: bool = True) -> None:
            ids[:] = max(ids, sequence.ids(), key=len)
            free(sequence, remember)

        executable.engine.free = noted  # type: ignore[method-assign]
        try:
            whole = executable.run().text
        except Exception as error:  # a value that does not parse ends the run
            whole = f"assistant: {error}"
    return ids, whole


def _problem(text: str, schema: dict[str, Any]) -> str | None:
    """Return what is wrong with the JSON at a stream's end, or None."""
    import jsonschema

    begin = text.index("JSON, please.") + len("JSON, please.") if "JSON, please." in text else 0
    try:
        jsonschema.validate(json.loads(text[begin:].strip()), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    return None


def _is_canonical(tokenizer: Any, ids: list[int]) -> bool:
    """Whether every run of text between special tokens is encoded as its whole text is."""
    run: list[int] = []
    for id in [*ids, min(tokenizer.special_ids)]:
        if id not in tokenizer.special_ids:
            run.append(id)
            continue
        if run and tokenizer.encode(tokenizer.decode(run)) != run:
            return False
        run = []
    return True
