# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Transformers and attention mechanisms
#
# **The code you learn from is the code you run.** Every function shown here is shown by its shipped
# source: it is the function that the library `qkv` uses, tests and measures. Every claim in the
# text is computed in the cell below it, or asserted there. Everything is trained while you read, on
# a CPU, on data that comes with the installation.
#
# The task of this part is one that you can check by eye: **dates as people write them**, in ten
# languages and seven scripts, to be rewritten as ISO 8601. `Tuesday, August 12, 1986` and
# `1986 թ. օգոստոսի 12, երեքշաբթի` both mean `1986-08-12`: the order of day, month and year differs,
# months have names, weekdays are noise. A model that rewrites them must find, for each character
# that it writes, the few characters that matter. That search is what attention is.

# %% tags=["script"]
# Run by hand: `make tutorial`, or `python transformers_and_attention_mechanisms.py --help`.
import argparse
import os
import sys
from pathlib import Path

try:
    import qkv  # noqa: F401 (to say below what installs it)
except ImportError:
    sys.exit('qkv is not installed: run `make tutorial`, or pip install -e ".[train,tutorial]"')

if __name__ == "__main__" and "ipykernel" not in sys.modules:
    parser = argparse.ArgumentParser(description="Attention and Transformers, section by section.")
    parser.add_argument("--fast", action="store_true", help="train less: quicker, less accurate")
    parser.add_argument(
        "--section", type=int, nargs="+", metavar="N", help="run these sections only"
    )
    options = parser.parse_args()
    if options.fast:
        os.environ["QKV_FAST"] = "1"
    if options.section:
        from qkv.errors import ConfigError
        from qkv.explorer.script import run_sections

        try:
            run_sections(Path(__file__), options.section)
        except ConfigError as error:
            sys.exit(f"error: {error}")
        sys.exit()

# %% [markdown]
# ## Setting up
#
# Nothing is downloaded. `QKV_FAST=1` (or `--fast` on the command line) trains a quarter of the
# steps, to see everything once; the scores that the text promises are then not reached, and not
# asserted.

# %%
import dataclasses
import itertools
import os
import time
from pathlib import Path

import torch

from qkv.attention.additive import AdditiveAttention
from qkv.attention.core import (
    attention,
    attention_weights,
    explicit_attention,
    mask_scores,
    masked_softmax,
)
from qkv.attention.local import LocalAttention
from qkv.attention.masks import attention_mask, causal_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.attention.scores import (
    additive_scores,
    concat_scores,
    dot_scores,
    general_scores,
    location_scores,
)
from qkv.attention.single_head import SingleHeadAttention
from qkv.blocks.block import Block, Residual
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.positions import sinusoids
from qkv.blocks.stack import Stack
from qkv.data.batches import collate_pairs
from qkv.data.dates import FORMS, TUTORIAL_LOCALES, DatePair, date_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.evaluation.exact_match import exact_match_by_length
from qkv.explorer.figures import draw_curves, draw_weights, new_figure, save_figure, smooth
from qkv.explorer.source import show_source
from qkv.explorer.tables import show_table
from qkv.generation.greedy import greedy
from qkv.models.rnn import RNNConfig, RNNDecoder, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.translation import Translator
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.optim import cosine, noam

FAST = os.environ.get("QKV_FAST") == "1"
FIGURES = Path("out/tutorial")


def steps_of(full: int) -> int:
    """A quarter of the steps in the fast run."""
    return full // 4 if FAST else full


# %% [markdown]
# The corpus: names and patterns of the Unicode CLDR, read through Babel. Training and test never
# share a date: which part a date belongs to is a fixed property of the date itself.

# %%
training = list(itertools.islice(date_pairs(TUTORIAL_LOCALES, seed=1), 60_000))
testing = list(itertools.islice(date_pairs(TUTORIAL_LOCALES, split="test", seed=2), 1_000))
assert not {pair.iso for pair in training} & {pair.iso for pair in testing}

text_pairs = [(pair.text, pair.iso) for pair in training]
test_pairs = [(pair.text, pair.iso) for pair in testing]
source_tokenizer = Tokenizer.train_characters(text for text, _ in text_pairs)
target_tokenizer = Tokenizer.train_characters(iso for _, iso in text_pairs)

