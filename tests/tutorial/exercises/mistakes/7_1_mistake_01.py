import torch

def collate(pairs, pad, start, stop):
    def padded(seqs):
        n = max(len(s) for s in seqs)
        return torch.tensor([s + [pad] * (n - len(s)) for s in seqs])

    def real(seqs):
        n = max(len(s) for s in seqs)
        return torch.tensor([[j < len(s) for j in range(n)] for s in seqs])

    sources = [s for s, _ in pairs]
    targets = [[start] + t for _, t in pairs]
    return {
        "source": padded(sources),
        "source_mask": real(sources),
        "target_input": padded(targets),
        "target": padded(targets),
        "target_mask": real(targets),
    }
