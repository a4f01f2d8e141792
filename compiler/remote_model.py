"""From a program to something that runs it on a remote model: `--model openai:URL#NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..frontend.ignored import ignored_remotely, tell
from ..frontend.semantics.constraints import constraint_of, pattern_of
from ..ir.diagnostics import ModelError
from ..ir.vocabulary import ChatFormat, Part
from ..options import BadOption, Options, RemoteOptions
from ..passes.manager import Pass
from ..passes.pipeline import REMOTE_PASSES
from ..passes.program.endpoints.calls import RemoteCalls
from ..runtime.remote.address import Address, is_remote

if TYPE_CHECKING:
    from ..frontend.checkpoints.tokenizer import HubTokenizer
    from ..runtime.remote.executable import RemoteExecutable
    from ..runtime.remote.prompt import TextFormat
    from .compilation import Compilation


class NotForRemote(ModelError):
    """A stage of compilation that a remote model does not have."""

    template = "{model} is a remote model: it has no stage after the program"
    hint = "its program IR runs as it is; dump --stage program, or choose a model that runs here"


OF_THE_ENGINE = (
    "target", "tp", "gpu_memory", "kv_host_memory", "kv_memory", "weights", "kv", "activations",
    "weight_copies", "attention", "attention_always", "max_loss", "calibration",
)  # fmt: skip
"""Options that say how a model in this process computes, which an endpoint is not told of."""


def check_options(options: Options, address: Address | None) -> None:
    """Raise BadOption for what would be left unread: an engine's of an endpoint, or vice versa."""
    if address is None:
        if options.remote.given:
            names = ", ".join(options.remote.given)
            problem = f"{names}: the model runs in this process, and asks no endpoint"
            hint = "leave it out, or name a remote model: openai:URL#NAME"
            raise BadOption(problem=problem, hint=hint)
        return
    plain = Options().changed(target=options.target)  # a target has defaults of its own
    given = [name for name in OF_THE_ENGINE if getattr(options, name) != getattr(plain, name)]
    given = ["target", *given] if options.target != Options().target else given
    if given:
        problem = f"{', '.join(given)}: {address} computes as its server was started"
        hint = "leave it out, or choose a model that runs here"
        raise BadOption(problem=problem, hint=hint)


def remote_address(model: object) -> Address | None:
    """Return the address of a remote model, None of any other; raises BadRemoteModel."""
    return Address.parse(str(model)) if is_remote(model) else None


def remote_passes(options: RemoteOptions) -> tuple[Pass, ...]:
    """Return the program passes for a remote model."""
    chosen = RemoteCalls(options.merge, _chat(options))
    return tuple(chosen if step.name == chosen.name else step for step in REMOTE_PASSES)


def _chat(options: RemoteOptions) -> bool | None:
    """Return whether calls are chat messages; None: where the program has messages."""
    if options.template or options.api == "completions":
        return False
    return True if options.api == "chat" else None


def remote_executable(compilation: Compilation, address: Address) -> RemoteExecutable:
    """Return what runs a compilation's program on its endpoint; no call is made yet."""
    from ..runtime.remote.executable import RemoteExecutable
    from ..runtime.remote.question import Asked
    from .stages import Stages

    options = compilation.options.remote
    program, chat = compilation.program, _chat(options)
    tell([*compilation.warnings, *ignored_remotely(compilation.lowered)], above=4)
    if chat is None:
        chat = any(op.name == "program.begin" for op in program.walk())
    asked = Asked(chat, text_format(options.template), fixed=options.api != "auto")
    return RemoteExecutable(
        program, compilation.program_name, address, options, asked, constraint_of, pattern_of,
        tools=compilation.opened.tools, stages=Stages(compilation), report=compilation,
        seed=compilation.options.seed,
    )  # fmt: skip


def text_format(template: str) -> TextFormat:
    """Return how messages are written as text: by a checkpoint's chat template, or plainly."""
    from ..frontend.checkpoints.checkpoint import open_checkpoint
    from ..runtime.remote.prompt import PlainFormat

    if not template:
        return PlainFormat()
    checkpoint = open_checkpoint(template)
    return TemplateFormat(checkpoint.chat, checkpoint.tokenizer)


class TemplateFormat:
    """Writes messages by a chat template, special tokens as their texts.

    The begin token is left out where the tokenizer, and so the server, puts it before a prompt.
    """

    def __init__(self, chat: ChatFormat, tokenizer: HubTokenizer) -> None:
        self._chat = chat
        self._specials = {id: text for text, id in tokenizer.special_texts.items()}
        self._left_out = tokenizer.begin_id if tokenizer.adds_begin else None

    def start(self) -> str:
        """Return what stands before the first message or text."""
        return self._text(self._chat.start())

    def begin(self, roles: tuple[str, ...], role: str) -> str:
        """Return what stands before a message's content."""
        return self._text(self._chat.frame(roles, role).prefix)

    def end(self, roles: tuple[str, ...], role: str) -> str:
        """Return what stands after it."""
        return self._text(self._chat.frame(roles, role).suffix)

    def _text(self, parts: tuple[Part, ...]) -> str:
        return "".join(
            part if isinstance(part, str) else self._specials[part]
            for part in parts
            if part != self._left_out
        )