examples = {pair.locale: pair for pair in testing if pair.form == "full"}
show_table(
    "One test date of each locale, in its longest form",
    [
        {
            "locale": locale,
            "as people write it": examples[locale].text,
            "ISO 8601": examples[locale].iso,
        }
        for locale in TUTORIAL_LOCALES
    ],
)
lengths = [len(text) for text, _ in test_pairs]
print(
    f"{len(text_pairs)} training pairs, {len(test_pairs)} test pairs; "
    f"{source_tokenizer.vocab_size} source and {target_tokenizer.vocab_size} target tokens; "
    f"{min(lengths)} to {max(lengths)} characters a date"
)

# %% [markdown]
# ## 1 Introduction to attention
#
# ### 1.1 What attention is for
#
# An **encoder-decoder** reads the whole input, then writes the output token by token. The first
# ones (Sutskever et al. 2014; Cho et al. 2014) handed the input over as *one* vector, the encoder's
# last state, whatever the length. **Attention** (Bahdanau, Cho and Bengio 2015) lets the decoder
# look back: before each token that it writes, it weighs all places of the input anew and reads
# their mix.
#
# In today's words: the decoder asks with a **query**; every place of the input offers a **key**, to
# be compared with the query, and a **value**, to be read. Always the same three steps:
#
# $$e_s = \mathrm{score}(q, k_s) \qquad a_s = \frac{\exp e_s}{\sum_{s'} \exp e_{s'}} \qquad
# c = \sum_s a_s v_s$$
#
# Four places, by numbers that one can follow. The query fits the second key best, so the context is
# nearly the second value; a place that is masked (padding, say) gets no weight at all.

# %%
query = torch.tensor([[[2.0, 0.0]]])  # (batch, queries, width)
keys = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [1.0, 1.0], [2.0, 2.0]]])
values = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
real = torch.tensor([[[True, True, True, False]]])  # the last place is padding

scores = dot_scores(query, keys)
weights = masked_softmax(scores, real)
context = weights @ values
show_table(
    "scores, then softmax, then mix",
    [
        {
            "place": place,
            "key": keys[0, place].tolist(),
            "score": f"{scores[0, 0, place]:.0f}",
            "weight": f"{weights[0, 0, place]:.3f}",
            "value": f"{values[0, place, 0]:.0f}",
        }
        for place in range(4)
    ],
)
print(f"context: {context.item():.2f}")
assert weights[0, 0, 3] == 0
assert torch.isclose(weights.sum(), torch.tensor(1.0))

# %%
show_source(mask_scores, masked_softmax)

# %% [markdown]
# ### 1.2 Additive attention (Bahdanau et al. 2015)
#
# The score is a small network with one hidden layer (appendix A.1.2):
#
# $$e_{ij} = v_a^\top \tanh(W_a s_{i-1} + U_a h_j) \qquad
# \alpha_{ij} = \frac{\exp e_{ij}}{\sum_k \exp e_{ik}} \;(6) \qquad c_i = \sum_j \alpha_{ij} h_j
# \;(5)$$
#
# with $s_{i-1}$ the decoder's last state (the query) and $h_j$ the **annotation** of input place
# $j$: forward and backward state of a bidirectional encoder, so that it tells of the words around
# place $j$. $U_a h_j$ does not depend on the decoder and is computed once.

# %%
show_source(additive_scores, AdditiveAttention)

# %% [markdown]
# ### 1.3 Multiplicative attention (Luong et al. 2015)
#
# Luong, Pham and Manning compare simpler scores, for the decoder's *current* state $h_t$ against
# the encoder's states $\bar h_s$ (section 3.1):
#
# $$\mathrm{score}(h_t, \bar h_s) = \begin{cases} h_t^\top \bar h_s & \textit{dot} \\
# h_t^\top W_a \bar h_s & \textit{general} \\ v_a^\top \tanh(W_a [h_t; \bar h_s]) & \textit{concat}
# \end{cases}$$
#
# and a **location** score, $a_t = \mathrm{softmax}(W_a h_t)$, which reads where a place is, not
# what it holds. *Concat* is Bahdanau's score in other letters, since
# $W_a[h_t; \bar h_s] = W_q h_t + W_k \bar h_s$: the cell below checks it.

# %%
show_source(dot_scores, general_scores, concat_scores, location_scores)

# %%
generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 4, 7, generator=generator)
weight, vector = torch.randn(6, 12, generator=generator), torch.randn(6, generator=generator)
pairs_joined = torch.cat(
    (q[:, :, None].expand(2, 3, 4, 5), k[:, None].expand(2, 3, 4, 7)), -1
)  # every [q; k], built out
as_written = torch.tanh(pairs_joined @ weight.T) @ vector
assert torch.allclose(concat_scores(q, k, weight, vector), as_written, atol=1e-5)

