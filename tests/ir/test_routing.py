"""Routing traces: files read back what was written, and refuse what is none."""

import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.offload.routing import BadRouting, RoutingTrace


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.integers(0, 9), st.data())
@settings(max_examples=25, deadline=None)
def test_a_file_gives_what_was_saved(layers, experts, tokens, seed, data):
    import tempfile

    top_k = data.draw(st.integers(1, experts))
    made = RoutingTrace.drawn(layers, experts, top_k, tokens, 1.0, seed)
    assert all(len(set(row)) == top_k for row in made.chosen.reshape(-1, top_k).tolist())
    with tempfile.TemporaryDirectory() as folder:
        made.save(f"{folder}/t.npz")
        read = RoutingTrace.load(f"{folder}/t.npz")
    assert np.array_equal(read.chosen, made.chosen) and np.array_equal(read.decode, made.decode)
    assert (read.experts, read.model) == (experts, made.model)
    assert [sum(row) for row in read.counts()] == [tokens * top_k] * layers


def test_counts_are_those_of_decode_steps_where_there_are_any():
    chosen = np.array([[[0]], [[1]], [[1]]], np.uint16)
    trace = RoutingTrace(chosen, np.array([True, False, False]), 3)
    assert trace.counts() == [[1, 0, 0]]
    prompts = RoutingTrace(chosen, np.zeros(3, bool), 3)
    assert prompts.counts() == [[1, 2, 0]]


def test_a_drawn_trace_is_as_skewed_as_it_says():
    trace = RoutingTrace.drawn(2, 8, 1, 4000, 1.0)
    shares = np.array(sorted(trace.counts()[0], reverse=True)) / 4000
    wanted = 1 / np.arange(1, 9) / sum(1 / np.arange(1, 9))
    assert np.abs(shares - wanted).max() < 0.03
    assert trace.counts()[0] != trace.counts()[1]  # layers prefer different experts


def save(path, **changes):
    parts = dict(format="weft routing 1", model="m", experts=4, decode=np.ones(2, bool),
                 chosen=np.zeros((2, 1, 1), np.uint16)) | changes  # fmt: skip
    np.savez(path, **{name: value for name, value in parts.items() if value is not None})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"chosen": None}, "holds no routing trace"),
        ({"format": "weft routing 9"}, "its format is 'weft routing 9'"),
        ({"chosen": np.zeros((2, 1), np.uint16)}, "other shapes or types"),
        ({"chosen": np.zeros((2, 1, 1), np.float32)}, "other shapes or types"),
        ({"decode": np.ones(3, bool)}, "2 tokens, 3 of them told"),
        ({"chosen": np.full((2, 1, 1), 4, np.uint16)}, "beyond its 4"),
    ],
)
def test_files_that_are_no_trace(changes, message, tmp_path):
    save(tmp_path / "t.npz", **changes)
    with pytest.raises(BadRouting, match=message):
        RoutingTrace.load(tmp_path / "t.npz")


def test_files_that_are_cut_missing_or_text_and_places_that_refuse(tmp_path):
    whole = tmp_path / "t.npz"
    RoutingTrace.drawn(2, 8, 2, 100, 1.0).save(whole)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-50])
    (tmp_path / "text").write_text("[1, 2]")
    np.save(tmp_path / "array.npy", np.zeros(3))
    packed = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as parts:
        header = parts.getinfo("chosen.npy").header_offset
    names = sum(int.from_bytes(packed[header + at : header + at + 2], "little") for at in (26, 28))
    packed[header + 30 + names] = 0xFF  # no kind of block begins so
    (tmp_path / "deflate.npz").write_bytes(packed)
    for name in ("cut.npz", "none.npz", "text", "array.npy", "deflate.npz"):
        with pytest.raises(BadRouting, match="holds no routing trace"):
            RoutingTrace.load(tmp_path / name)
    with pytest.raises(BadRouting, match="it cannot be written"):
        RoutingTrace.load(whole).save(tmp_path / "no" / "t.npz")
    with pytest.raises(BadRouting, match="zipf 1 has 2 layers of 8 experts.*this one 3"):
        RoutingTrace.load(whole).check("t.npz", 3, 8, 2)
