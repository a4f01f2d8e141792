"""Which library multiplies f32 rows on a CPU: equal results, what is timed, what is kept."""

import pytest
import torch
from weft.compiler.choices import host_products as products_here
from weft.options import Options
from weft.runtime.devices.kept_choice import kept
from weft.runtime.execution import host_products
from weft.runtime.execution.host_products import (
    BLAS,
    FEW,
    GRANULE,
    ONEDNN,
    PRODUCTS,
    ProductChoice,
    available,
    measured,
    read,
)  # fmt: skip
from weft.runtime.execution.library import matmul
from weft.runtime.execution.weights import Weight

needs_onednn = pytest.mark.skipif(not available(), reason="torch was built without oneDNN")


def run(launch):
    function, arguments = launch
    function(*arguments)


@pytest.fixture
def costs(monkeypatch):
    """Make a run of the BLAS, and one of oneDNN, cost so much."""

    def set_costs(blas, onednn):
        def seconds(launches):
            return onednn if launches[0][0] is host_products._run_onednn else blas

        monkeypatch.setattr(host_products, "_seconds", seconds)
        monkeypatch.setattr(host_products, "available", lambda: True)

    return set_costs


@needs_onednn
@pytest.mark.parametrize("rows", [1, FEW, 3 * FEW + 1])
@pytest.mark.parametrize("format", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_both_libraries_give_the_product(rows, format, biased):
    torch.manual_seed(0)
    x, w = torch.randn(rows, 48), torch.randn(40, 48).to(format)
    bias = torch.randn(40) if biased else None
    wanted = x.double() @ w.double().T + (0 if bias is None else bias)
    for product in PRODUCTS.values():
        out = torch.full((rows, 40), torch.nan)
        run(matmul([out, x, w, None, bias], multiply=product.launch))
        torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


def test_rows_are_rounded_up_as_far_as_there_is_room():
    assert [ONEDNN.rows(tokens, 100) for tokens in (1, GRANULE, GRANULE + 1, 99)] == [
        GRANULE, GRANULE, 2 * GRANULE, 100]  # fmt: skip
    assert BLAS.rows(GRANULE + 1, 100) == GRANULE + 1


@pytest.mark.parametrize(
    ("blas", "onednn", "name"), [(2.0, 1.0, "oneDNN"), (1.0, 2.0, "BLAS"), (1.0, 0.99, "BLAS")]
)
def test_the_faster_library_is_chosen_unless_the_gain_is_noise(costs, blas, onednn, name):
    costs(blas, onednn)
    assert measured([(16, 8), (16, 8), (8, 16)]) == ProductChoice(name, blas, onednn)


def test_where_there_is_one_library_nothing_is_timed(costs, monkeypatch):
    costs(2.0, 1.0)
    monkeypatch.setattr(host_products, "available", lambda: False)
    assert measured([(16, 8)]) == ProductChoice()
    assert measured([]) == ProductChoice()


def test_a_kept_choice_holds_while_its_library_is_there(tmp_path, monkeypatch):
    path, measures = tmp_path / "product.json", []

    def measure():
        measures.append(1)
        return ProductChoice("oneDNN", 2.0, 1.0)

    monkeypatch.setattr(host_products, "available", lambda: True)
    for _ in range(2):
        assert kept(path, read, measure, path.write_bytes).library is ONEDNN
    assert len(measures) == 1
    monkeypatch.setattr(host_products, "available", lambda: False)
    with pytest.raises(ValueError):
        read({"name": "oneDNN"})


def test_a_choice_is_kept_for_weights_of_the_same_shapes(costs, tmp_path):
    costs(2.0, 1.0)
    options = Options(cache=tmp_path)
    found = [
        products_here(
            {"w": Weight(torch.zeros(16, depth)), "norm": Weight(torch.zeros(9))}, options
        )
        for depth in (8, 8, 4)
    ]
    assert {choice.name for choice in found} == {"oneDNN"}
    assert len(list(tmp_path.rglob("product-*.json"))) == 2


def test_the_choice_is_told_with_the_ratio_that_was_timed():
    told = ProductChoice("oneDNN", 3.0, 1.5).describe()
    assert "oneDNN's" in told and "2.00 times" in told
    assert "times" not in ProductChoice().describe()