# %% [markdown]
# What all these have in common, and the library calls it so, is **single-head attention**: a
# subclass says what the score is, and nothing else differs.

# %%
show_source(SingleHeadAttention)

# %% [markdown]
# ### 1.4 Two decoders
#
# Bahdanau attends *before* the recurrent cell, with the last state; Luong *after* it, with the
# current one, and feeds the resulting vector $\tilde h_t = \tanh(W_c [c_t; h_t])$ (eq. 5) into the
# next step (**input feeding**). Both orders are one function:

# %%
show_source(RNNDecoder)

# %% [markdown]
# ### 1.5 All of them, trained
#
# The same encoder, data and optimizer for every score; only the attention differs, and the number
# of steps, which the table gives. First without any, as in 2014: the decoder starts from the
# encoder's last state and must carry everything in it.

# %%
show_source(train)

# %%
BASE = {
    "source_vocab_size": source_tokenizer.vocab_size,
    "target_vocab_size": target_tokenizer.vocab_size,
    "d_embedding": 64,
    "d_hidden": 128,
}
LONGEST = max(len(text) for text, _ in text_pairs + test_pairs)
MODELS = {
    "none": RNNConfig(**BASE, score=None, decoder="luong"),
    "additive (Bahdanau)": RNNConfig(**BASE, score="additive", decoder="bahdanau"),
    "dot": RNNConfig(**BASE, score="dot", decoder="luong"),
    "general": RNNConfig(**BASE, score="general", decoder="luong"),
    "concat": RNNConfig(**BASE, score="concat", decoder="luong"),
    "location": RNNConfig(**BASE, score="location", decoder="luong", max_source_length=LONGEST),
    "local-m, general": RNNConfig(**BASE, score="general", decoder="luong", local="local-m"),
    "local-p, general": RNNConfig(**BASE, score="general", decoder="luong", local="local-p"),
}
# Enough steps for the two that the text makes promises about; fewer show enough of the others.
STEPS = {"none": 220, "additive (Bahdanau)": 320, "general": 490}


def learn(name: str, config: RNNConfig) -> dict:
    """Train one model and score it on the unseen dates."""
    torch.manual_seed(0)
    translator = Translator(RNNSeq2Seq(config), source_tokenizer, target_tokenizer, max_length=12)
    steps = steps_of(STEPS.get(name, 170))
    history = train(
        translator.model,
        translator.batches(text_pairs, max_tokens=3000),
        pair_loss,
        steps=steps,
        learning_rate=5e-3,
        schedule=cosine(warmup=30, steps=steps),
        description=f"{name:20}",
    )
    outputs = translator([text for text, _ in test_pairs])
    correct = [output == iso for output, (_, iso) in zip(outputs, test_pairs, strict=True)]
    return {"translator": translator, "history": history, "correct": correct}


results = {name: learn(name, config) for name, config in MODELS.items()}

# %%
exact = {name: sum(result["correct"]) / len(test_pairs) for name, result in results.items()}
show_table(
    "Exact match on 1,000 unseen dates",
    [
        {
            "score": name,
            "parameters": sum(p.numel() for p in result["translator"].model.parameters()),
            "steps": len(result["history"].steps),
            "seconds": f"{result['history'].seconds:.0f}",
            "exact match": f"{exact[name]:.1%}",
        }
        for name, result in results.items()
    ],
)
for name in ("additive (Bahdanau)", "general"):
    assert FAST or exact[name] >= 0.99, f"{name}: {exact[name]:.1%}"
assert exact["none"] < exact["general"]

# %% [markdown]
# The loss while learning. For some forty steps all models learn alike; then the ways part, and the
# model without attention nearly stays where it is.

# %%
figure, axes = new_figure(size=(8, 4))
draw_curves(
    axes[0, 0],
    {
        name: (result["history"].steps, smooth(result["history"].losses, 10))
        for name, result in results.items()
    },
    x="step",
    y="loss, nats a character",
    title="Loss in training: what the decoder may look at decides how fast it learns",
)
axes[0, 0].set_yscale("log")
save_figure(figure, FIGURES / "1_loss.png")

# %% [markdown]
# ### 1.6 Where one vector breaks
#
# Exact match by the length of the input. In these few steps the model without attention gets hardly
# a date right, short or long:

