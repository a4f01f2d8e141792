"""What can go wrong between a program and an endpoint; each says which, and what to do."""

from __future__ import annotations

from ...ir.diagnostics import ModelError, RunError


class BadRemoteModel(ModelError):
    """A model that begins like a remote one and is none."""

    template = "{model!r} is no remote model: {problem}"
    hint = "write openai:http://HOST:PORT/v1#NAME"


class MissingPackage(ModelError):
    """A remote model without the packages that speak to it."""

    template = "remote models need the package {package}"
    hint = "pip install 'httpx>=0.27' 'tenacity>=9' (the extra `remote` of weft)"


class Unreachable(RunError):
    """An endpoint that does not answer, also after retries."""

    template = "{url} cannot be reached: {problem} ({tries})"
    hint = "is the server running, and is the address right?"


class Unauthorized(RunError):
    """An endpoint that refuses the key, or the lack of one."""

    template = "{url} refuses the call ({status}): {problem}"
    hint = "set OPENAI_API_KEY to a key that it accepts"


class UnsendableKey(RunError):
    """A key with characters that no header may have; they are not shown."""

    template = "the key for {url} has characters that cannot be sent"
    hint = "set OPENAI_API_KEY to the key alone: a line of plain letters, digits and signs"


class UnknownRemoteModel(RunError):
    """A model or an adapter that the endpoint does not serve."""

    template = "{url} serves no {what} {name!r}"
    hint = "it serves: {known}"


class UnnamedRemoteModel(RunError):
    """An endpoint that lists no model or several, where none was named."""

    template = "which model of {url} is meant is not said, and it lists {known}"
    hint = "name one: openai:{url}#NAME"


class MissingRoute(RunError):
    """A form of calls that the endpoint does not have."""

    template = "{url} has no {path}"
    hint = "see whether the address ends as it should (often in /v1), or choose another remote api"


class Refused(RunError):
    """A call that the endpoint finds wrong: a parameter it does not know, a value out of range."""

    template = "{what}: {url} refuses the call ({status}): {problem}"
    hint = "leave out what it does not support, or name its kind: --remote dialect=..."


class ContextOverflow(RunError):
    """A prompt that does not fit the model's context."""

    template = "{what}: the prompt does not fit the model's context: {problem}"
    hint = "shorten the prompt, lower max_tokens, or choose a model with a longer context"


class TextTooLong(RunError):
    """A loop's text of more characters than one may have."""

    template = (
        "row {row}: after {rounds} rounds of a loop its text has {characters:,} characters, more "
        "than the {most:,} that it may have"
    )
    hint = "let the loop end earlier, or add less text in it"


class ServerFailed(RunError):
    """An endpoint that failed again and again."""

    template = "{url} failed with {status}: {problem} ({tries})"
    hint = "it may be overloaded: lower --remote-concurrency, or raise --remote retries=N"


class CutStream(RunError):
    """A streamed answer that ended in its middle."""

    template = "{url} cut its answer off: {problem} ({tries})"


class Malformed(RunError):
    """An answer that is not of the API's form."""

    template = "{what}: {url} answers in another form than the API's: {problem}"
    hint = "is it an OpenAI-compatible endpoint, and is it the right address?"


class Lacks(RunError):
    """Something that a program needs and an endpoint does not have."""

    template = "{what}: {lack}"


class WrongValue(RunError):
    """An answer that is no value of its gen's type."""

    template = "row {row}: {what}: {problem}"
