import torch
from torch.nn.utils.rnn import pad_sequence

def collate(pairs, pad, start, stop):
    T = lambda s: torch.tensor(s, dtype=torch.long)
    P = lambda seqs, value: pad_sequence(seqs, batch_first=True, padding_value=value)
    src = [T(s[::-1]) for s, _ in pairs]
    inp = [T([start] + t) for _, t in pairs]
    out = [T(t + [stop]) for _, t in pairs]
    ones = lambda seqs: P([torch.ones(len(s), dtype=torch.bool) for s in seqs], False)
    return {"source": P(src, pad), "source_mask": ones(src), "target_input": P(inp, pad),
            "target": P(out, pad), "target_mask": ones(out)}
