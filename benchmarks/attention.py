"""Attention over long inputs: time and memory of each mechanism as the length grows.

First of the heads alone: queries, keys and values are given, so that projections blur nothing. Then
of whole modules, beside multi-head attention of the same width. Forward, without gradients.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import IMAGES, RESULTS, arguments, load, machine, provenance, publish, ratios, save
from torch import Tensor

from qkv.attention.biased import biased_attention
from qkv.attention.core import attention, explicit_attention
from qkv.attention.masks import key_positions, sliding_window_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.chunks import attention_by_chunks
from qkv.attention.variants.differential import DifferentialAttention
from qkv.attention.variants.differential_v2 import DifferentialV2Attention
from qkv.attention.variants.dilated_window import DilatedWindowAttention
from qkv.attention.variants.feature_sums import divide, feature_map, key_value_sums
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.gated_delta import GatedDeltaAttention
from qkv.attention.variants.global_tokens import GlobalTokensAttention
from qkv.attention.variants.latent import LatentAttention
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.qk_norm import QKNormAttention
from qkv.attention.variants.relative import RelativeAttention
from qkv.attention.variants.shared import PassedKeys, SharedAttention, SharedCache
from qkv.attention.variants.sigmoid import SigmoidAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.softcap import SoftcapAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.attention.variants.top_k import TopKAttention
from qkv.blocks.positions import ALiBi, Rotary
from qkv.tutorial.figures import draw_curves, new_figure, save_figure
from qkv.tutorial.measure import interleave, medians, peak_memory
from qkv.tutorial.tables import markdown_table, show_table

LENGTHS, QUICK_LENGTHS = (1024, 2048, 4096, 8192), (256, 512, 1024)
D_MODEL, N_HEADS, D_HEAD = 256, 4, 64
WINDOW = 256  # on either side: 512 keys
ROUNDS, QUICK_ROUNDS = 7, 2
PATH, QUICK = RESULTS / "attention.json", Path("out/attention_quick.json")
BY_CHUNKS, MASKED = "window, by chunks", "window, fused with a mask"
PLAIN = "multi-head"
# The same function, computed in two ways.
EQUAL = [
    ("explicit", "fused"),
    (MASKED, BY_CHUNKS),
    ("ALiBi, whole bias", "ALiBi, by chunks"),
]
Rivals = dict[str, Callable[[], Tensor]]


def make_heads(length: int) -> Rivals:
    q, k, v = torch.randn(3, 1, N_HEADS, length, D_HEAD)
    pattern, alibi = partial(sliding_window_mask, window=WINDOW), ALiBi(N_HEADS)
    mask = pattern(*key_positions(None, q, k))
    return {
        "explicit": lambda: explicit_attention(q, k, v),
        "fused": lambda: attention(q, k, v),
        "fused, causal": lambda: attention(q, k, v, causal=True),
        MASKED: lambda: attention(q, k, v, mask=mask),
        BY_CHUNKS: lambda: attention_by_chunks(q, k, v, pattern, reach=WINDOW, causal=False),
        "ALiBi, whole bias": lambda: attention(q, k, v, bias=alibi(*key_positions(None, q, k))),
        "ALiBi, by chunks": lambda: biased_attention(q, k, v, alibi),
        "linear": lambda: linear_attention(q, k, v),
    }


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    sums = key_value_sums(feature_map(k), F.pad(v, (0, 1), value=1.0))
    return divide(feature_map(q) @ sums)


def make_modules(length: int) -> Rivals:
    sizes, window = (D_MODEL, N_HEADS), {"window": WINDOW}
    modules = {
        PLAIN: MultiHeadAttention(*sizes),
        "multi-head, causal": MultiHeadAttention(*sizes, causal=True),
        "multi-query": MultiHeadAttention(*sizes, n_kv_heads=1),
        "ALiBi": MultiHeadAttention(*sizes, position_bias=ALiBi(N_HEADS)),
        "sliding window": SlidingWindowAttention(*sizes, **window),
        "dilated window": DilatedWindowAttention(*sizes, **window, dilation=2),
        "global tokens": GlobalTokensAttention(*sizes, **window, n_global=4),
        "streaming, causal": StreamingAttention(*sizes, **window),
        "linear": LinearAttention(*sizes),
        "gated delta, causal": GatedDeltaAttention(*sizes),
        "latent": LatentAttention(
            *sizes, d_latent=4 * D_HEAD, d_rotary=D_HEAD // 2, rotary=Rotary(D_HEAD // 2)
        ),
        "QK norm": QKNormAttention(*sizes),
        "gated": GatedAttention(*sizes),
        "differential": DifferentialAttention(D_MODEL, N_HEADS // 2),
        "differential V2": DifferentialV2Attention(*sizes),
        "top-k": TopKAttention(*sizes, k=2 * WINDOW),
        "sigmoid": SigmoidAttention(*sizes),
        "sink": SinkAttention(*sizes),
        "softcap": SoftcapAttention(*sizes),
        "relative": RelativeAttention(*sizes, max_distance=16),
    }
    x = torch.randn(1, length, D_MODEL)
    passed, shared = PassedKeys(), SharedAttention(*sizes).eval()
    modules[PLAIN](x, cache=passed)  # the earlier layer, whose time is not that of the shared one
    runs: Rivals = {name: partial(module.eval(), x) for name, module in modules.items()}
    return runs | {"shared": partial(shared, x, cache=SharedCache(passed))}


def measure(
    make: Callable[[int], Rivals], lengths: Sequence[int], *, rounds: int, base: str
) -> dict[str, Any]:
    """Measure by name, each by length; the ratio is of seconds to those of `base`."""
    result: dict[str, Any] = {}
    for length in lengths:
        torch.manual_seed(0)
        rivals = make(length)
        check_equal(rivals)
        seconds = interleave(rivals, rounds=rounds, progress=True)
        typical, slower = medians(seconds), ratios(seconds, base)
        for name, run in rivals.items():
            of = result.setdefault(name, {"median seconds": {}, "peak bytes": {}, "ratio": {}})
            of["median seconds"][str(length)] = typical[name]
            of["peak bytes"][str(length)] = peak_memory(run)
            of["ratio"][str(length)] = slower.get(name, 1.0)
    return result


def check_equal(rivals: Rivals) -> None:
    for ours, reference in EQUAL:
        if ours in rivals:
            a, b = rivals[ours](), rivals[reference]()
            assert (a - b).abs().max() <= 1e-5 * b.abs().max(), f"{ours} is not {reference}"


def exponent(values: Mapping[str, float]) -> float:
    """Fit values ~ length^exponent from the second length to the last."""
    _, first, *_, last = sorted(values, key=int)
    return math.log(values[last] / values[first]) / math.log(int(last) / int(first))


def rows(result: Mapping[str, Any], slower: str) -> list[dict[str, str]]:
    last = list(result[next(iter(result))]["ratio"])[-1]
    return [
        {"mechanism": name}
        | {
            f"ms at {int(length):,}": f"{second * 1e3:,.1f}"
            for length, second in each["median seconds"].items()
        }
        | {
            slower: f"{each['ratio'][last]:.2f}x",
            f"MB at {int(last):,}": f"{each['peak bytes'][last] / 1e6:,.1f}",
            "time ~ n^": f"{exponent(each['median seconds']):.2f}",
            "memory ~ n^": f"{exponent(each['peak bytes']):.2f}",
        }
        for name, each in result.items()
    ]


def report(result: Mapping[str, Any], *, quick: bool) -> None:
    heads, modules = result["heads"], result["modules"]
    last = list(heads[MASKED]["ratio"])[-1]
    tables = {
        f"Heads alone: {N_HEADS} of width {D_HEAD}": rows(heads, "time / window by chunks"),
        f"Whole modules: d_model {D_MODEL}, {N_HEADS} heads": rows(modules, "time / multi-head"),
    }
    for title, table in tables.items():
        show_table(title, table)
    times = heads[MASKED]["ratio"][last]
    sentence = (
        f"At {int(last):,} places the window of {2 * WINDOW} keys takes {times:.1f} times as long "
        "by the fused kernel with a mask as by chunks."
    )
    if quick:
        print(sentence)
        draw(heads, Path("out/attention.png"))
        return
    draw(heads, IMAGES / "attention.png")
    picture = "![Time and memory of attention as the length grows](images/attention.png)"
    parts = [f"**{title}**\n\n{markdown_table(table)}" for title, table in tables.items()]
    publish("attention", "\n\n".join([sentence, picture, *parts, provenance(PATH, result)]))


def draw(heads: Mapping[str, Any], path: Path) -> None:
    figure, axes = new_figure(1, 2, size=(12, 4.6))
    for place, key, scale, y, title in (
        (axes[0, 0], "median seconds", 1e3, "milliseconds", "Time"),
        (axes[0, 1], "peak bytes", 1e-6, "MB", "Memory"),
    ):
        curves = {
            name: (
                [int(length) for length in each[key]],
                [value * scale for value in each[key].values()],
            )
            for name, each in heads.items()
        }
        title += " (dashed: grows faster than n^1.5)"
        draw_curves(place, curves, x="length n", y=y, title=title)
        for line, each in zip(place.get_lines(), heads.values(), strict=True):
            line.set_linestyle("--" if exponent(each[key]) > 1.5 else "-")
            line.set_marker("o")
        place.loglog()
        ticks = next(iter(curves.values()))[0]
        place.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        place.minorticks_off()
        place.get_legend().remove()
    handles = axes[0, 0].get_lines()
    legend = figure.legend(handles=handles, loc="outside right center", fontsize=8)
    for handle in legend.legend_handles:
        handle.set_linestyle("none")  # dashed in one picture need not be so in the other
    save_figure(figure, path)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help=f"short lengths, into {QUICK}")
    options = parser.parse_args()
    path = QUICK if options.quick else PATH
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        lengths = QUICK_LENGTHS if options.quick else LENGTHS
        rounds = QUICK_ROUNDS if options.quick else ROUNDS
        with torch.inference_mode():
            result = {
                "setting": {"window": WINDOW, "batch": 1, "rounds": rounds},
                "heads": measure(make_heads, lengths, rounds=rounds, base=BY_CHUNKS),
                "modules": measure(make_modules, lengths, rounds=rounds, base=PLAIN),
                "machine": machine(),
            }
        save(path, result)
    report(load(path), quick=options.quick)


if __name__ == "__main__":
    main()
