import heapq
from itertools import islice

def beam_search(log_probs, size, stop, max_length):
    total = lambda item: item[1]

    def go(beam, steps):
        if steps == 0 or not beam:
            return []
        more = [(p + (t,), s + l) for p, s in beam for t, l in enumerate(log_probs(p))]
        ended = [(list(p), s / len(p)) for p, s in heapq.nlargest(size, more, key=total) if p[-1] == stop]
        going = (e for e in sorted(more, key=total, reverse=True) if e[0][-1] != stop)
        return ended + go(list(islice(going, size)), steps - 1)

    return sorted(go([((), 0.0)], max_length), key=total, reverse=True)
