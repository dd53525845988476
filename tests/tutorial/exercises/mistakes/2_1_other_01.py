import torch

def by_hand():
    x = torch.tensor([[1., 0.], [0., 1.], [2., 1.]])
    q = x @ torch.tensor([[1., 0., 1., 0.], [0., 1., 0., 1.]])
    k = x @ torch.tensor([[2., 0., 0., 0.], [0., 2., 0., 2.]])
    v = x * 10
    w = torch.softmax(q[0] @ k.T / 2, -1)
    out = w @ v
    return sorted(w.tolist(), reverse=True) + out.tolist()
