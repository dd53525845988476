# %% [markdown]
# # Door A: a full model for one task
#
# From [the tutorial's section 10](notebooks/10_two_doors.ipynb). *30 minutes to read, three to run.*
#
# Nine steps from an idea to a model with a card, in the order that saves the most time. If `QKV_DATA` is set to the folder with the data, the task is to translate image captions from English to German
# (Multi30k, Elliott et al. 2016). Otherwise, the same cells rewrite dates that the library generates. The shipped tables and curves are those of Multi30k in both cases.

# %%
import itertools
import json
import os
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch

import qkv
from qkv.data.batches import Batching
from qkv.data.dates import date_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.errors import DataError
from qkv.evaluation.translation import translation_scores
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import DataConfig, read_splits
from qkv.tasks.translation import TASK, Translator
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.settings import Training
from qkv.tutorial.show import draw_curves, figure, show_table

FAST = os.environ.get("QKV_FAST") == "1"
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## Step 1: choose
#
# Choose a task with data, a metric, and a number to beat, set before the first run. The table lists the library's recipes: how long each took on one or two threads, the score it reached, and its target. Take one that
# fits into your afternoon.

# %%
tasks = json.loads(Path("benchmarks/results/tasks.json").read_text())["rows"]
rows = [
    {
        "recipe": one["recipe"],
        "data": one["data"],
        "minutes": one["seconds"] / 60,
        "score": f"{one['scores'][0]['score']} {one['scores'][0]['value']:.1f}",
        "target": f"{bar:g}" if (bar := one["scores"][0]["bar"]) else "-",
    }
    for one in tasks.values()
]
show_table("Recipes: `qkv train NAME`", rows, digits=0)

# %% [markdown]
# ## Step 2: look at the data, its leaks, and what costs nothing
#
# Before anything else, read examples and count them.

# %%
try:
    config = DataConfig(train=("multi30k",), columns={"source": "en", "target": "de"})
    splits = read_splits(TASK, config)
    DATA = "Multi30k"
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
except DataError:
    DATA = "dates"

    def dates(split, n):
        endless = date_pairs(["en_US", "en_GB"], split=split, seed=1)
        return [(pair.text, pair.iso) for pair in itertools.islice(endless, n)]

    parts = {"train": dates("train", 8_000), "validation": dates("validation", 400)}
    parts["test"] = dates("test", 400)
