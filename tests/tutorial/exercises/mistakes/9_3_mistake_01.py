import math

def report(runs, seen):
    keep = ~seen
    best, best_acc = None, -1.0
    for run in runs:
        acc = run["test"][keep].double().mean().item()
        if acc > best_acc:
            best, best_acc = run, acc
    n = int(keep.sum())
    z = 1.959963984540054
    a = best_acc
    mid = a + z * z / (2 * n)
    half = z * math.sqrt(a * (1 - a) / n + z * z / (4 * n * n))
    d = 1 + z * z / n
    return best["name"], a, (mid - half) / d, (mid + half) / d
