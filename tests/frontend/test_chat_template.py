"""Chat formats: framed messages give the very ids of the template rendered as a whole."""

import json
from pathlib import Path

import pytest
from weft.frontend.checkpoints.chat_template import (
    ChatTemplateError,
    PlainChat,
    TemplateChat,
    load_chat_format,
    render_ids,
)
from weft.frontend.checkpoints.tokenizer import HubTokenizer, load_tokenizer
from weft.frontend.lowering.lower import lower
from weft.frontend.models.config import UnreadableFile
from weft.frontend.text.parser import parse_text
from weft.ir.diagnostics import PassError
from weft.ir.vocabulary import Frame, encode_parts
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.program.prefixes.tree import prefix_tree
from weft.passes.validation.registry import validation

ZOO = Path(__file__).parents[2] / "zoo" / "tiny-dense"

LLAMA3 = """{%- set ns = namespace(first=true) -%}{{ bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

NO_SYSTEM = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Roles must alternate') }}{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ message['content'] + eos_token }}{% endif %}
{% endfor %}"""

SPECIALS = ["<|begin|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>",
            "<|im_end|>"]  # fmt: skip
VARIABLES = {"bos_token": "<|begin|>", "eos_token": "<|eot_id|>"}


@pytest.fixture(scope="module")
def tokenizer():
    """The zoo's tokenizer with the special tokens of the templates here."""
    data = json.loads((ZOO / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    proto = data["added_tokens"][0]
    for token in SPECIALS:
        vocabulary[token] = len(vocabulary)
        data["added_tokens"].append(proto | {"id": vocabulary[token], "content": token})
    return HubTokenizer(data, (), vocabulary["<|begin|>"])


def whole(format, tokenizer, messages, **variables):
    """The ids of the template rendered in one go, special tokens parsed everywhere."""
    rendered = format._render([{"role": r, "content": c} for r, c in messages], False)
    ids = []
    for part in format.parts(rendered):
        ids += tokenizer.encode(part) if isinstance(part, str) else [part]
    return ids


CHAT = [("user", "What is 1+1?"), ("assistant", "2"), ("user", "And 2+2?"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (LLAMA3, [("system", "Be brief."), *CHAT]),
        (LLAMA3, CHAT),
        (QWEN, [("system", "Be brief."), *CHAT]),
        (QWEN, CHAT),
        (NO_SYSTEM, CHAT),
    ],
)
def test_frames_join_to_the_whole(template, messages, tokenizer):
    format = TemplateChat(template, tokenizer, VARIABLES)
    assert render_ids(format, tokenizer, messages) == whole(format, tokenizer, messages)


@pytest.mark.parametrize("template", [QWEN, NO_SYSTEM])
def test_programs_compile_for_templates_that_look_at_the_messages_before(template, tokenizer):
    """Such a template refuses an assistant's message that stands first."""
    text = """program judge(essay: str) -> str:
    user "You judge: "
    assistant gen first(max_tokens=3)
    user "{essay}"
    fork 2 as reviews:
        assistant:
            "I judge: "
            gen review(max_tokens=4)
        yield review
    assistant select grade from ["A", "B"]
    return grade
"""
    chat = TemplateChat(template, tokenizer, VARIABLES)
    context = Context(tokenizer=tokenizer, chat=chat, validate=validation())
    plan, _ = run_passes(
        (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES), lower(parse_text(text)), context
    )
    first = prefix_tree(plan, "judge", tokenizer, [{"essay": "one"}]).calls[0].prompt
    user, answer = chat.frame((), "user"), chat.frame(("user",), "assistant")
    parts = (*chat.start(), *user.prefix, "You judge: ", *user.suffix, *answer.prefix)
    assert first.elements == tuple(encode_parts(tokenizer, parts))


TALK = """program talk(questions: list[str]) -> str:
    for question in questions:
        user "{question}"
        assistant gen reply(max_tokens=3)
    return "done"
"""
BRIEF = """program talk(questions: list[str]) -> str:
    if len(questions) > 2:
        system "Be brief."
    user "{questions}"
    assistant gen reply(max_tokens=3)
    return reply
"""
ASKED = """program talk(questions: list[str]) -> str:
    for question in questions:
        if len(question) > 2:
            user "{question}"
            assistant gen reply(max_tokens=3)
    return "done"
"""
RULES = """program talk(rules: list[str]) -> str:
    for rule in rules:
        system "{rule}"
    user "What?"
    assistant gen reply(max_tokens=3)
    return reply
"""
EARLY = """program ask(known: bool) -> str:
    if known:
        return "known"
    user "What?"
    assistant gen said(max_tokens=3)
    return said

program talk(known: bool) -> str:
    let said = inline ask(known)
    user "{said}"
    assistant gen reply(max_tokens=3)
    return reply
"""


def compiled(text, template, tokenizer):
    chat = TemplateChat(template, tokenizer, VARIABLES)
    context = Context(tokenizer=tokenizer, chat=chat, validate=validation())
    run_passes((*PROGRAM_PASSES, *LOWERING), lower(parse_text(text)), context)


@pytest.mark.parametrize(
    ("text", "says", "mend"),
    [
        (TALK, r":3:9: .* otherwise in later rounds", ("    for", '    system "Go."\n    for')),
        (ASKED, r":4:13: .* in later rounds", ("    for", '    system "Go."\n    for')),
        (RULES, r":4:5: .* depends on a condition", ("    for", '    system "Go."\n    for')),
        (EARLY, r":10:5: .* depends on a condition", ("    let", '    system "Go."\n    let')),
        (
            BRIEF,
            r":4:5: .* depends on a condition",
            ("    user", '    else:\n        system ""\n    user'),
        ),
    ],
)
def test_a_message_of_which_there_would_be_two_forms_is_refused(text, says, mend, tokenizer):
    """Qwen's default system message stands before the first message alone."""
    with pytest.raises(PassError, match=says):
        compiled(text, QWEN, tokenizer)
    compiled(text.replace(*mend), QWEN, tokenizer)
    compiled(text, LLAMA3, tokenizer)
    compiled(TALK, NO_SYSTEM, tokenizer)


def test_a_way_that_the_template_refuses_and_no_run_takes_is_none(tokenizer):
    """Once it is done there is no further round, in which an answer would follow an answer."""
    text = """program retry(question: str) -> str:
    user "{question}"
    let done = false
    while not done up to 3:
        assistant gen said(max_tokens=3)
        done = len(said) > 2
        if not done:
            user "Longer."
    return "done"
"""
    compiled(text, NO_SYSTEM, tokenizer)
    answers = text.replace("        if not done:\n            user", "        assistant")
    users = TALK.replace("        assistant gen reply(max_tokens=3)\n", "")
    for twice in (answers, users):
        with pytest.raises(ChatTemplateError, match=r":\d+:9: .*Roles must alternate"):
            compiled(twice, NO_SYSTEM, tokenizer)


def test_zoo_template_equals_transformers():
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(ZOO)
    format = load_chat_format(ZOO, tokenizer)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(ZOO)
    messages = [{"role": role, "content": text} for role, text in [("system", "Hi."), *CHAT]]
    expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert render_ids(format, tokenizer, [("system", "Hi."), *CHAT]) == expected


def test_generation_prompt_is_the_assistants_prefix(tokenizer):
    format = TemplateChat(LLAMA3, tokenizer, VARIABLES)
    frame = format.frame(("user",), "assistant")
    ids = tokenizer.special_texts
    assert frame == Frame(
        (ids["<|start_header_id|>"], "assistant", ids["<|end_header_id|>"], "\n\n"),
        (ids["<|eot_id|>"],),
    )
    assert format.start() == (ids["<|begin|>"],)


def test_default_system_message_belongs_to_the_first_message(tokenizer):
    format = TemplateChat(QWEN, tokenizer, VARIABLES)
    assert "system\nYou are Qwen." in format.frame((), "user").prefix
    assert "system\nYou are Qwen." not in format.frame((), "system").prefix
    assert format.start() == ()


def test_user_text_is_not_parsed_for_special_tokens(tokenizer):
    format = TemplateChat(LLAMA3, tokenizer, VARIABLES)
    ids = render_ids(format, tokenizer, [("user", "<|eot_id|>")])
    assert ids.count(tokenizer.special_texts["<|eot_id|>"]) == 1


def test_a_refused_role_is_an_error(tokenizer):
    format = TemplateChat(NO_SYSTEM, tokenizer, VARIABLES)
    with pytest.raises(ChatTemplateError, match="System role not supported") as caught:
        format.frame((), "system")
    assert "roles: system" in str(caught.value) and "hint:" in str(caught.value)
    with pytest.raises(ChatTemplateError, match="alternate"):
        format.frame(("user",), "user")


def test_a_template_cannot_reach_python(tokenizer):
    format = TemplateChat("{{ messages.__class__.__mro__[1].__subclasses__() }}", tokenizer, {})
    with pytest.raises(ChatTemplateError):
        format.frame((), "user")


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ raise_exception('no') }}", "constant", "{{ 1 / 0 }}", "{{ 1 + messages }}"],
)
def test_useless_templates_are_errors(template, tokenizer):
    with pytest.raises(ChatTemplateError):
        TemplateChat(template, tokenizer, {}).frame((), "user")


