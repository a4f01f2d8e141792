"""The harness: a context is read once, a question leaves it as it was, generators keep promises."""

import random

import pytest
import torch
from weft.evaluation.attention import judged
from weft.evaluation.kernels import KernelSubject
from weft.evaluation.retrieval import KINDS, judge, questions
from weft.evaluation.subject import Subject
from weft.frontend.checkpoint import open_checkpoint
from weft.ir.sparse import SparsePolicy


@pytest.fixture(scope="module")
def subject():
    return Subject(open_checkpoint("tiny-moe"))


def test_following_a_context_is_reading_the_whole(subject):
    ids = torch.randint(7, 4096, (90,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = subject.whole(ids)
    subject.begin(ids[:60], room=30)
    subject.follow([5] * 30)  # another question on the same context
    torch.testing.assert_close(subject.follow(ids[60:]), whole[60:], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_have_the_length_asked_for_and_hold_the_answers(subject, kind):
    encode = subject.checkpoint.tokenizer.encode
    for tokens in (512, 2048):
        lead, table = KINDS[kind][0](random.Random(1), tokens, encode)
        assert 0.85 * tokens < len(encode(lead)) < 1.02 * tokens
        assert len({key for key, _ in table}) == len(table)
        assert all(key in lead and value in lead for key, value in table)


def test_questions_share_their_context_and_end_with_the_answer(subject):
    (asked,) = questions(subject, "pairs", 300, 1, seed=1)
    decode = subject.checkpoint.tokenizer.decode
    assert len(asked) == 8 and len({question.shared for question in asked}) == 1
    for question in asked:
        answer = decode(question.rest[-question.answer :])
        assert answer.isdecimal() and answer in decode(question.shared)


def test_a_model_answers_from_a_short_context_and_not_when_it_reads_nothing_of_it(subject):
    policies = [SparsePolicy(k=2, sinks=1, recent=1, min_context=0)]
    each = judged(subject.checkpoint, policies)
    for attention in each:
        attention.start()
    right = judge(subject, {a.name: a.attend for a in each}, "pairs", 300, 1)
    dense, blind = (sum(answers) for answers in right.values())
    assert dense >= 6 and blind <= 1
    assert each[0].bytes_share() == 1.0 and each[1].bytes_share() < 0.06


@pytest.mark.slow
def test_kernels_say_what_the_meaning_says_and_count_the_same(subject):
    """A context read densely, then decode, a token a step; a page fills in between."""
    policy = SparsePolicy(k=30, sinks=2, recent=8, min_context=0, tail="mean")
    ids = torch.randint(7, 4096, (110,), generator=torch.Generator().manual_seed(3)).tolist()
    found = {}
    for tested in (subject, KernelSubject(subject.checkpoint)):
        each = judged(subject.checkpoint, [policy])[1]
        each.start()
        tested.begin(ids[:90], room=30)
        logits = tested.follow(ids[90:], tested.attention_of(each))
        found[type(tested)] = logits, each.tokens_share(), each.bytes_share()
    meaning, kernels = found.values()
    torch.testing.assert_close(kernels[0], meaning[0], atol=2e-3, rtol=1e-3)
    assert kernels[1:] == meaning[1:]
