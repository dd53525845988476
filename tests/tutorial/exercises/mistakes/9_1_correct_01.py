import re

def learning_rates(names, n_layers, top, rate, decay):
    rates, r = {}, rate
    for layer in reversed(range(n_layers - top, n_layers)):
        r *= decay
        rates[str(layer)] = r
    def of(name):
        if re.match(r"(classifier|pooler)\.", name):
            return rate
        m = re.match(r"layers\.(\d+)\.", name)
        return rates.get(m[1]) if m else None
    return {name: of(name) for name in names if of(name) is not None}
