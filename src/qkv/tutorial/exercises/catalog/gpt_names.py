"""Exercise 8.2: loading GPT-2's tensors under other names."""

from functools import partial

from torch import Tensor

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
GPT-2's files keep matrices as (in, out); nn.Linear wants (out, in). They also keep the
projections of queries, keys and values, in this order, side by side in one matrix. Turn the
tensors of one attention layer of such a file into those of four linear layers:

  c_attn.weight (D, 3 D), c_attn.bias (3 D,)  ->  query.weight, key.weight, value.weight (D, D)
                                                  query.bias, key.bias, value.bias (D,)
  c_proj.weight (D, D), c_proj.bias (D,)      ->  output.weight (D, D), output.bias (D,)
  bias (1, 1, L, L), a causal mask            ->  left out

All names of the file begin with "h.3.attn." (or another number); those of the result begin
with "blocks.3.self_attention." (with the same number). The file has only one layer's tensors.

theirs: a dict from names to tensors. Return a dict from our names to tensors.
"""


def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names."""
    layer = next(iter(theirs)).split(".")[1]
    old, new = f"h.{layer}.attn.", f"blocks.{layer}.self_attention."
    weights = theirs[f"{old}c_attn.weight"].T.chunk(3)  # (3 D, D) -> three (D, D)
    biases = theirs[f"{old}c_attn.bias"].chunk(3)
    ours = {
        f"{new}output.weight": theirs[f"{old}c_proj.weight"].T,
        f"{new}output.bias": theirs[f"{old}c_proj.bias"],
    }
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        ours[f"{new}{name}.weight"], ours[f"{new}{name}.bias"] = weight, bias
    return ours


def draws() -> list[Draw]:
    """Two layers of two sizes."""
    draw = normal(82)

    def inputs(layer: int, width: int) -> tuple[dict[str, Tensor]]:
        prefix = f"h.{layer}.attn."
        return (
            {
                f"{prefix}bias": draw(1, 1, 7, 7).tril(),
                f"{prefix}c_attn.weight": draw(width, 3 * width),
                f"{prefix}c_attn.bias": draw(3 * width),
                f"{prefix}c_proj.weight": draw(width, width),
                f"{prefix}c_proj.bias": draw(width),
            },
        )

    return [Draw("layer 0", inputs(0, 5)), Draw("layer 11", inputs(11, 3))]


def wrong_names(
    theirs: dict[str, Tensor],
    *,
    turned: str = "both",
    cut: str = "blocks",
    order: tuple[int, int, int] = (0, 1, 2),
    left_over: str = "",
    biases: str = "all",
    layer: str = "",
) -> dict[str, Tensor]:
    """Rename with one thing done in another way."""
    number = next(iter(theirs)).split(".")[1]
    old, new = f"h.{number}.attn.", f"blocks.{layer or number}.self_attention."
    joint, joint_bias = theirs[f"{old}c_attn.weight"], theirs[f"{old}c_attn.bias"]
    width = len(joint)
    if cut == "interleaved":
        weights = list(joint.view(width, width, 3).unbind(-1))
        vectors = list(joint_bias.view(width, 3).unbind(-1))
    elif cut == "rows":
        weights, vectors = list(joint.reshape(3, width, width)), list(joint_bias.chunk(3))
    else:
        weights, vectors = list(joint.chunk(3, 1)), list(joint_bias.chunk(3))
    if turned in ("both", "c_attn"):
        weights = [weight.T for weight in weights]
    output = theirs[f"{old}c_proj.weight"]
    ours = {f"{new}output.weight": output.T if turned in ("both", "c_proj") else output}
    if biases == "all":
        ours[f"{new}output.bias"] = theirs[f"{old}c_proj.bias"]
    for name, i in zip(("query", "key", "value"), order, strict=True):
        ours[f"{new}{name}.weight"] = weights[i]
        if biases == "all":
            ours[f"{new}{name}.bias"] = vectors[i]
        elif biases == "in order":
            ours[f"{new}{name}.bias"] = vectors[("query", "key", "value").index(name)]
    if biases == "in order":
        ours[f"{new}output.bias"] = theirs[f"{old}c_proj.bias"]
    if left_over:
        ours[left_over.format(new=new, old=old)] = theirs[f"{old}bias"]
    return ours