# %%
EDGES = [0, 12, 16, 20, 26, LONGEST + 1]
by_length = {
    name: exact_match_by_length(lengths, results[name]["correct"], EDGES)
    for name in ("none", "location", "dot", "general", "additive (Bahdanau)")
}


def show_by_length(title: str, shares_by_name: dict) -> None:
    """One row a model, one column a range of lengths."""
    show_table(
        title,
        [
            {"score": name}
            | {f"{low} to {high - 1}": f"{share:.0%}" for (low, high), share in shares.items()}
            for name, shares in shares_by_name.items()
        ],
    )


show_by_length("Exact match by length of the input, in characters", by_length)

# %% [markdown]
# Dates have too few lengths to show *why*. A task that needs nothing but memory does: copy a string
# of digits, 1 to 12 of them. One vector of fixed width must hold them all; with attention each
# digit can be fetched when it is due. The same two models, the same number of steps for both:

# %%
digits = torch.Generator().manual_seed(0)


def digit_strings(count: int) -> list[str]:
    """Random digits, every length from 1 to 12 equally often."""
    numbers = torch.randint(0, 10, (count, 12), generator=digits).tolist()
    return ["".join(map(str, row[: 1 + i % 12])) for i, row in enumerate(numbers)]


copied = {}
seen, unseen = digit_strings(30_000), digit_strings(1_200)
tokenizer = Tokenizer.train_characters(seen)
for name in ("none", "additive (Bahdanau)"):
    torch.manual_seed(0)
    sizes = dict.fromkeys(("source_vocab_size", "target_vocab_size"), tokenizer.vocab_size)
    config = dataclasses.replace(MODELS[name], **sizes)
    copier = Translator(RNNSeq2Seq(config), tokenizer, tokenizer, max_length=14)
    train(
        copier.model,
        copier.batches([(text, text) for text in seen], max_tokens=1500),
        pair_loss,
        steps=steps_of(200),
        learning_rate=5e-3,
        schedule=cosine(warmup=30, steps=steps_of(200)),
        description=f"copy, {name}",
    )
    hits = [output == text for output, text in zip(copier(unseen), unseen, strict=True)]
    copied[name] = exact_match_by_length([len(t) for t in unseen], hits, [1, 4, 7, 10, 13])
show_by_length("Copying digits: exact match by their number", copied)
without = list(copied["none"].values())
assert FAST or without[0] > without[-1]
assert FAST or copied["additive (Bahdanau)"][10, 13] > without[-1]

# %% [markdown]
# ### 1.7 Alignments
#
# `record_attention` returns the weights of every attention that runs inside it. Each row is one
# character of the output, each column one of the input; the row sums to 1. Nobody told the models
# where the month stands.

# %%
show_source(record_attention)

# %%
example = next(
    pair for pair in testing if pair.locale == "ru" and pair.form == "full" and len(pair.text) > 24
)
print(f"{example.text} -> {example.iso}")
names = [name for name in MODELS if name != "none"]
figure, axes = new_figure(4, 2, size=(12, 13))
for place, name in zip(axes.flat, names, strict=False):
    alignment = results[name]["translator"].align(example.text)
    weights = alignment.weights["decoder.attention"][0, 0]
    assert weights.shape == (len(alignment.output), len(alignment.source))
    draw_weights(
        place,
        weights,
        alignment.output,
        alignment.source,
        f"{name}: writes {''.join(alignment.output[:-1])}, exact match {exact[name]:.0%}",
    )
axes.flat[-1].axis("off")
figure.suptitle("Where each score looks (columns) before it writes a character (rows)")
save_figure(figure, FIGURES / "1_scores.png")

# %% [markdown]
# One model, other languages: the year is found at the front or at the end, in digits of another
# script, and the month in its name. The columns are in the order of the input's characters; Hebrew
# and Arabic are *read* from right to left.

# %%
figure, axes = new_figure(3, 2, size=(12, 10))
for place, locale in zip(axes.flat, ("en_US", "hu", "el", "hy", "he", "ar_EG"), strict=True):
    pair = examples[locale]
    alignment = results["additive (Bahdanau)"]["translator"].align(pair.text)
    draw_weights(
        place,
        alignment.weights["decoder.attention"][0, 0],
        alignment.output,
        alignment.source,
        f"{locale}: {pair.iso}",
    )
figure.suptitle(
    "One model, six languages: Bahdanau's attention finds year, month and day in any order"
)
save_figure(figure, FIGURES / "1_languages.png")

