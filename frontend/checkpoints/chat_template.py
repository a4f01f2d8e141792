"""A checkpoint's chat template, taken apart into what stands before and after each message.

The template is rendered with sentinels for contents; texts between sentinels are the markers.
Special tokens that the template itself writes become ids, those inside a user's text never do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...ir.diagnostics import ModelError
from ...ir.vocabulary import ChatFormat, Frame, Part
from ..models.config import UnreadableFile, known_form, read_json, read_text
from .tokenizer import HubTokenizer


class ChatTemplateError(ModelError):
    """A chat template that does not parse, fails, or refuses the roles it was given."""

    template = "the chat template {problem}"


class PlainChat:
    """The format of a model without a chat template: `role: content`, one message a line."""

    def __init__(self, start: tuple[Part, ...] = ()) -> None:
        self._start = start

    def start(self) -> tuple[Part, ...]:
        """Return what stands before the first text."""
        return self._start

    def frame(self, previous_roles: tuple[str, ...], role: str) -> Frame:
        """Return the markers of a message."""
        return Frame((f"{role}: ",), ("\n",))


class TemplateChat:
    """Implements `ir.vocabulary.ChatFormat` by rendering a Jinja template with sentinels."""

    def __init__(self, template: str, tokenizer: HubTokenizer, variables: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._variables = variables
        try:
            self._template = _environment().from_string(_plain_tags(template))
        except jinja2.TemplateError as error:
            where = (
                f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            )
            raise ChatTemplateError(problem=f"does not parse: {where}{error.message}") from None
        self._frames: dict[tuple[tuple[str, ...], str], Frame] = {}
        self._texts: dict[tuple[tuple[str, ...], bool], list[str]] = {}
        self._start: tuple[Part, ...] | None = None

    def start(self) -> tuple[Part, ...]:
        """Return the begin token, where the template writes it, and the dummy space."""
        if self._start is None:
            begin = self._tokenizer.begin_id
            written = self._opening().startswith(self._begin_text())
            parts: list[Part] = [begin] if begin is not None and written else []
            self._start = (*parts, *filter(None, [self._tokenizer.first_text]))
        return self._start

    def frame(self, previous_roles: tuple[str, ...], role: str) -> Frame:
        """Return the markers of a message; raises ChatTemplateError if the template refuses it."""
        key = (previous_roles, role)
        if key not in self._frames:
            prefix, suffix = self._markers(previous_roles, role)
            self._frames[key] = Frame(self.parts(prefix), self.parts(suffix))
        return self._frames[key]

    def parts(self, text: str) -> tuple[Part, ...]:
        """Split a text of the template at its special tokens."""
        specials = self._tokenizer.special_texts
        pattern = "|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True))
        pieces = re.split(f"({pattern})", text) if pattern else [text]
        return tuple(specials.get(piece, piece) for piece in pieces if piece)

    def _markers(self, previous: tuple[str, ...], role: str) -> tuple[str, str]:
        roles = (*previous, role)
        between = self._rendered(roles)
        prefix, suffix = between[-2], between[-1]
        if role == "assistant":  # what the model is to continue, which a finished message may lack
            prefix = self._rendered(previous, generate=True)[-1] or prefix
        if not previous:
            return prefix.removeprefix(self._begin_text()), suffix
        ended = self._rendered(previous)[-1]
        if not prefix.startswith(ended):
            problem = (f"ends a message of {previous[-1]!r} in another way once a message of "
                       f"{role!r} follows")  # fmt: skip
            raise ChatTemplateError(problem=problem, hint="streams only grow, so it cannot be used")
        return prefix.removeprefix(ended), suffix

    def _rendered(self, roles: tuple[str, ...], generate: bool = False) -> list[str]:
        """Return the texts before, between and after the contents of messages of these roles."""
        key = (roles, generate)
        if key not in self._texts:
            self._texts[key] = self._between(roles, generate)
        return self._texts[key]

    def _between(self, roles: tuple[str, ...], generate: bool) -> list[str]:
        messages = [{"role": role, "content": _sentinel(i)} for i, role in enumerate(roles)]
        text = self._render(messages, generate)
        found = [text]
        for message in messages:
            head, mark, tail = found.pop().partition(message["content"])
            if not mark:
                problem = f"leaves out the content of a message of {message['role']!r}"
                raise ChatTemplateError(problem=f"{problem} (roles: {', '.join(roles)})")
            found += [head, tail]
        return found

    def _render(self, messages: list[dict[str, str]], generate: bool) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=generate, **self._variables
            )
        except Exception as error:  # a template's own error, or what Python says of its values
            roles = ", ".join(message["role"] for message in messages) or "none"
            raise ChatTemplateError(
                problem=f"refuses messages of these roles: {roles}: {error}",
                hint="write the program with roles, and an order of roles, that the model knows",
            ) from None

    def _begin_text(self) -> str:
        return str(self._variables.get("bos_token") or "")

    def _opening(self) -> str:
        """Return a rendering's beginning; the first message's role should not matter for it."""
        try:
            return self._rendered(("user",))[0]
        except ChatTemplateError:
            return self._rendered(("system",))[0]


def load_chat_format(folder: str | Path, tokenizer: HubTokenizer) -> ChatFormat:
    """Return the chat format of a checkpoint folder; plain text where it has no template.

    Raises UnreadableFile and ChatTemplateError.
    """
    folder = Path(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    file, template = _template_text(folder, settings)
    if template is None:
        begin = (tokenizer.begin_id,) if settings.get("add_bos_token") else ()
        space = (tokenizer.first_text,) if tokenizer.first_text else ()
        return PlainChat((*(id for id in begin if id is not None), *space))
    with known_form(path):
        variables = _token_variables(settings)
    try:
        return TemplateChat(template, tokenizer, variables)
    except ChatTemplateError as error:
        raise UnreadableFile(file=file, problem=error.message) from None


def _template_text(folder: Path, settings: dict[str, Any]) -> tuple[Path, str | None]:
    """Return where a checkpoint's template stands, and the template."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file, read_text(file)
    file, found = folder / "tokenizer_config.json", settings.get("chat_template")
    if isinstance(found, list):  # named templates, one of them the default
        try:
            named = {entry["name"]: entry["template"] for entry in found}
        except (KeyError, TypeError):
            problem = "the chat templates have no names"
            raise UnreadableFile(file=file, problem=problem) from None
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise UnreadableFile(file=file, problem="the chat template is no text")
    return file, found


