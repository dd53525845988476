import math
from collections import Counter

def sentence_bleu(hyp, ref, smooth):
    logs, k = 0.0, 0
    for n in (1, 2, 3, 4):
        h = Counter(tuple(hyp[i:i + n]) for i in range(len(hyp) - n + 1))
        r = Counter(tuple(ref[i:i + n]) for i in range(len(ref) - n + 1))
        match = sum((h & r).values())
        total = max(1, sum(h.values()))
        if match == 0:
            if not smooth:
                return 0.0
            k += 1
            match = 0.5 ** k
        logs += math.log(match / total) / 4
    bp = min(1.0, math.exp(1 - len(ref) / max(1, len(hyp))))
    return 100 * bp * math.exp(logs)

def corpus_bleu(translations, references, smooth):
    values = [sentence_bleu(t, r, smooth) for t, r in zip(translations, references)]
    return sum(values) / len(values)