# %% [markdown]
# Claims about a picture can be computed. Over all test dates that the model gets right: how much of
# the weight for the four characters of the year lies on the four digits of the year?

# %%
YEAR_DIGITS = {ord(zero) + n: str(n) for zero in "0٠" for n in range(10)}


def weight_on_year(translator: Translator, pair: DatePair) -> float | None:
    """Share of the weight for the year's characters that lies on the year's digits in the text."""
    begin = pair.text.translate(YEAR_DIGITS).find(pair.iso[:4])
    alignment = translator.align(pair.text)
    if begin < 0 or "".join(alignment.output[:-1]) != pair.iso:
        return None
    return float(alignment.weights["decoder.attention"][0, 0, :4, begin : begin + 4].sum(-1).mean())


shares = {
    name: [
        share
        for pair in testing[:200]
        if (share := weight_on_year(results[name]["translator"], pair)) is not None
    ]
    for name in ("additive (Bahdanau)", "general", "dot")
}
show_table(
    "Weight on the four digits of the year while the year is written",
    [
        {"score": name, "dates": len(values), "mean weight": f"{sum(values) / len(values):.2f}"}
        for name, values in shares.items()
        if values
    ],
)

# %% [markdown]
# ### 1.8 Global and local
#
# Looking at everything costs $O(S)$ for each output token. **Local attention** (Luong et al. 2015,
# section 3.2) looks at a window $[p_t - D, p_t + D]$ only. *local-m* takes $p_t = t$: output and
# input run in parallel, which is false for dates, whose year may stand at the end. *local-p*
# predicts the place from the decoder's state and weighs by a Gaussian around it:
#
# $$p_t = S \cdot \sigma(v_p^\top \tanh(W_p h_t)) \;(9) \qquad
# a_t(s) = \mathrm{align}(h_t, \bar h_s) \exp\left(-\frac{(s - p_t)^2}{2 (D/2)^2}\right) \;(10)$$

# %%
show_source(LocalAttention)

# %%
local_names = ("dot", "local-p, general", "local-m, general")
window = RNNConfig(**BASE).window
show_table(
    f"Global against local (D = {window}: at most {2 * window + 1} places)",
    [
        {
            "attention": "global, dot" if name == "dot" else name,
            "steps": len(results[name]["history"].steps),
            "exact match": f"{exact[name]:.1%}",
        }
        for name in local_names
    ],
)
for name in local_names[1:]:
    alignment = results[name]["translator"].align(example.text)
    looked_at = (alignment.weights["decoder.attention"][0, 0] > 0).sum(-1)
    assert int(looked_at.max()) <= 2 * window + 1

# %% [markdown]
# **What to keep.** Attention is a weighted mean whose weights the model computes from what it asks
# and what is there; additive, dot, general and concat differ in one line. It is differentiable
# throughout, so that the alignment is learned from pairs alone. Section 7 drops the recurrent
# network and keeps the attention.

# %% [markdown]
# ## 7 A simple Transformer in PyTorch, step by step
#
# Vaswani et al. (2017) keep the encoder-decoder and the attention and drop the recurrence: every
# token looks at all others at once, so that a whole sentence is a few matrix products. This section
# builds that model from its blocks, trains it on the dates and opens it up.
#
# ### 7.1 Attention, scaled and in heads
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{QK^\top}{\sqrt{d_k}}\right)V \;(1)$$
#
# It is Luong's *dot* score, divided by $\sqrt{d_k}$. The library has it twice: as the mathematics,
# and as a call of the fused kernel. The cell checks that they agree, and tests check it everywhere.

# %%
show_source(attention_weights, explicit_attention, attention)

# %%
generator = torch.Generator().manual_seed(0)
Q = torch.randn(2, 4, 5, 8, generator=generator)  # (batch, heads, queries, d_k)
K, V = torch.randn(2, 2, 4, 7, 8, generator=generator)  # (batch, heads, keys, d_k) each
some = torch.rand(2, 1, 1, 7, generator=generator) > 0.3  # which keys are real
difference = (explicit_attention(Q, K, V, mask=some) - attention(Q, K, V, mask=some)).abs().max()
print(f"explicit and fused differ by at most {difference:.1e}")
assert difference < 1e-6

# %% [markdown]
# Several heads attend in parallel, each in its own projection of the width, so that one can look at
# the day while another looks at the month (section 3.2.2 of the paper):

# %%
show_source(MultiHeadAttention)

