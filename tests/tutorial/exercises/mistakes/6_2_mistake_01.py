def beam_search(log_probs, size, stop, max_length):
    beam, done = [((), 0.0)], []
    for _ in range(max_length):
        cand = [(p + (t,), s + lp) for p, s in beam for t, lp in enumerate(log_probs(p))]
        cand.sort(key=lambda c: c[1], reverse=True)
        done += [(list(p), s) for p, s in cand[:size] if p[-1] == stop]
        beam = [c for c in cand if c[0][-1] != stop][:size]
    return sorted(done, key=lambda a: a[1], reverse=True)
