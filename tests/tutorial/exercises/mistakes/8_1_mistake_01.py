import torch

def mask_tokens(tokens, special, mask_id, chosen, action, random_ids):
    picked = (chosen < 0.15) & ~special
    inputs = tokens.clone()
    masked = picked & (action < 0.8)
    inputs[masked] = mask_id
    rnd = picked & (action >= 0.8) & (action < 0.9)
    inputs[rnd] = random_ids[rnd]
    labels = torch.full_like(tokens, -100)
    labels[masked] = tokens[masked]     # the model must guess what is behind [MASK]
    return inputs, labels
