"""Which endpoint and which model: `openai:URL#NAME`, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import BadRemoteModel

PREFIX = "openai:"


@dataclass(frozen=True)
class Address:
    """An endpoint's base address and a model's name there (empty: the only one that it serves)."""

    base: str
    name: str

    @staticmethod
    def parse(model: str) -> Address:
        """Return the address that a model's text stands for; raises BadRemoteModel."""
        base, _, name = model.removeprefix(PREFIX).partition("#")
        try:
            parts = urlsplit(base)
            known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # brackets that hold no address, a port too large, a name's empty part
            parts, known = None, False
        if parts is None or not known:
            shown = f"{PREFIX}..." if "@" in base else model  # it may hold a password
            raise BadRemoteModel(model=shown, problem="there is no http(s) address after openai:")
        if parts.username or parts.password:
            problem = "a name or password stands in the address"
            hint = "keys are read from OPENAI_API_KEY"
            raise BadRemoteModel(model="openai:...", problem=problem, hint=hint)
        if "?" in base:
            problem = "a query stands in the address, behind which no path can"
            hint = "leave out what stands from the ? on"
            raise BadRemoteModel(model="openai:...", problem=problem, hint=hint)
        return Address(base.rstrip("/"), name)

    def url(self, path: str) -> str:
        """Return the address of a path; a server's extras stand beside the API, not in it."""
        base = self.base.removesuffix("/v1") if path.startswith("/extras") else self.base
        return base + path

    def __str__(self) -> str:
        return f"{PREFIX}{self.base}#{self.name}"


def is_remote(model: object) -> bool:
    """Return whether a model is named as a remote one."""
    return isinstance(model, str) and model.startswith(PREFIX)
