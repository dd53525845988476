import torch

def concat_scores(queries, keys, W, v):
    B, Q, Dq = queries.shape
    K = keys.shape[1]
    out = torch.zeros(B, Q, K)
    # W [q; k] = W_q q + W_k k, so no pair has to be concatenated
    for b in range(B):
        for i in range(Q):
            a = torch.tanh(W[:, :Dq] @ queries[b, i])
            for j in range(K):
                c = torch.tanh(W[:, Dq:] @ keys[b, j])
                out[b, i, j] = v @ (a + c)
    return out
