"""Train a language model on files that are read as needed: streamed_training.py OUTPUT FILE ...

The files are parquet with a column "text"; under torchrun each process reads its share of them. The
tokenizer is that of the shipped language model.
"""

import sys

import datasets

import qkv
from qkv.data.streamed import StreamedBatches, text_shards
from qkv.models.llama import Llama, LlamaConfig
from qkv.training import ranks
from qkv.training.checkpointing import Checkpoints
from qkv.training.loop import connected, train
from qkv.training.pretraining import causal_loss
from qkv.training.settings import Training

output, *files = sys.argv[1:]
tokenizer = qkv.load("smollm2").tokenizer
assert tokenizer is not None
stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
with connected("auto"):
    batches = StreamedBatches(
        text_shards(stream),
        tokenizer.encode,
        length=128,
        stop=tokenizer.stop,
        batch_size=8,
        epochs=None,
        rank=ranks.rank(),
        n_ranks=ranks.n_ranks(),
    )
    sizes = LlamaConfig(
        vocab_size=tokenizer.vocab_size, d_model=64, n_heads=4, d_ff=172, n_layers=2
    )
    settings = Training(steps=30, learning_rate=3e-3)
    train(
        Llama(sizes),
        batches,
        causal_loss,
        settings,
        callbacks=[Checkpoints(output, every=10, recipe={"files": files, "sizes": vars(sizes)})],
    )
