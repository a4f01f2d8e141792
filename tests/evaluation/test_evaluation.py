"""The harness: a context is read once, a question leaves it as it was, generators keep promises."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from weft.compiler.attention import calibration_of
from weft.evaluation.attention import judged
from weft.evaluation.harness import Evaluation, Plan
from weft.evaluation.kernels import KernelSubject
from weft.evaluation.retrieval import KINDS, ROOM, judge, questions
from weft.evaluation.subject import ContextTooLong, Subject
from weft.frontend.checkpoints.checkpoint import ZOO, open_checkpoint
from weft.ir.sparse.calibration_file import save_calibration
from weft.ir.sparse.policy import SparsePolicy


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


@pytest.mark.parametrize("kind, seed", [("pairs", 9), ("needles", 8)])
def test_contexts_that_come_out_longer_than_the_model_holds_are_made_again(subject, kind, seed):
    """Of 7900 tokens some have more; a model of so many and a question's room holds them all."""
    longest = []
    for room in (8192, 7900 + ROOM):
        config = replace(subject.config, context_length=room)
        small = SimpleNamespace(checkpoint=subject.checkpoint, config=config)
        asked = list(questions(small, kind, 7900, 2, seed=seed))
        longest.append(max(len(each[0].shared) for each in asked))
        assert min(len(each[0].shared) for each in asked) > 7500
    assert longest[0] > 7900 >= longest[1]


def test_lengths_that_cannot_be_are_refused_before_anything_is_measured(subject):
    each, said = judged(subject.checkpoint, []), []
    plan = Plan(lengths=(256, 8192), text=ZOO / "heldout.txt")
    with pytest.raises(ContextTooLong, match="8288 tokens do not fit"):
        Evaluation(subject, each, plan, said.append).run()
    assert said == []


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


def test_a_gpus_selection_is_judged_where_it_is_asked_for(subject):
    """As many keys as by exact scores, but others; policies whose labels are no words select
    alike."""
    ids = torch.randint(7, 4096, (140,), generator=torch.Generator().manual_seed(4)).tolist()
    subject.begin(ids[:120], room=20)
    for labels in ("i4", "bf16"):
        policy = SparsePolicy(k=40, sinks=2, recent=8, min_context=0, labels=labels)
        found = []
        for words in (False, True):
            each = judged(subject.checkpoint, [policy], words=words)[1]
            found.append(subject.follow(ids[120:], each.attend()))
            assert each.tokens_share() == pytest.approx(40 / 130.5, rel=1e-3)
        assert torch.equal(*found) == (labels == "bf16")


@pytest.mark.slow
def test_kernels_say_what_the_meaning_says_and_count_the_same(subject, tmp_path):
    """A context read densely, then decode, a token a step; a page fills in between. By a file whose
    channels come in another order than the model's own."""
    own, file = calibration_of(subject.checkpoint, SparsePolicy(k=30)), tmp_path / "turned.json"
    layers = tuple(tuple(replace(head, order=head.order[::-1]) for head in layer)
                   for layer in own.layers)  # fmt: skip
    save_calibration(replace(own, layers=layers), file)
    policy = SparsePolicy(k=30, sinks=2, recent=8, min_context=0, tail="mean")
    ids = torch.randint(7, 4096, (110,), generator=torch.Generator().manual_seed(3)).tolist()
    found = {}
    for tested in (subject, KernelSubject(subject.checkpoint, calibration=file)):
        each = judged(subject.checkpoint, [policy], file)[1]
        each.start()
        tested.begin(ids[:90], room=30)
        logits = tested.follow(ids[90:], tested.attention_of(each))
        found[type(tested)] = logits, each.tokens_share(), each.bytes_share()
    meaning, kernels = found.values()
    torch.testing.assert_close(kernels[0], meaning[0], atol=2e-3, rtol=1e-3)
    assert kernels[1:] == meaning[1:]
