import torch

def greedy(model, n_rows, start, stop, pad, max_length):
    rows = [[] for _ in range(n_rows)]
    finished = [False] * n_rows
    last = [start] * n_rows
    for position in range(1, max_length + 1):
        logits = model.step(torch.tensor(last), position)
        best = logits.argmax(-1).tolist()
        for r in range(n_rows):
            if finished[r]:
                best[r] = pad
            rows[r].append(best[r])
            if best[r] == stop:
                finished[r] = True
        last = best
        if all(finished):
            break
    return torch.tensor(rows)