# %% [markdown]
# ### 7.2 Who may look where
#
# Two things must not be seen: padding, and, in the decoder, the future. Masks are boolean, and
# True means "may attend". Padding enters as `token_mask`, (batch, length); causality is a triangle.

# %%
show_source(attention_mask, causal_mask)
# %%
padded = torch.tensor([[True, True, True, False]])
print("may attend, of three real tokens and one of padding:")
print((attention_mask(padded)[0, 0] & causal_mask(4, 4)).int())

# %% [markdown]
# ### 7.3 Where a token stands
#
# Attention sees a set: shuffle keys and values together, and nothing changes. Without positions a
# date and the same letters in any order would be one input.

# %%
shuffle = torch.randperm(7, generator=generator)
same = attention(Q, K[:, :, shuffle], V[:, :, shuffle])
assert torch.allclose(same, attention(Q, K, V), atol=1e-6)

# %% [markdown]
# The paper adds waves to the embeddings (section 3.5), a pair of sine and cosine for each
# wavelength:

# %%
show_source(sinusoids)

# %%
waves = sinusoids(torch.arange(40), 64)
figure, axes = new_figure(1, 2, size=(12, 3.6))
axes[0, 0].imshow(waves.T, cmap="RdBu", aspect="auto", vmin=-1, vmax=1)
axes[0, 0].set_xlabel("position")
axes[0, 0].set_ylabel("coordinate")
axes[0, 0].set_title(
    "Each position has a pattern of its own: fast waves first, slow ones last", fontsize=10
)
draw_curves(
    axes[0, 1],
    {f"of position {place}": (range(40), waves @ waves[place]) for place in (5, 20, 35)},
    x="position",
    y="inner product",
    title="Near positions have similar patterns: the inner product falls with the distance",
)
save_figure(figure, FIGURES / "7_positions.png")
assert all(int((waves @ wave).argmax()) == place for place, wave in enumerate(waves))

# %% [markdown]
# ### 7.4 A block
#
# A sublayer is wired by the **residual rule**: its output is added to its input, and the sum is
# normalized (post-norm, the paper's). An encoder block has two sublayers, self-attention and a
# feed-forward network; a decoder block has a third between them, attention to the encoder's output,
# and its self-attention is causal.

# %%
show_source(Residual, FeedForward, Block)

# %% [markdown]
# A stack is blocks in a row. The shapes below are printed from a run: a block never changes the
# shape, which is why any number of them can be stacked.

# %%
torch.manual_seed(0)
config = TransformerConfig(
    source_vocab_size=source_tokenizer.vocab_size,
    target_vocab_size=target_tokenizer.vocab_size,
    d_model=128,
    n_heads=4,
    d_ff=512,
    n_encoder_layers=2,
    n_decoder_layers=2,
    dropout=0.0,
)
model = Transformer(config)
batch = collate_pairs(
    [(source_tokenizer.encode(text), target_tokenizer.encode(iso)) for text, iso in test_pairs[:3]],
    pad=target_tokenizer.pad,
    start=target_tokenizer.start,
    stop=target_tokenizer.stop,
)
shapes = []
hooks = [
    module.register_forward_hook(
        lambda module, arguments, output, name=name: shapes.append(
            {"module": name, "kind": type(module).__name__, "output": tuple(output.shape)}
        )
    )
    for name, module in model.named_modules()
    if isinstance(module, TokenEmbedding | MultiHeadAttention | FeedForward | Block | Stack)
]
logits = model(batch.source, batch.target_input, source_mask=batch.source_mask)
for hook in hooks:
    hook.remove()
show_table(
    f"Sources {tuple(batch.source.shape)}, targets {tuple(batch.target_input.shape)}, in order",
    shapes,
)
assert logits.shape == (*batch.target.shape, target_tokenizer.vocab_size)

# %% [markdown]
# The whole model, read in one sitting: embeddings, positions, two stacks, an output layer.

# %%
show_source(Transformer)

# %% [markdown]
# Parameters, counted by hand and by code. An attention has four matrices $d \times d$ with biases;
# a feed-forward network $2 d\, d_{ff} + d_{ff} + d$; a norm $2d$. The output layer is tied to the
# target embedding and costs nothing.

