import torch

def greedy(model, n_rows, start, stop, pad, max_length):
    token = torch.full((n_rows,), start)
    done = torch.zeros(n_rows, dtype=torch.bool)
    out = []
    for pos in range(max_length):
        token = model.step(token, pos).argmax(dim=-1)
        done = done | (token == stop)
        token = token.masked_fill(done, pad)    # finished rows are filled with pad
        out.append(token)
        if done.all():
            break
    return torch.stack(out, dim=1)
