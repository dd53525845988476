"""The verbs, and what loading by rows refuses."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkv.checkpoints.table import (
    ONE_ROW,
    TRANSPOSE,
    affine,
    alias,
    constant,
    ignore,
    layers,
    listed,
    load_rows,
    permute,
    row,
    save_rows,
    split,
    under,
)
from qkv.errors import DataError


def shapes(**sizes):
    return {name.replace("__", "."): torch.Size(size) for name, size in sizes.items()}


def test_transpose_and_split_compose_from_left_to_right():
    fused = torch.randn(5, 2 + 3 + 7)
    one = row("c_attn", ("q", "k", "v"), TRANSPOSE, split(2, 3, 7))
    ours = load_rows([one], {"c_attn": fused}, shapes(q=(2, 5), k=(3, 5), v=(7, 5)))
    assert torch.equal(ours["k"], fused[:, 2:5].T)
    assert torch.equal(torch.cat([ours["q"], ours["k"], ours["v"]]), fused.T)
    assert torch.equal(save_rows([one], ours)["c_attn"], fused)


def test_permute_turns_interleaved_pairs_into_halves():
    heads, d_head, width = 2, 6, 5
    stored = torch.arange(heads * d_head * width).view(heads * d_head, width).float()
    one = row("wq", "query", permute(0, 2, 1, rows=(heads, d_head // 2, 2)))
    ours = load_rows([one], {"wq": stored}, shapes(query=(12, 5)))["query"]
    by_head = stored.view(heads, d_head, width)
    expected = torch.cat([by_head[:, 0::2], by_head[:, 1::2]], 1).flatten(0, 1)
    assert torch.equal(ours, expected)
    assert torch.equal(save_rows([one], {"query": ours})["wq"], stored)


@given(st.permutations(range(4)), st.integers(0, 2**32))
def test_permute_is_undone(axes, seed):
    tensor = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    whole = row("theirs", "ours", permute(*axes))
    assert torch.equal(whole.save(whole.load(tensor)), tensor)
    flat = tensor.reshape(2 * 3 * 5 * 7, 1).expand(-1, 11)
    rows = row("theirs", "ours", permute(*axes, rows=(2, 3, 5, 7)))
    assert torch.equal(rows.save(rows.load(flat)), flat)
    assert torch.equal(rows.load(flat)[0][:, 0], tensor.permute(*axes).flatten())


def test_a_vector_stored_as_a_matrix_of_one_row():
    one, stored = row("final_logits_bias", "bias", ONE_ROW), torch.randn(1, 5)
    ours = load_rows([one], {"final_logits_bias": stored}, shapes(bias=(5,)))
    assert torch.equal(ours["bias"], stored[0])
    assert torch.equal(save_rows([one], ours)["final_logits_bias"], stored)
    with pytest.raises(DataError, match=r"shape \(2, 5\).*expected \(5,\)"):
        load_rows([one], {"final_logits_bias": torch.randn(2, 5)}, shapes(bias=(5,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_constant_is_what_the_file_could_say(dtype):
    rows = [constant("waves", lambda: torch.linspace(-1, 1, 11, dtype=torch.float64))]
    waves = torch.linspace(-1, 1, 11, dtype=torch.float64)
    assert load_rows(rows, {"waves": waves.to(dtype)}, {}) == {}
    waves[3] += 3 * torch.finfo(dtype).eps
    with pytest.raises(DataError, match="waves has shape"):
        load_rows(rows, {"waves": waves.to(dtype)}, {})


def test_layers_and_prefixes():
    rows = under(layers(affine("layer.{}.dense", "blocks.{}.up"), 2), theirs="bert.", ours="e.")
    assert [one.theirs for one in rows] == [
        "bert.layer.0.dense.weight",
        "bert.layer.0.dense.bias",
        "bert.layer.1.dense.weight",
        "bert.layer.1.dense.bias",
    ]
    assert rows[3].ours == ("e.blocks.1.up.bias",)


TABLE = [
    row("wte", "embedding"),
    alias("lm_head", "embedding"),
    constant("positions", lambda: torch.arange(7)[None]),
    ignore("masked_bias"),
]
SHAPE = {"embedding": torch.Size((5, 3))}


def test_optional_rows_are_written_where_the_file_had_them():
    embedding, left = torch.randn(5, 3), torch.randn(2)
    assert save_rows(TABLE, {"embedding": embedding}).keys() == {"wte"}
    full = {
        "wte": embedding,
        "lm_head": embedding.clone(),
        "positions": torch.arange(7)[None],
        "masked_bias": left,
    }
    ours = load_rows(TABLE, full, SHAPE)
    assert ours.keys() == {"embedding"}
    written = save_rows(TABLE, ours, had=full, kept={"masked_bias": left})
    assert written.keys() == full.keys()
    assert all(torch.equal(written[name], full[name]) for name in full)


def test_a_parameter_that_the_file_has_under_its_alias_alone_stays_there():
    file = {"lm_head": torch.randn(5, 3)}
    ours = load_rows(TABLE, file, SHAPE)
    assert torch.equal(ours["embedding"], file["lm_head"])
    assert save_rows(TABLE, ours, had=file).keys() == {"lm_head"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h.0.bias": torch.zeros(2)}, "no parameter of this model is called h.0.bias in FILE"),
        ({"wte": None}, r"wte in FILE is missing \(for embedding\); does config.json belong to"),
        ({"wte": torch.zeros(3, 5)}, r"wte in FILE has shape \(3, 5\).*expected \(5, 3\)"),
        ({"wte": torch.zeros(5, 3).long()}, "wte in FILE has dtype torch.int64; expected floating"),
        ({"lm_head": torch.zeros(5, 3)}, "lm_head in FILE differs from wte.*ties"),
        (
            {"positions": torch.ones(1, 7)},
            r"positions in FILE .*differs from the constant for config.json",
        ),
        ({"positions": torch.arange(9)[None]}, r"positions in FILE has shape \(1, 9\)"),
    ],
    ids=["extra", "missing", "shape", "dtype", "alias", "constant", "constant's shape"],
)
def test_refusals(change, message):
    file = {"wte": torch.randn(5, 3)} | change
    file = {name: tensor for name, tensor in file.items() if tensor is not None}
    with pytest.raises(DataError, match=message):
        load_rows(TABLE, file, SHAPE, where=lambda name: f"{name} in FILE")


@pytest.mark.parametrize(
    ("verb", "tensor"),
    [
        (split(2, 3), torch.zeros(6, 2)),
        (permute(0, 2, 1), torch.zeros(6, 2)),
        (permute(0, 1, rows=(2, 2)), torch.zeros(6, 2)),
    ],
    ids=["split", "permute", "rows"],
)
def test_a_verb_that_does_not_fit_names_the_tensor(verb, tensor):
    one = row("c_attn", ("q", "k"), verb)
    with pytest.raises(DataError, match=r"c_attn has shape \(6, 2\), which cannot become q, k"):
        load_rows([one], {"c_attn": tensor}, shapes(q=(2, 2), k=(3, 2)))


def test_long_lists_are_cut():
    assert listed([str(i) for i in range(7)]) == "0, 1, 2, 3 and 3 more"
    assert re.fullmatch("a, b", listed(["a", "b"]))