# %%
d, d_ff = config.d_model, config.d_ff
attention_size, feed_forward_size, norm_size = 4 * (d * d + d), 2 * d * d_ff + d_ff + d, 2 * d
by_hand = {
    "source embedding": config.source_vocab_size * d,
    "target embedding": config.target_vocab_size * d,
    "encoder": config.n_encoder_layers * (attention_size + feed_forward_size + 2 * norm_size),
    "decoder": config.n_decoder_layers * (2 * attention_size + feed_forward_size + 3 * norm_size),
}
parts = [model.source_embedding, model.target_embedding, model.encoder, model.decoder]
by_code = [sum(p.numel() for p in part.parameters()) for part in parts]
assert list(by_hand.values()) == by_code
show_table(
    "Parameters",
    [{"part": part, "parameters": f"{count:,}"} for part, count in by_hand.items()]
    + [{"part": "all", "parameters": f"{sum(p.numel() for p in model.parameters()):,}"}],
)

# %% [markdown]
# The causal mask, proved: change the last target token, and nothing before it changes.

# %%
with torch.no_grad():
    changed = batch.target_input.clone()
    changed[:, -1] = target_tokenizer.encode("7")[0]
    model.eval()
    before = model(batch.source, batch.target_input, source_mask=batch.source_mask)
    after = model(batch.source, changed, source_mask=batch.source_mask)
assert torch.equal(before[:, :-1], after[:, :-1])
assert not torch.equal(before[:, -1], after[:, -1])

# %% [markdown]
# ### 7.5 Training
#
# **Teacher forcing**: the decoder reads the right target, shifted by one, and predicts each next
# token; causality makes all positions one pass. The loss is the cross-entropy of the real tokens.
# The rate first rises, because the first steps of a fresh Transformer are the most dangerous ones,
# then falls. In the paper (eq. 3):
#
# $$lr = d_{model}^{-0.5} \cdot \min(step^{-0.5},\; step \cdot warmup^{-1.5}) \;(3)$$
#
# Here the length of the run is known in advance, and the rate falls along a cosine to zero.

# %%
show_source(pair_loss, noam, cosine)

# %% [markdown]
# The loop is the one of section 1; only the model is new.