MISTAKES = (
    Mistake(
        "no matrix is transposed",
        partial(wrong_names, turned="none"),
        "Your matrices are still (in, out).",
        "nn.Linear wants (out, in).",
    ),
    Mistake(
        "c_proj is not transposed",
        partial(wrong_names, turned="c_attn"),
        "Your output.weight is still (in, out): it is square, so its shape does not tell.",
        "All matrices of the file are (in, out).",
    ),
    Mistake(
        "c_attn is not transposed",
        partial(wrong_names, turned="c_proj"),
        "Your query, key and value weights are still (in, out).",
        "Each of the three is (D, D) either way; which way is right?",
    ),
    Mistake(
        "queries and keys are exchanged",
        partial(wrong_names, order=(1, 0, 2)),
        "Your query has the numbers of the key, and the other way round.",
        "In which order do they stand in the file?",
    ),
    Mistake(
        "keys and values are exchanged",
        partial(wrong_names, order=(0, 2, 1)),
        "Your key has the numbers of the value, and the other way round.",
        "In which order do they stand in the file?",
    ),
    Mistake(
        "queries and values are exchanged",
        partial(wrong_names, order=(2, 1, 0)),
        "Your query has the numbers of the value, and the other way round.",
        "In which order do they stand in the file?",
    ),
    Mistake(
        "the weights of queries and keys are exchanged",
        partial(wrong_names, order=(1, 0, 2), biases="in order"),
        "Your biases are right, but your query has the weights of the key.",
        "In which order do they stand in the file?",
    ),
    Mistake(
        "every third column belongs to the query",
        partial(wrong_names, cut="interleaved"),
        "Your query has the columns 0, 3, 6, ... of c_attn.",
        "The three stand side by side as blocks.",
    ),
    Mistake(
        "c_attn is reshaped",
        partial(wrong_names, cut="rows"),
        "Your matrices have numbers of all three projections: a reshape does not cut columns.",
        "Cut along the axis of length 3 D.",
    ),
    Mistake(
        "the causal mask is kept",
        partial(wrong_names, left_over="{new}bias"),
        "Your result has a tensor more than the four layers have.",
        "h.N.attn.bias is no bias, but a mask that GPT-2's code made.",
    ),
    Mistake(
        "the causal mask is kept under its old name",
        partial(wrong_names, left_over="{old}bias"),
        "Your result has a tensor more than the four layers have.",
        "h.N.attn.bias is no bias, but a mask that GPT-2's code made.",
    ),
    Mistake(
        "the biases are missing",
        partial(wrong_names, biases="none"),
        "Your result has the weights alone.",
        "Each of the four layers has a bias.",
    ),
    Mistake(
        "the number of the layer is always 3",
        partial(wrong_names, layer="3"),
        "Your names say layer 3 for every file.",
        "The number is part of the file's names.",
    ),
    Mistake(
        "the number of the layer is always 0",
        partial(wrong_names, layer="0"),
        "Your names say layer 0 for every file.",
        "The number is part of the file's names.",
    ),
)


EXERCISE = Exercise(
    number="8.2",
    title="Loading GPT-2's tensors under other names",
    task=TASK.strip(),
    solve=rename,
    draws=draws,
    mistakes=MISTAKES,
    hint="Transpose first; then queries, keys and values are three blocks of rows.",
    remark=(
        "c_proj is square, so nothing complains if it is not transposed: the model loads, and "
        "writes nonsense. `qkv.checkpoints.tables.gpt` states all this as a table."
    ),
)
