import math
from collections import Counter

def corpus_bleu(translations, references, smooth):
    def grams(s, n):
        return Counter(zip(*[s[i:] for i in range(n)]))
    p, empty = [], 0
    for n in range(1, 5):
        m = sum(sum((grams(t, n) & grams(r, n)).values()) for t, r in zip(translations, references))
        total = sum(sum(grams(t, n).values()) for t in translations)
        if not m:
            if not smooth:
                return 0.0
            empty += 1
            m = 2.0 ** -empty
        p.append(m / total)
    c, r = sum(map(len, translations)), sum(map(len, references))
    return float(math.floor(100 * min(1, math.exp(1 - r / c)) * math.prod(p) ** 0.25))
