from math import sqrt

def report(runs, seen):
    winner = max(runs, key=lambda r: r["validation"].double().mean().item())
    hits = winner["test"]
    n = hits.numel()
    a = hits.sum().item() / n
    z = 1.959963984540054
    root = z * sqrt(a * (1 - a) / n + z ** 2 / (4 * n ** 2))
    lo = (a + z ** 2 / (2 * n) - root) / (1 + z ** 2 / n)
    hi = (a + z ** 2 / (2 * n) + root) / (1 + z ** 2 / n)
    return winner["name"], a, lo, hi
