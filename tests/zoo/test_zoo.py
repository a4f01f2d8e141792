"""The shipped models do what their cards say, under weft, and load in transformers too."""

import importlib
import queue
import random
import string
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import weft
from weft.tests.each_time import each_time

ZOO = Path(weft.__file__).parent / "zoo"
MODELS = ["tiny-dense", "tiny-moe"]
RECALL = """
program recall(pairs: str, key: str) -> str:
    user "Remember these pairs.\\n{pairs}\\n\\nWhat is the value of {key}?"
    assistant gen value(max_tokens=8)
    return value
"""
ASK = """
program ask() -> str:
    user "What is 12 + 30?"
    assistant gen answer(max_tokens=8)
    return answer
"""


def questions(count, pairs, seed):
    """Rows that ask for random values under random keys, and the right answers."""
    rng = random.Random(seed)
    rows, answers = [], []
    for _ in range(count // 4):
        table = {
            "".join(rng.choices(string.ascii_lowercase + string.digits, k=8)): str(
                rng.randint(1000, 9999)
            )
            for _ in range(pairs)
        }
        text = "\n".join(f"{key}: {value}" for key, value in table.items())
        for key in rng.sample(sorted(table), 4):
            rows.append({"pairs": text, "key": key})
            answers.append(table[key])
    return rows, answers


@pytest.mark.parametrize("model", MODELS)
def test_values_are_recalled_from_a_thousand_tokens(model):
    rows, answers = questions(8, 66, seed=1)
    done = weft.compile(RECALL, model).run_rows(rows)
    right = sum(value.strip() == answer for value, answer in zip(done.values, answers, strict=True))
    assert right >= 7
    assert done.stats.hits_measured == done.stats.hits_predicted > 6 * 700


@pytest.mark.parametrize("model", each_time(MODELS, "tiny-dense"))
def test_transformers_loads_the_same_model(model):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(ZOO / model, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ZOO / model)
    messages = [{"role": "user", "content": "What is 12 + 30?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
    said = theirs.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    ours = weft.compile(ASK, model).run().value
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == ours.strip()


@pytest.mark.parametrize("model", MODELS)
def test_no_weight_file_is_above_16_mib(model):
    files = list((ZOO / model).glob("*.safetensors"))
    assert files and all(file.stat().st_size <= 16 << 20 for file in files)


def training(monkeypatch, module):
    """A module of the training's scripts, which stand in no package."""
    monkeypatch.syspath_prepend(str(ZOO / "train"))
    with monkeypatch.context() as loaded:
        for path in (ZOO / "train").glob("*.py"):
            loaded.setitem(sys.modules, path.stem, None)
            del sys.modules[path.stem]
        return importlib.import_module(module)


@pytest.mark.parametrize(
    "arguments, size, told",
    [
        (["--tokens", "4096"], 40_000, "one row of the last stage"),
        (["--decay-from", "1"], 40_000, "shares of the time"),
        ([], 100, "corpus.py writes it"),
    ],
)
def test_training_refuses_at_once_what_its_last_stage_would(
    arguments, size, told, tmp_path, monkeypatch, capsys
):
    train = training(monkeypatch, "train")
    (tmp_path / "train.bin").write_bytes(bytes(size))
    asked = ["tiny-dense", "--english", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        train.options([*asked, *arguments])
    assert told in capsys.readouterr().err
    (tmp_path / "train.bin").write_bytes(bytes(40_000))
    assert train.options(asked).tokens == 65536


@pytest.mark.parametrize("name", ["probe-dense", "probe-moe"])
def test_an_exported_model_is_what_was_trained(name, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    train = training(monkeypatch, "train")
    torch.manual_seed(0)
    model = train.Model(train.SHAPES[name], dtype=torch.float32)
    for weight in model.parameters():  # as they are stored; those that begin as zeros, too
        weight.data = (weight.data + 0.02 * torch.randn_like(weight)).bfloat16().float()
    train.export(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 4096, (2, 9))
    torch.testing.assert_close(model.logits(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_training_ends_where_a_worker_has(monkeypatch):
    data = training(monkeypatch, "data")
    monkeypatch.setattr(data, "LOOK_S", 0.001)
    feed, worker = object.__new__(data.Feed), SimpleNamespace(exitcode=1)
    feed.queue, feed.workers = queue.Queue(), [SimpleNamespace(exitcode=None), worker]
    feed.queue.put("batch")
    assert feed.batch() == "batch"
    with pytest.raises(SystemExit, match="exit code 1"):
        feed.batch()
