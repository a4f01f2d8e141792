"""Calibration files: what is written reads back, and a wrong file says what would mend it."""

import json
import os
import random
from dataclasses import replace
from threading import Thread

import pytest
from weft.ir.diagnostics import WeftError
from weft.ir.model import ModelConfig, Rope
from weft.ir.sparse.calibration import (
    AttentionCalibration,
    BadCalibration,
    HeadChannels,
    NoLabelRange,
    NotCalibrated,
    OtherModel,
    OtherRopeLayout,
    Provenance,
)
from weft.ir.sparse.calibration_file import (
    load_calibration,
    read_published,
    save_calibration,
)
from weft.ir.sparse.policy import SparsePolicy

CONFIG = ModelConfig("LlamaForCausalLM", 100, 32, 3, 4, 2, 8, 48, 512, Rope())
MEND = "weft calibrate-attention"


def head(rng):
    values = [tuple(round(rng.uniform(0.1, 2), 3) for _ in range(8)) for _ in range(3)]
    return HeadChannels(tuple(rng.sample(range(8), 8)), *values)


@pytest.fixture
def made():
    rng = random.Random(1)
    layers = tuple(tuple(head(rng) for _ in range(2)) for _ in range(3))
    origin = Provenance("abc", "tiny", "f00", 4096, "centred", "2026-01-01")
    return AttentionCalibration(4, 2, 8, layers, origin)


@pytest.fixture
def file(tmp_path, made):
    path = tmp_path / "attention_calibration.json"
    save_calibration(made, path)
    return path


def load(path, **how):
    return load_calibration(path, CONFIG, how.pop("identity", "abc"), "tiny", **how)


def edited(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return path


def test_what_is_saved_reads_back(made, file):
    assert load(file) == replace(made, file=str(file))


def test_an_uncalibrated_model_names_the_command(tmp_path):
    with pytest.raises(NotCalibrated, match=f"run: {MEND} tiny --text FILE"):
        load(tmp_path / "none.json")


def test_other_weights_are_refused(file):
    with pytest.raises(OtherModel, match=f"(?s)weights differ from those of tiny.*{MEND} tiny"):
        load(file, identity="def")


@pytest.mark.parametrize(
    "shape, says",
    [
        ({"heads": 8}, "4 query heads, and the model 8"),
        ({"kv_heads": 4}, "2 key/value heads, and the model 4"),
        ({"layers": 2}, "3 layers, and the model 2"),
        ({"head_dim": 16}, "8 channels a head, and the model 16"),
    ],
)
def test_other_head_counts_are_refused(file, shape, says):
    with pytest.raises(OtherModel, match=f"(?s){says}.*{MEND} tiny"):
        load_calibration(file, replace(CONFIG, **shape), "abc", "tiny")


def test_another_rope_layout_is_refused(file):
    edited(file, lambda raw: raw.update(rope_layout="interleaved"))
    with pytest.raises(OtherRopeLayout, match=f"(?s)'interleaved', and weft's is 'halves'.*{MEND}"):
        load(file)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(file, share):
    text = file.read_text().rstrip()
    file.write_text(text[: int(len(text) * share)])
    with pytest.raises(BadCalibration, match=f"(?s)cut short.*{MEND}"):
        load(file)


def spoil(name, value):
    return lambda raw: raw["layers"][1][0].update({name: value})


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda raw: raw["layers"][2].pop(), "layer 2 has 1 heads of 2"),
        (lambda raw: raw.pop("layers"), "a part is missing"),
        (lambda raw: raw["provenance"].update(color="red"), "a part is missing or wrong"),
        (lambda raw: raw.update(format="other 2"), "format is 'other 2'"),
        (lambda raw: raw.update(head_dim="8"), "head_dim is '8'"),
        (lambda raw: raw.update(rope_layout="thirds"), "rope_layout is one of"),
        (spoil("order", [0] * 8), "layer 1, head 0: its order is no permutation"),
        (spoil("mean", [1.0]), "must have 8 values"),
        (spoil("peak", [float("nan")] * 8), "not finite"),
        (spoil("peak", None), "a part is missing or wrong"),
        (spoil("order", [0.5, *range(1, 8)]), "no whole number"),
        (spoil("deviation", [-1.0] * 8), "negative"),
        (lambda raw: raw["provenance"].update(model=5), "model of the provenance is 5"),
    ],
)
def test_an_impossible_file_is_refused(file, change, says):
    with pytest.raises(BadCalibration, match=f"(?s){says}.*{MEND}"):
        load(edited(file, change))


def places(node, path=()):
    """Yield the place of every value in a JSON document, the document's own last."""
    items = node if isinstance(node, list) else []
    pairs = node.items() if isinstance(node, dict) else enumerate(items)
    for key, value in pairs:
        yield from places(value, (*path, key))
    yield path


