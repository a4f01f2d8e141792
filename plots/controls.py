"""Sliders where ipywidgets is there, and a row of settings where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """Pictures that a notebook shows below one another, each under what was set for it."""

    def __init__(self, drawn: Mapping[str, Any]) -> None:
        super().__init__(drawn.values())
        self.captions = tuple(drawn)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for caption, each in zip(self.captions, self, strict=True):
            print(caption)
            display(each)


def settings(draw: Callable[..., Any], choices: dict[str, Sequence[Any]]) -> Shown:
    """Return what `draw` gives for the first choices, and for each setting's last one."""
    first = {name: values[0] for name, values in choices.items()}
    changed = [{name: values[-1]} for name, values in choices.items()]
    return Shown({_caption(each): draw(**first | each) for each in (first, *changed)})


def _caption(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
