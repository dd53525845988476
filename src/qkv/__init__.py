"""qkv: attention and Transformers in PyTorch."""