def test_plain_text_without_a_template(tmp_path, tokenizer):
    format = load_chat_format(tmp_path, tokenizer)
    assert isinstance(format, PlainChat)
    assert format.frame((), "user") == Frame(("user: ",), ("\n",))


def test_template_from_tokenizer_config(tmp_path, tokenizer):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": LLAMA3}]
    settings = {"chat_template": named, "bos_token": {"content": "<|begin|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    format = load_chat_format(tmp_path, tokenizer)
    assert format.start() == (tokenizer.begin_id,)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("chat_template.jinja", "a\n{% for %}", "does not parse: line 2: "),
        ("chat_template.jinja", "\udcff", "it is no UTF-8 text"),
        ("tokenizer_config.json", '{"chat_template": "{% for %}"}', "does not parse: line 1: "),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "have no names"),
        ("tokenizer_config.json", '{"chat_template": {}}', "is no text"),
        ("tokenizer_config.json", '{"chat_template": "x", "pad_token": {}}', "a form that is not"),
    ],
)
def test_a_broken_file_is_named(tmp_path, tokenizer, file, content, says):
    (tmp_path / file).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UnreadableFile, match=f"{file}: .*{says}"):
        load_chat_format(tmp_path, tokenizer)


def test_generation_blocks_hold(tokenizer):
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
    )
    assert TemplateChat(template, tokenizer, {}).frame((), "user") == Frame((), (";",))
