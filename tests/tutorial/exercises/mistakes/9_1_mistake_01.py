def learning_rates(names, n_layers, top, rate, decay):
    rates = {}
    for name in names:
        if name.startswith("classifier") or name.startswith("pooler"):
            rates[name] = rate
            continue
        for i in range(n_layers):
            if name.startswith("layers.%d" % i):
                depth = n_layers - i            # 1 for the highest layer
                if depth <= top:
                    rates[name] = rate * decay ** depth
                break
    return rates