# %%
torch.manual_seed(0)
transformer = Translator(Transformer(config), source_tokenizer, target_tokenizer, max_length=12)
steps = steps_of(700)
history = train(
    transformer.model,
    transformer.batches(text_pairs, max_tokens=3000),
    pair_loss,
    steps=steps,
    learning_rate=2e-3,
    schedule=cosine(warmup=steps // 8, steps=steps),
    evaluate=lambda model: {"exact match": transformer.exact_match(test_pairs[:200])},
    evaluate_every=steps // 8,
    description="Transformer",
)
print(f"{history.seconds:.0f} seconds, {history.tokens_per_second:,.0f} target tokens a second")

# %%
figure, axes = new_figure(1, 2, size=(12, 3.6))
draw_curves(
    axes[0, 0],
    {"loss": (history.steps, smooth(history.losses, 10))},
    x="step",
    y="loss, nats a character",
    title="The loss falls all the way: there is no plateau to wait on",
)
axes[0, 0].set_yscale("log")
draw_curves(
    axes[0, 1],
    {
        "exact match": (
            [step for step, _ in history.evaluations],
            [scores["exact match"] for _, scores in history.evaluations],
        )
    },
    x="step",
    y="exact match on 200 unseen dates",
    title="Whole dates come right only when every character does",
)
save_figure(figure, FIGURES / "7_training.png")

# %% [markdown]
# ### 7.6 Decoding
#
# Greedy decoding takes the most probable token each time. It asks only for `start` and `step`, so
# that it serves the recurrent models of section 1 and the Transformer alike.

# %%
show_source(greedy)

# %%
begin = time.perf_counter()
outputs = transformer([text for text, _ in test_pairs])
seconds = time.perf_counter() - begin
correct = [output == iso for output, (_, iso) in zip(outputs, test_pairs, strict=True)]
transformer_exact = sum(correct) / len(correct)
print(f"exact match on 1,000 unseen dates: {transformer_exact:.1%}, decoded in {seconds:.1f} s")
assert FAST or transformer_exact >= 0.99

# %% [markdown]
# `step` keeps the keys and values of earlier tokens in a **cache**, so that a new token costs one
# row and not the whole triangle. The result is the same as without:

# %%
with torch.inference_mode():
    state = transformer.model.start(batch.source, batch.source_mask)
    stepwise = torch.cat(
        [transformer.model.step(batch.target_input[:, t : t + 1], state) for t in range(11)], 1
    )
    at_once = transformer.model(batch.source, batch.target_input, source_mask=batch.source_mask)
print(f"cached and uncached logits differ by at most {(stepwise - at_once).abs().max():.1e}")
assert torch.allclose(stepwise, at_once, atol=1e-4)

# %% [markdown]
# ### 7.7 Looking inside
#
# Cross-attention of every layer and head for one date. Heads divide the work, and nobody told them
# how.

# %%
pair = examples["en_US"]
alignment = transformer.align(pair.text)
figure, axes = new_figure(2, 4, size=(16, 7))
for layer, head in itertools.product(range(2), range(4)):
    draw_weights(
        axes[layer, head],
        alignment.weights[f"decoder.blocks.{layer}.cross_attention"][0, head],
        alignment.output,
        alignment.source,
        f"layer {layer}, head {head}",
    )
figure.suptitle(
    f"Cross-attention for “{pair.text}”: which head looks at the year, which at the month?"
)
save_figure(figure, FIGURES / "7_cross_attention.png")

# %% [markdown]
# The mean over heads of the last layer, for the other scripts:

# %%
figure, axes = new_figure(3, 2, size=(12, 10))
for place, locale in zip(axes.flat, ("de", "hu", "ru", "ka", "he", "ar_EG"), strict=True):
    alignment = transformer.align(examples[locale].text)
    draw_weights(
        place,
        alignment.weights["decoder.blocks.1.cross_attention"][0].mean(0),
        alignment.output,
        alignment.source,
        f"{locale}: {examples[locale].iso}",
    )
figure.suptitle("Last layer, mean of the heads: year, month and day, in any order and script")
save_figure(figure, FIGURES / "7_languages.png")

# %% [markdown]
# ### 7.8 Reading the errors
#
# Dates of the locales that it was trained on, by locale and form:

# %%
show_table(
    "Exact match by form and locale",
    [
        {"form": form}
        | {
            locale: f"{sum(hits) / len(hits):.0%}"
            for locale in TUTORIAL_LOCALES
            if (
                hits := [
                    right
                    for pair, right in zip(testing, correct, strict=True)
                    if (pair.form, pair.locale) == (form, locale)
                ]
            )
        }
        for form in FORMS
    ],
)

# %% [markdown]
# A test set that looks like the training set hides what a model has not understood. Here are five
# locales that it has *never* seen, chosen because they resemble those it has: English with the day
# first, Dutch and Swedish (German month names, nearly), Bulgarian (Cyrillic, with months like the
# Russian ones) and Ukrainian (Cyrillic, with months that are other words). The first table says how
# far likeness carries and which part of a date fails, the second shows three wrong dates of each.

# %%
UNSEEN = ("en_GB", "nl", "sv", "bg", "uk")
strangers = {
    locale: list(itertools.islice(date_pairs((locale,), split="test", seed=3), 200))
    for locale in UNSEEN
}
rows, wrong = [], []
for locale, pairs in strangers.items():
    written = transformer([pair.text for pair in pairs])
    parts = [
        [output[part] == pair.iso[part] for output, pair in zip(written, pairs, strict=True)]
        for part in (slice(None), slice(0, 4), slice(5, 7), slice(8, 10))
    ]
    names = ("exact match", "year right", "month right", "day right")
    rows.append(
        {"locale": locale}
        | {name: f"{sum(hits) / len(hits):.0%}" for name, hits in zip(names, parts, strict=True)}
    )
    wrong += [
        {"locale": locale, "input": pair.text, "expected": pair.iso, "written": output}
        for output, pair in zip(written, pairs, strict=True)
        if output != pair.iso
    ][:3]
show_table("Locales that the model has never seen", rows)
show_table("Three wrong dates of each", wrong)

# %% [markdown]
# ### 7.9 What to try now
#
# - Your own date: `transformer(["4 July 1976"])`. What happens with a form it has never seen?
# - All 48 locales, to 99.5 % and more: `qkv train recipes/dates.yaml`.
# - Change one thing in the config above, such as `norm_first=True` or `n_heads=1`, and run the
#   section again: `python transformers_and_attention_mechanisms.py --section 7`.

# %%
for text in ("4 July 1976", "July 4th, 1976", "im Jahr 1976, am 4. Juli"):
    print(f"{text:28} {transformer([text])[0]}")

# %% tags=["script"]
print(f"\nThe figures are in {FIGURES}/. Next: open transformers_and_attention_mechanisms.ipynb,")
print("change a line and run it again; or train on all locales: qkv train recipes/dates.yaml")
