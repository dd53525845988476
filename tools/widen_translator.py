"""Widen the feed-forward networks of a trained translator without changing what it computes.

    python tools/widen_translator.py translator-en-de out/wide 1536

New hidden units have random weights before the activation and zeros after it, so that each network
is the same function and goes on training from there. After Chen, Goodfellow and Shlens 2016,
"Net2Net", https://arxiv.org/abs/1511.05641, who copy units instead.
"""

import argparse
from dataclasses import replace

import torch

from qkv.models.marian import Marian
from qkv.tasks.translation import Translator


@torch.no_grad()
def widened(model: Marian, d_ff: int) -> Marian:
    """Return a model with wider feed-forward networks that computes the same.

    Args:
        model: the trained model.
        d_ff: the new width, at least the old one.
    """
    wide = Marian(replace(model.config, d_ff=d_ff))
    old = model.state_dict()
    for name, new in wide.state_dict().items():
        if name.endswith("feed_forward.down.weight"):
            new.zero_()
        new[tuple(slice(size) for size in old[name].shape)] = old[name]
    return wide.eval()


def main() -> None:
    """Widen a translator, and check it on a sentence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("d_ff", type=int)
    args = parser.parse_args()
    torch.manual_seed(0)
    translator = Translator.load(args.model)
    assert isinstance(translator.model, Marian)
    model = widened(translator.model, args.d_ff)
    ids = torch.tensor([translator.tokenizer.encode("This is a sentence.")])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, ids), translator.model(ids, ids))
    replace(translator, loaded=replace(translator.loaded, model=model)).save(args.output)


if __name__ == "__main__":
    main()
