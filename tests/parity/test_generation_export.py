"""What `qkv train` makes of plain text, in transformers: the same numbers and tokens."""

import pytest
import torch
import transformers
from tests.helpers import unchecked
from tests.parity.causal import compare_logits

from qkv.generation.sampling import Sampling
from qkv.tasks.generation import TASK, DecoderSizes, GenerationRecipe, Generator
from qkv.tasks.splits import DataConfig
from qkv.tasks.train import train
from qkv.training.settings import Training

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TEXT = "the cat sat on the mat, and the rat ran. " * 29


@pytest.mark.parametrize(("tokenizer", "vocab_size"), [("characters", None), ("bpe", 290)])
def test_a_language_model_loads_and_writes_the_same(tmp_path, tokenizer, vocab_size):
    (tmp_path / "mine.txt").write_text(TEXT)
    with unchecked():
        train(
            TASK,
            GenerationRecipe(
                output=tmp_path / "made",
                data=DataConfig(train=(str(tmp_path / "mine.txt"),)),
                context=37,
                tokenizer=tokenizer,
                vocab_size=vocab_size,
                model=DecoderSizes(d_model=24, n_heads=6, n_kv_heads=2, d_ff=29, n_layers=2),
                training=Training(steps=30, batch_size=5, learning_rate=1e-2),
                device="cpu",
            ),
        )
    made = tmp_path / "made"
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        made, output_loading_info=True
    )
    assert not any(report.values())
    generator = Generator.load(made)
    theirs = transformers.AutoTokenizer.from_pretrained(made)
    for prompt in ("the cat", "", "ran."):
        assert theirs(prompt)["input_ids"] == generator.encode(prompt)
    ids = torch.tensor([generator.encode("the cat sat")])
    compare_logits(generator.model, model.eval(), ids)
    found = generator("the cat sat", max_length=17, sampling=Sampling(temperature=0.0))
    out = model.generate(ids, max_new_tokens=17, do_sample=False)[0, ids.shape[1] :]
    assert generator.tokenizer.tokens(out.tolist()) == found.tokens
