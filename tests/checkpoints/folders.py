"""Small checkpoints on the disk, and their files taken apart and put together again."""

import json

import torch
from tests.checkpoints.tiny import TINY
from tests.helpers import randomized

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.checkpoints.registry import FAMILIES

N_CLASSES = 5


def model(model_type="bert", architecture=None, seed=0, **changes):
    """A small model of a family with random weights."""
    family = FAMILIES[model_type]
    shape = family.architecture(architecture)
    config = family.read_config({**TINY[model_type], **changes}, shape)
    return randomized(shape.build(config, N_CLASSES), torch.float32, seed=seed)


def write(folder, model_type="bert", architecture=None, seed=0, **options):
    """Save such a model; returns it."""
    one = model(model_type, architecture, seed)
    save_checkpoint(Checkpoint(one, {"model_type": model_type}), folder, **options)
    return one


def take_apart(file):
    """The header of a safetensors file and the bytes after it."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(file, header, data, length=None):
    """A safetensors file, also one that lies."""
    text = json.dumps(header).encode()
    file.write_bytes((length or len(text)).to_bytes(8, "little") + text + data)


def contents(folder):
    """Every file below a folder by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
