import torch

def mask_tokens(tokens, special, mask_id, chosen, action, random_ids):
    sel = torch.logical_and(chosen < 0.15, torch.logical_not(special))
    labels = torch.where(sel, tokens, -100)
    changed = torch.where(action < 0.8, mask_id, random_ids)
    return torch.where(sel, changed, tokens), labels
