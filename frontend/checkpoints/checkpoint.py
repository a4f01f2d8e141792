"""Finds a model by name or folder, and opens what compilation needs of it, but not its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from ...ir.core import Module
from ...ir.diagnostics import ModelError
from ...ir.model import ModelConfig
from ...ir.sparse.calibration_file import FILE_NAME as CALIBRATION_FILE
from ...ir.vocabulary import ChatFormat
from ..models.registry import load_model
from .tokenizer import HubTokenizer, load_tokenizer

ZOO = Path(__file__).resolve().parents[2] / "zoo"
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

    @cached_property
    def identity(self) -> str:
        """A hash that tells this model's weights and rope from others': 64 hex digits.

        It covers the size of every weight file and 64 blocks spread over it, not every byte.
        """
        digest = sha256(str(self.config.rope.table()).encode())
        for file in sorted(self.folder.glob("*.safetensors")) if self.folder else []:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as opened:
                for at in range(64):
                    opened.seek(at * size // 64)
                    digest.update(opened.read(4096))
        return (digest if self.folder else sha256(self.name.encode())).hexdigest()

    @property
    def calibration_file(self) -> Path | None:
        """Where the calibration of attention is kept, beside the weights; None without a folder."""
        return self.folder / CALIBRATION_FILE if self.folder else None

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
        from .chat_template import load_chat_format  # jinja2 takes a tenth of a check's time

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
    if not name or not folder.is_dir():  # as a path, an empty name is the folder one stands in
        raise UnknownModel(model=name, shipped=" and ".join(shipped) or "none")
    if not (folder / "config.json").exists():
        raise NoCheckpoint(folder=name)
    return Checkpoint(folder.name, folder)
