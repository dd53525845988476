"""Answers of learners, as text."""

RIGHT = """
import torch

def sinusoids(positions, d_model):
    out = torch.zeros(len(positions), d_model)
    for row, p in enumerate(positions.tolist()):
        for i in range(d_model // 2):
            angle = torch.tensor(p / 10000 ** (2 * i / d_model))
            out[row, 2 * i] = torch.sin(angle)
            out[row, 2 * i + 1] = torch.cos(angle)
    return out
"""
SWAPPED = RIGHT.replace("torch.sin", "torch.TEMP").replace("torch.cos", "torch.sin")
SWAPPED = SWAPPED.replace("torch.TEMP", "torch.cos")