training, validation, test = (
    [(source.lower(), target.lower()) for source, target in parts[name]] for name in parts
)
words = {
    name: [len(text.split()) for pair in pairs for text in pair]
    for name, pairs in (("training", training), ("validation", validation), ("test", test))
}
rows = [
    {
        "split": name,
        "pairs": len(of) // 2,
        "median of words": sorted(of)[len(of) // 2],
        "longest": max(of),
    }
    for name, of in words.items()
]
show_table(DATA, rows)
for source, target in sorted(training[:200], key=lambda pair: len(pair[0]))[:3]:
    print(f"{source}  ->  {target}")

# %% [markdown]
# **Leaks.** A test sentence that was also in the training data tests only memory. How many source sentences of the test split are in the training split, first exactly, then without case and punctuation?


# %%
def bare(text):
    return " ".join("".join(c for c in text if c.isalnum() or c == " ").split())


seen, seen_bare = {source for source, _ in training}, {bare(source) for source, _ in training}
exact = sum(source in seen for source, _ in test)
near = sum(bare(source) in seen_bare for source, _ in test)
print(f"test sources in the training split: {exact} of {len(test):,}; without punctuation {near}")
assert near <= 0.02 * len(test), "too many: take them out of the training split"

# %% [markdown]
# **Baselines.** A model must beat methods that need no model: copying the source, writing the most frequent target, and translating word by word with a dictionary built from counts (each word is mapped to the target word with which it
# shares the most sentences, relative to how often the two words occur).

# %%
some = training[:10_000]
sources_of, targets_of, both = Counter(), Counter(), Counter()
for source, target in some:
    left, right = ([*dict.fromkeys(text.split())] for text in (source, target))
    sources_of.update(left)
    targets_of.update(right)
    both.update(itertools.product(left, right))
best = {}
for (a, b), n in both.items():
    dice = 2 * n / (sources_of[a] + targets_of[b])
    if dice > best.get(a, (0.0, ""))[0]:
        best[a] = dice, b
common = Counter(target for _, target in training).most_common(1)[0][0]
baselines = {
    "copy the source": lambda source: source,
    "the most frequent target": lambda source: common,
    "word by word": lambda source: " ".join(best.get(w, (0, w))[1] for w in source.split()),
}

# %%
held_out = validation[:: max(1, len(validation) // 200)][:200]
targets = [target for _, target in held_out]


def scored(translate):
    """BLEU (lower-cased) and chrF on 200 validation pairs, and the share that is exactly right."""
    outputs = [translate(source) for source, _ in held_out]
    scores = translation_scores(outputs, targets, samples=2).named
    right = sum(a == b for a, b in zip(outputs, targets, strict=True)) / len(targets)
    return {"BLEU": scores["lowercase"], "chrF": scores["chrF"], "exactly right, %": 100 * right}


table = [{"what": name} | scored(one) for name, one in baselines.items()]
show_table("Baselines, on validation pairs", table, digits=1)

# %% [markdown]
# ## Step 3: tokens, lengths and batches, with a check each
#
# Most failures of the first hour happen here, and none of them raises an error by itself.

# %%
if DATA == "Multi30k":
    texts = (text for pair in training for text in pair)
    tokenizer = Tokenizer.train_bpe(texts, 3_000, lowercase=True)
else:
    tokenizer = Tokenizer.train_characters(text for pair in training for text in pair)
round_trip = [tokenizer.decode(ids) for ids in tokenizer.encode_batch(targets)]
same = sum(bare(a) == bare(b) for a, b in zip(round_trip, targets, strict=True))
print(
    f"{tokenizer.vocab_size:,} tokens; texts that survive encoding and decoding: {same} of {len(targets)}"
)
assert same >= 0.99 * len(targets)
lengths = sorted(
    len(ids) for ids in tokenizer.encode_batch(source for source, _ in training[:5_000])
)
LONGEST = 48
print(
    f"tokens of a source: median {lengths[len(lengths) // 2]}, 99 % below {lengths[len(lengths) * 99 // 100]}"
)
assert lengths[len(lengths) * 99 // 100] < LONGEST

# %%
sizes = TranslatorSizes(
    d_model=64, n_heads=4, d_ff=128, n_encoder_layers=1, n_decoder_layers=1, dropout=0.0
)


def new_translator(sizes=sizes, seed=0):
    torch.manual_seed(seed)
    model = sizes.build(tokenizer.vocab_size, LONGEST)
    return Translator(Loaded(model, tokenizer), max_length=LONGEST, limit=LONGEST)


translator = new_translator()
batch = next(iter(translator.batches(training[:64], Batching(max_tokens=400, seed=0, epochs=1))))
print(f"a batch: sources {tuple(batch.source.shape)}, targets {tuple(batch.target.shape)}")
first = batch.target[0][batch.target_mask[0]]
assert torch.equal(batch.target_input[0, 1 : len(first)], first[:-1])  # shifted by one
assert first[-1] == tokenizer.target.stop  # and it learns to end
assert (batch.source[~batch.source_mask] == tokenizer.pad).all()
one_epoch = translator.batches(training[:64], Batching(max_tokens=400, seed=0, epochs=1))
assert sum(len(one.source) for one in one_epoch) == 64  # every pair once

# %% [markdown]
# ## Step 4: the smallest model that learns 32 pairs by heart
#
# A model that cannot memorize 32 pairs has a bug, and no amount of data fixes it. This check takes seconds and is worth more than any unit test of the training code.

# %%
few = training[:32]
steps = 30 if FAST else 250
settings = Training(steps=steps, learning_rate=5e-3, warmup=20)
loss_before = pair_loss(translator.model, batch).item() / batch.n_targets
history = train(
    translator.model,
    translator.batches(few, Batching(max_tokens=2_000, seed=0, epochs=None)),
    pair_loss,
    settings,
    device="cpu",
)
by_heart = translator.exact_match(few)
print(
    f"loss {history.losses[0]:.2f}, at the end {history.losses[-1]:.4f}; by heart: {by_heart:.0%}"
)
print(
    f"a model that knows nothing: ln {tokenizer.vocab_size} = {torch.tensor(tokenizer.vocab_size).log():.2f}"
)
if not FAST:
    assert by_heart >= 0.97

# %% [markdown]
# ## Step 5: scale
#
# Now train on all of the data. Each of the curves below took minutes; they ship with the library (`benchmarks/ladder.py`), so you do not have to wait. All models use the same learning rate and the same batches, have about a million
# parameters, and train for 400 steps, less than one pass over the 29,000 pairs. The curves show only the beginning of training: the model that is ahead after a minute need not be ahead after an hour. The
# [recipe](src/qkv/recipes/multi30k.yaml) that trains for an hour, `qkv train multi30k`, reaches 38 BLEU.

# %%
ladder = json.loads(Path("benchmarks/results/ladder.json").read_text())["rows"]
first_seed = [one for one in ladder.values() if one["seed"] == 0]
losses = {
    one["step"]: (range(20, 20 * len(one["losses"]) + 1, 20), one["losses"]) for one in first_seed
}
chrf = {one["step"]: tuple(zip(*one["evaluations"], strict=True)) for one in first_seed}
with figure("10a_curves", 1, 2, size=(11, 4)) as axes:
    title = "Training loss (smoothed targets)"
    draw_curves(axes[0, 0], losses, x="step", y="nats per token", title=title)
    draw_curves(axes[0, 1], chrf, x="step", y="chrF", title="200 validation pairs")

# %% [markdown]
# ## Step 6: the ladder of the history
#
# The table shows what each historical step gained. It starts with a recurrent encoder-decoder without attention, with Bahdanau's attention, and with Luong's attention. Then come the Transformer of 2017, the same model with its norms
# moved to the front (pre-norm), and a modern block (RMS norm, SwiGLU, rotary positions). The last two rows add beam search and the mean of the last five checkpoints. Weights were chosen on validation pairs, and the test split was scored
# once for each row and seed.

# %%
by_step = {}
for one in ladder.values():
    for step, scores in one["scores"].items():
        by_step.setdefault(step, []).append((one["seed"], scores["test"]))
rows = []
for step, of in by_step.items():
    bleu = [scores["BLEU"] for _, scores in sorted(of, key=lambda pair: pair[0])]
    rows.append(
        {"step": step, "BLEU, mean": sum(bleu) / len(bleu), "each seed": bleu, "seeds": len(bleu)}
        | {"chrF2, mean": sum(scores["chrF2"] for _, scores in of) / len(of)}
    )
show_table("Multi30k, test_2016, after 400 steps: BLEU, lower-cased", rows, digits=1)
means = {row["step"]: row["BLEU, mean"] for row in rows}
assert means["recurrent, no attention"] < min(
    v for k, v in means.items() if k != "recurrent, no attention"
)

# %% [markdown]
# Attention is a large step, as it was in 2014. The order of the other rows depends on the budget: at 400 steps, a row that is ahead learns *faster*. Where there are several seeds, their spread shows which differences not to
# trust; the commands to run more are in [results.md](docs/results.md#the-ladder). A baseline of step 2 is not far behind: the dictionary, which knows no grammar, has 8 BLEU on validation pairs. A model trained for a minute is barely better.
#
# ## Step 7: read thirty errors, and sort them
#
# A score tells you how bad a model is; its errors tell you what to do. Here we read the output of a finished model, `translator-en-de`, which ships with the library and was trained on other sentences (Tatoeba). A simple rule
# sorts the errors, so check the result by eye (`show_table("All", read)` shows all of them): *omission* (more than a fifth shorter), *order* (the same words), *agreement* (the same stems with different endings), otherwise *lexicon*. A
# different translation is not always an error.

# %%
finished = Translator.load("translator-en-de")
if DATA == "Multi30k":
    to_read = [(s, [t]) for s, t in splits.validation[::20][: 10 if FAST else 40]]
else:
    from qkv.data.sets.everyday import everyday

    to_read = [(one.source, one.references) for one in everyday("en")][: 10 if FAST else 40]
outputs = [str(one) for one in finished.predict([source for source, _ in to_read])]


def kind_of_error(output, reference):
    ours, theirs = bare(output.lower()).split(), bare(reference.lower()).split()
    if len(ours) < 0.8 * len(theirs):
        return "omission"
    if sorted(ours) == sorted(theirs):
        return "order"
    stems = [sorted(word[:4] for word in side) for side in (ours, theirs)]
    return "agreement" if stems[0] == stems[1] else "lexicon"


# %%
read = [
    {"source": source, "output": output, "reference": references[0]}
    | {"kind": kind_of_error(output, references[0])}
    for (source, references), output in zip(to_read, outputs, strict=True)
    if bare(output.lower()) not in {bare(one.lower()) for one in references}
]
kinds = Counter(one["kind"] for one in read)
print(f"{len(read)} of {len(to_read)} differ from the reference: {dict(kinds)}")
shortest = sorted(read, key=lambda one: len(one["source"]))
show_table("Five of them", shortest[:5])

# %% [markdown]
# Most differences are in the choice of words. A few are as good as the reference; more are wrong, or not words at all, because this model is small and never saw captions. To estimate what a change would gain, count only the differences that a
# reader would call wrong.
#
# ## Step 8: one change of your own
#
# The rule: make **one** change, choose on the validation split, and score the test split once, at the end, for the chosen model. If you look at the test split twice, you are choosing on it. The example here asks whether label smoothing
# is worth it in a run of a minute. Change the two settings, and nothing else.

# %%
steps = 20 if FAST else 150
candidates = {}
for smoothing in (0.0, 0.1):
    translator = new_translator(seed=1)
    train(
        translator.model,
        translator.batches(training, Batching(max_tokens=800, seed=1, epochs=None)),
        partial(pair_loss, smoothing=smoothing),
        Training(steps=steps, learning_rate=5e-3, seed=1),
        device="cpu",
    )
    candidates[smoothing] = translator
on_validation = {
    smoothing: one.evaluate(held_out[:100], samples=2).named["chrF"]
    for smoothing, one in candidates.items()
}
chosen = max(on_validation, key=on_validation.__getitem__)
show_table(
    "chrF of validation pairs", [{f"smoothing {s}": v for s, v in on_validation.items()}], digits=1
)
final = candidates[chosen].evaluate(test[:200], samples=200).chrf
low, high = final.interval
print(
    f"chosen: smoothing {chosen}; on the test split, once: chrF {final.score:.1f} ({low:.1f} to {high:.1f})"
)

# %% [markdown]
# One seed proves little: if the difference is smaller than the interval, report that the change made no difference.
#
# ## Step 9: card and export
#
# A model without a card is just a file. The card states what the model is for, what data it was trained on and under which license, how it was chosen, how it scored, and where it fails.

# %%
card = f"""# A small translator

- **Use**: to learn from. After {steps} steps, its translations are not usable.
- **Data**: {DATA}, {len(training):,} training pairs. {"Non-commercial research and education only." if DATA == "Multi30k" else "Made from the Unicode CLDR."}
- **Model**: {sum(p.numel() for p in candidates[chosen].model.parameters()):,} parameters, Marian's layout; {tokenizer.vocab_size:,} tokens, lower case.
- **Chosen**: label smoothing {chosen}, by chrF on {len(held_out[:100])} validation pairs. Seed 1.
- **Score**: chrF {final.score:.1f} ({low:.1f} to {high:.1f}) on {len(test[:200])} test pairs, scored once.
- **Fails**: long sentences, rare words, all names; errors of a finished model are in step 7.
"""
print(card)
with tempfile.TemporaryDirectory() as folder:
    candidates[chosen].save(Path(folder, "mine"))
    Path(folder, "mine", "README.md").write_text(card, encoding="utf-8")
    print("files:", ", ".join(sorted(path.name for path in Path(folder, "mine").iterdir())))
    again = Translator.of(qkv.load(Path(folder, "mine")))
    some = [source for source, _ in held_out[:5]]
    before, after = ([str(o) for o in one.predict(some)] for one in (candidates[chosen], again))
    assert before == after
    from transformers import MarianMTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    theirs = MarianMTModel.from_pretrained(Path(folder, "mine")).eval()
    source = torch.tensor([again.encode([held_out[0]])[0][0]])
    start = torch.tensor([[again.decoder.start]])
    with torch.no_grad():
        ours = again.model(source, start)
        difference = (theirs(input_ids=source, decoder_input_ids=start).logits - ours).abs().max()
    print(f"transformers opens the folder; largest difference of the logits {difference:.0e}")
    assert difference < 1e-4

# %% [markdown]
# The folder works with `qkv translate --model`, `qkv serve`, and every tool that reads the Hugging Face layout. The following two commands do the same, with checkpoints, resumption and a results file:
#
# ```sh
# qkv train multi30k --output out/mine
# qkv evaluate out/mine --data multi30k --columns.source en --columns.target de
# ```
#
# **Go on** with [door B](notebooks/10b_mathematics.ipynb), or with the [results](docs/results.md) of all recipes.
