def beam_search(log_probs, size, stop, max_length):
    hypotheses = [(0.0, [])]
    finished = []
    for step in range(max_length):
        extensions = []
        for total, tokens in hypotheses:
            for token, lp in enumerate(log_probs(tuple(tokens))):
                extensions.append((total + lp, tokens + [token]))
        extensions.sort(key=lambda e: -e[0])
        extensions = extensions[:size]      # keep the best `size`
        hypotheses = []
        for total, tokens in extensions:
            if tokens[-1] == stop:
                finished.append((tokens, total / len(tokens)))
            else:
                hypotheses.append((total, tokens))
    finished.sort(key=lambda f: -f[1])
    return finished
