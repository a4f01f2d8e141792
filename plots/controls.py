"""Sliders where ipywidgets is there, and a row of settings where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def sliders(draw: Callable[..., Any], **choices: Sequence[Any]) -> Any:
    """Show `draw(**settings)` under one slider a setting; it runs again when one is let go.

    The first choice of each is where it begins. Without ipywidgets it is drawn for the first
    choices, then once more for each setting's last one, so that one sees what each does.
    """
    try:
        from ipywidgets import SelectionSlider, interactive
    except ModuleNotFoundError:
        return settings(draw, choices)
    controls = {
        name: SelectionSlider(
            options=sorted(values), value=values[0], description=name.replace("_", " "),
            continuous_update=False, style={"description_width": "9em"},
        )
        for name, values in choices.items()
    }  # fmt: skip
    return interactive(draw, **controls)


class Shown(list[Any]):
    """Pictures that a notebook shows below one another."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for each in self:
            display(each)


def settings(draw: Callable[..., Any], choices: dict[str, Sequence[Any]]) -> Shown:
    """Return what `draw` gives for the first choices, and for each setting's last one."""
    first = {name: values[0] for name, values in choices.items()}
    changed = [first | {name: values[-1]} for name, values in choices.items()]
    return Shown(draw(**each) for each in (first, *changed))