def changed(node, path, value):
    """Return a document with a value put in a place."""
    if not path:
        return value
    node = node.copy()
    node[path[0]] = changed(node[path[0]], path[1:], value)
    return node


@pytest.mark.parametrize("layout", ["own", "published"])
def test_no_file_ends_in_a_traceback(file, made, layout):
    """Every value of a file in turn is something odd: the file is read, or refused by name."""
    save_calibration(replace(made, layers=made.layers[:1]), file)
    raw = json.loads(file.read_text()) if layout == "own" else published(layers=1)
    config, refused = replace(CONFIG, layers=1), 0
    for path in places(raw):
        for value in (None, -1, 0.5, 10**400, float("inf"), "x", [], {}):
            file.write_text(json.dumps(changed(raw, path, value)))
            try:
                load_calibration(file, config, "abc", "tiny")
            except WeftError:
                refused += 1
    assert refused > 250


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_a_file_without_end_is_refused(file, text):
    file.write_text(text)
    with pytest.raises(BadCalibration, match=f"(?s)cut short.*{MEND}"):
        load(file)


def test_a_pipe_or_device_takes_a_calibration_and_stays(made, tmp_path):
    """As --out /dev/stdout is; and behind a link the file that it names is written."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    save_calibration(made, pipe)
    reader.join()
    assert json.loads(read[0])["heads"] == 4 and pipe.is_fifo()
    link, file = tmp_path / "link", tmp_path / "far" / "named.json"
    file.parent.mkdir()
    link.symlink_to(file)
    save_calibration(made, link)
    assert link.is_symlink() and load(file).layers == made.layers


def test_a_full_disk_leaves_the_old_file(file, made, monkeypatch):
    before = file.read_text()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(BadCalibration, match="(?s)No space left.*--out FILE"):
        save_calibration(made, file)
    assert file.read_text() == before and len(list(file.parent.iterdir())) == 1


def published(layers=3, q_rows=4):
    rng = random.Random(2)
    rows = {"q": q_rows, "k": 2, "qk": q_rows}
    return {
        f"model.layers.{at}.self_attn.{kind}_proj": [rng.sample(range(8), 8) for _ in range(count)]
        for at in range(layers)
        for kind, count in rows.items()
    }


def test_published_lists_of_query_heads_become_one_order_a_kv_head():
    rows = [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [3, 2, 0, 1]]
    (layer,) = read_published({"model.layers.0.self_attn.qk_proj": rows}, 4, 2).layers
    assert [head.order for head in layer] == [(0, 1, 2, 3), (3, 2, 0, 1)]


@pytest.mark.parametrize("statistic", ["q", "k", "qk"])
def test_a_published_file_is_read_beside_ours(tmp_path, statistic):
    path = tmp_path / "published.json"
    path.write_text(json.dumps(published()))
    found = load(path, identity="anything", statistic=statistic)
    assert (len(found.layers), found.head_dim, found.provenance.statistic) == (3, 8, statistic)
    if statistic == "k":
        first = published()["model.layers.0.self_attn.k_proj"][0]
        assert found.head(0, 0).order == tuple(first)
    found.check_policy(SparsePolicy(k=64, labels="bf16"))
    for policy in (SparsePolicy(k=64), SparsePolicy(k=64, labels="bf16", tail="mean")):
        with pytest.raises(NoLabelRange, match="(?s)labels=bf16 without a tail, or make the range"):
            found.check_policy(policy)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda raw: raw.pop("model.layers.1.self_attn.qk_proj"), "layer 1 has no qk_proj"),
        (lambda raw: raw["model.layers.2.self_attn.qk_proj"].pop(), "layer 2 has 3 heads"),
        (lambda raw: raw["model.layers.0.self_attn.qk_proj"][1].pop(), "of one width"),
        (lambda raw: raw.update({"model.layers.0.self_attn.qk_proj": 3}), "no list"),
    ],
)
def test_a_wrong_published_file_is_refused(tmp_path, change, says):
    path = tmp_path / "published.json"
    path.write_text(json.dumps(published()))
    with pytest.raises(BadCalibration, match=says):
        load(edited(path, change))


def test_scales_follow_the_order_and_clip_four_bits():
    made = HeadChannels((1, 0), (0.5, -0.5), (1.0, 0.1), (9.0, 0.14))
    assert made.label_means(2) == [-0.5, 0.5]
    assert made.label_scales(2, "i8") == [0.14 / 127, 9.0 / 127]
    assert made.label_scales(2, "i4") == [0.14 / 7, 2.5 / 7]
