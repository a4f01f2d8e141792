"""Finds a model by name or folder, and opens what compilation needs of it, but not its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..ir.core import Module
from ..ir.diagnostics import ModelError
from ..ir.model import ModelConfig
from ..ir.vocabulary import ChatFormat
from .chat_template import load_chat_format
from .models.registry import load_model
from .tokenizer import HubTokenizer, load_tokenizer

ZOO = Path(__file__).resolve().parent.parent / "zoo"
"""Where the shipped models are: a folder each."""


class UnknownModel(ModelError):
    """A model that is neither shipped nor a folder."""

    template = "there is no model {model!r}: no shipped model and no folder of that name"
    hint = "shipped are {shipped}; a checkpoint is a folder with config.json"


class NoCheckpoint(ModelError):
    """A folder without a configuration."""

    template = "{folder} is no checkpoint: it has no config.json"
    hint = "give the folder that holds config.json, tokenizer.json and *.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model's name, its folder, and what is read from it when first asked for.

    A random model (`random:NAME`) has no folder; it borrows the tokenizer of a shipped one.
    """

    name: str
    folder: Path | None

    @cached_property
    def _loaded(self) -> tuple[ModelConfig, Module]:
        return load_model(self.folder if self.folder else self.name)

    @property
    def config(self) -> ModelConfig:
        """The configuration, from config.json."""
        return self._loaded[0]

    @property
    def graph(self) -> Module:
        """The model's step as graph IR."""
        return self._loaded[1]

    @property
    def vocabulary_folder(self) -> Path:
        """The folder that the tokenizer and the chat template are read from."""
        return self.folder or ZOO / "tiny-dense"

    @cached_property
    def tokenizer(self) -> HubTokenizer:
        """The tokenizer; raises ModelError where it is missing."""
        return load_tokenizer(self.vocabulary_folder)

    @cached_property
    def chat(self) -> ChatFormat:
        """The chat template's markers, or plain text where there is no template."""
        return load_chat_format(self.vocabulary_folder, self.tokenizer)


def shipped_models() -> dict[str, Path]:
    """Return the models of the zoo that are complete, by name."""
    return {
        folder.name: folder
        for folder in sorted(ZOO.iterdir() if ZOO.is_dir() else ())
        if (folder / "config.json").exists()
    }


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Return the checkpoint of a shipped name, a folder, or `random:NAME`; raises ModelError."""
    name = str(model)
    if name.startswith("random:"):
        return Checkpoint(name, None)
    shipped = shipped_models()
    if name in shipped:
        return Checkpoint(name, shipped[name])
    folder = Path(name)
    if not folder.is_dir():
        raise UnknownModel(model=name, shipped=" and ".join(shipped) or "none")
    if not (folder / "config.json").exists():
        raise NoCheckpoint(folder=name)
    return Checkpoint(folder.name, folder)
