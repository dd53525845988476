import math
from fractions import Fraction

def corpus_bleu(translations, references, smooth):
    product, penalty = Fraction(1), Fraction(1, 2)
    for n in (1, 2, 3, 4):
        found = every = 0
        for text, model in zip(translations, references):
            left = [model[i:i + n] for i in range(len(model) - n + 1)]
            for i in range(len(text) - n + 1):
                every += 1
                if text[i:i + n] in left:
                    left.remove(text[i:i + n])
                    found += 1
        if found:
            product *= Fraction(found, every)
        elif smooth:
            product *= penalty / every
            penalty /= 2
        else:
            return 0.0
    c, r = len(sum(translations, [])), len(sum(references, []))
    brevity = 1.0 if c >= r else math.exp(1 - r / c)
    return 100 * brevity * math.sqrt(math.sqrt(product))
