from math import exp

def corpus_bleu(translations, references, smooth):
    c = sum(map(len, translations))
    r = sum(map(len, references))
    product = 1.0
    zeros = 0
    for n in range(1, 5):
        hits = total = 0
        for hyp, ref in zip(translations, references):
            in_ref = {tuple(ref[i:i + n]) for i in range(len(ref) - n + 1)}
            for i in range(len(hyp) - n + 1):
                total += 1
                if tuple(hyp[i:i + n]) in in_ref:
                    hits += 1
        if hits == 0:
            if not smooth:
                return 0.0
            zeros += 1
            hits = 1 / 2 ** zeros
        product *= hits / total
    return 100 * min(1, exp(1 - r / c)) * product ** 0.25
