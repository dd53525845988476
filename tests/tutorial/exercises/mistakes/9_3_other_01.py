import math

def report(runs, seen):
    best = max(runs, key=lambda r: int(r["validation"].sum()))
    t = best["test"][~seen]
    n = len(t)
    a = (int(t.sum()) + 1) / (n + 2)
    z = 1.959963984540054
    h = z * math.sqrt(a * (1 - a) / n + z ** 2 / (4 * n ** 2))
    f = lambda sign: (a + z ** 2 / (2 * n) + sign * h) / (1 + z ** 2 / n)
    return best["name"], a, f(-1), f(1)
