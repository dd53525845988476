import torch

def image_tokens(images, patch, W, bias, class_token, positions):
    p, q = patch
    b, c, height, width = images.shape
    rows = []
    for top in range(0, height, p):
        for left in range(0, width, q):
            piece = images[:, :, top:top + p, left:left + q]
            rows.append(piece.permute(0, 2, 3, 1).reshape(b, -1))   # flatten p x q x C
    tokens = torch.stack(rows, 1)
    tokens = torch.nn.functional.linear(tokens, W, bias)
    tokens = torch.cat((class_token.view(1, 1, -1).repeat(b, 1, 1), tokens), 1)
    return tokens + positions[None]
