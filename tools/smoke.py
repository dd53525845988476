"""Prove that the bare wheel works: run by the Python of an environment that has nothing but it."""

import importlib.util
import sys
from pathlib import Path

import torch

import qkv

OPTIONAL = ["accelerate", "anywidget", "babel", "datasets", "jupytext", "matplotlib", "pytest"]
OPTIONAL += ["transformers"]


def main() -> None:
    """Decode with a tiny Transformer, look at its attention, and ask two models that ship."""
    assert Path(qkv.__file__).is_relative_to(sys.prefix), f"{qkv.__file__} is not the wheel's"
    present = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    assert not present, f"the core must do without {present}"

    torch.manual_seed(0)
    config = qkv.TransformerConfig(
        source_vocab_size=13,
        target_vocab_size=11,
        d_model=16,
        n_heads=2,
        d_ff=32,
        n_encoder_layers=1,
        n_decoder_layers=1,
    )
    model = qkv.Transformer(config).eval()
    source = torch.randint(13, (3, 7))
    with torch.no_grad(), qkv.record_attention(model) as weights:
        tokens = qkv.greedy(model, source, start=1, stop=2, max_length=5)
    assert tokens.shape[0] == 3
    for name, seen in weights.items():
        torch.testing.assert_close(seen.sum(-1), torch.ones(seen.shape[:-1]))
        print(f"{name}: {tuple(seen.shape)}")
    # The models that ship are in the wheel.
    date = str(qkv.task("translate", "dates")("Sunday, February 23, 2081"))
    assert date == "2081-02-23", date
    print(f"zoo: {date}; {qkv.task('translate')('Tom is not here.')}")
    qkv.explore("dates", "Sunday, February 23, 2081").save("page.html")
    assert Path("page.html").stat().st_size > 100_000  # the built page is in the wheel, too
    print(f"qkv {qkv.__version__} from {qkv.__file__}: decoded {tokens.tolist()}")


if __name__ == "__main__":
    main()
