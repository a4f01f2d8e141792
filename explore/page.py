"""The page: the data, pictures and tables of what was explored, in one file that needs no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from ..ir.display.highlight import RULES
from ..ir.display.html import block_element
from ..ir.display.markup import Markup, element, joined, markup, style_sheet
from ..ir.display.units import bytes_text, counted, seconds_text, si
from ..ir.display.view import Facts, Figure
from .build import Explored
from .schedule import UNKNOWN_TOKENS

SCRIPTS = ("dom", "highlight", "pane", "code", "kernels", "passes", "figures", "search", "main")
VIEWS = (("code", "Code"), ("passes", "Passes"), ("tree", "Prefix tree"), ("time", "Timeline"),
         ("roofline", "Roofline"))  # fmt: skip


def page(found: Explored) -> str:
    """Return the page as HTML text."""
    data: dict[str, Any] = found.data | {"highlight": RULES}
    title: str = data["title"] or PurePath(data["source"]["name"]).name
    under = " · ".join(text for text in (data["source"]["name"], f"on {data['model']}") if text)
    parts = {
        "title": markup(title), "under": markup(under),
        "style": style_sheet() + part("page.css"),
        "tabs": joined(_tab(*view) for view in VIEWS),
        "sections": joined((_tree(found), _time(found), _roofline(found))),
        "data": as_script_data(data),
        "script": "\n".join(part(f"{name}.js") for name in SCRIPTS),
    }  # fmt: skip
    return filled(part("page.html"), parts)


def as_script_data(data: Any) -> str:
    """Return JSON that may stand in a <script> element: nothing in it can end that."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Return a template with its {{names}} replaced; what is put in is not read again."""
    first, *pieces = template.split("{{")
    texts = [first]
    for piece in pieces:
        name, _, rest = piece.partition("}}")
        texts += [parts[name], rest]
    return "".join(texts)


@cache
def part(name: str) -> str:
    """Return a file of the page's folder."""
    text = files("weft.explore").joinpath("page", name).read_text(encoding="utf-8")
    assert "</" not in text or name.endswith(".html")
    return text


def _tab(name: str, title: str) -> Markup:
    return element("button", title, type="button", role="tab", id=f"tab-{name}", tabindex="-1",
                   data_view=name, aria_controls=f"view-{name}", aria_selected="false")  # fmt: skip


def _view(name: str, *children: object) -> Markup:
    inner = element("div", *children, class_="view")
    return element("section", inner, id=f"view-{name}", role="tabpanel",
                   aria_labelledby=f"tab-{name}", hidden=True)  # fmt: skip


def _part(title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children)


def _figure(found: Explored, name: str, caption: str = "") -> Markup:
    return block_element(Figure(found.pictures[name], caption))


def _none(text: str) -> Markup:
    return element("p", text, class_="none")


def _tree(found: Explored) -> Markup:
    tree = found.data["tree"]
    if tree is None:
        return _view("tree", _none("There is no prefix tree: the plan was not made."))
    share = f" ({tree['hits'] / tree['sent']:.0%})" if tree["sent"] else ""
    facts = Facts((
        ("rows", f"{tree['rows']:,}"),
        ("calls", f"{tree['calls']:,} certain, {tree['maybe']:,} possible"),
        ("known tokens sent", f"{tree['sent']:,}"), ("computed once", f"{tree['unique']:,}"),
        ("prefix hits", f"{tree['hits']:,}{share}"),
    ))  # fmt: skip
    said = "What all calls send, joined where it begins alike, before anything runs. A bar begins "
    said += "at its position in the prompt; click one to see the statement it comes from."
    return _view("tree", _part("Prefixes", element("p", said), block_element(facts),
                               _figure(found, "tree")))  # fmt: skip


def _time(found: Explored) -> Markup:
    ran, parts = found.data["run"], []
    if ran is not None:
        errors = [element("p", f"row {row} failed: {text}") for row, text in ran["errors"].items()]
        facts = Facts(tuple(ran["facts"].items()))
        title = f"A run of {counted(ran['rows'], 'row')}, measured"
        parts.append(
            _part(title, block_element(facts), *errors, _figure(found, "timeline", ran["caption"]))
        )
        parts.append(_part("KV memory over time", _figure(found, "memory")))
    else:
        parts.append(
            _part(
                "Timeline",
                _none(
                    "Nothing was run: give --arg or --rows to see host, device and "
                    "statements over time, and the memory that they take."
                ),
            )
        )
    if "plan" in found.pictures:
        said = "Predicted, before it runs: a gen takes all tokens that it may, a text that is not "
        said += f"known yet {UNKNOWN_TOKENS} tokens, a fork over an unknown list two branches, a "
        said += "loop one round, a tool nothing. What may run side by side stands side by side."
        parts.append(_part("The plan, predicted", element("p", said), _figure(found, "plan")))
    if "lifetimes" in found.pictures:
        said = (
            "From the operation that makes a stretch of keys and values to the last that reads it."
        )
        parts.append(_part("KV lifetimes in the plan", element("p", said),
                           _figure(found, "lifetimes")))  # fmt: skip
    return _view("time", *parts)


def _roofline(found: Explored) -> Markup:
    points = found.data["points"]
    if not points:
        return _view("roofline", _none("There are no kernels: the model was not lowered."))
    said = (
        f"One launch of each kernel, predicted for {found.data['hardware']}: decode steps with 256 "
    )
    said += "tokens of context a sequence, and a step that feeds 256 tokens. Larger points take a "
    said += (
        "larger share of their step. Measured: the median over the run's launches, on this machine."
    )
    return _view("roofline", _part("Every kernel on the roofline", element("p", said),
                                   _figure(found, "roofline"), _table(found)))  # fmt: skip


def _table(found: Explored) -> Markup:
    names = (
        "kernel",
        "step",
        "launches",
        "FLOP",
        "bytes",
        "FLOP/B",
        "bound",
        "a launch",
        "measured",
    )
    head = [element("th", name, class_="weft-right" if at in {2, 3, 4, 5, 7, 8} else None)
            for at, name in enumerate(names)]  # fmt: skip
    rows = [_row(point, found.data["measured"].get(point["kernel"]))
            for point in found.data["points"]]  # fmt: skip
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows),
                    class_="sortable")  # fmt: skip
    return element("div", table, class_="weft-grid", tabindex="0")


def _row(point: Mapping[str, Any], measured: Mapping[str, Any] | None) -> Markup:
    name = element("button", point["kernel"], type="button", class_="link",
                   data_kernel=point["kernel"])  # fmt: skip
    took = seconds_text(measured["us"] / 1e6) if measured else ""
    return element(
        "tr", element("td", name, data_value=point["kernel"]), element("td", point["step"]),
        _figure_cell(str(point["launches"]), point["launches"]),
        _figure_cell(si(point["flops"]), point["flops"]),
        _figure_cell(bytes_text(point["bytes"]), point["bytes"]),
        _figure_cell(f"{point['intensity']:.2f}", point["intensity"]),
        element("td", point["bound"]),
        _figure_cell(seconds_text(point["us"] / 1e6), point["us"]),
        _figure_cell(took, measured["us"] if measured else -1),
    )  # fmt: skip


def _figure_cell(text: str, value: float) -> Markup:
    return element("td", text, class_="weft-right", data_value=value)