def _token_variables(settings: dict[str, Any]) -> dict[str, Any]:
    """Return bos_token, eos_token, ... as the texts that templates write."""
    variables = {}
    for key, value in settings.items():
        if key.endswith("_token") and isinstance(value, str | dict):
            variables[key] = value["content"] if isinstance(value, dict) else value
    return variables


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    environment.filters["tojson"] = _tojson
    return environment


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    """Write JSON without escaping for HTML, unlike Jinja's own filter."""
    return json.dumps(value, ensure_ascii=options.get("ensure_ascii", False), indent=indent)


def _plain_tags(template: str) -> str:
    """Make `generation` blocks, which only mark text for training, into blocks that always hold."""
    opened = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", opened)


def _sentinel(index: int) -> str:
    return f"Q7content{index}Z7"


def render_ids(format: ChatFormat, tokenizer: HubTokenizer, messages: Sequence[tuple[str, str]]
               ) -> list[int]:  # fmt: skip
    """Return the ids of a whole conversation of (role, content): start, then framed contents."""
    from ...ir.vocabulary import encode_parts

    parts: list[Part] = list(format.start())
    for index, (role, content) in enumerate(messages):
        frame = format.frame(tuple(role for role, _ in messages[:index]), role)
        parts += [*frame.prefix, content, *frame.suffix]
    return encode_parts(tokenizer, parts)
