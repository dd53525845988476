from math import exp, sqrt

def by_hand():
    # q1 = (1,0,1,0); k1 = (2,0,0,0); k2 = (0,2,0,2); k3 = (4,2,0,2)
    # q1.k = 2, 0, 4
    a, b, c = (exp(t / sqrt(2)) for t in (2, 0, 4))
    z = a + b + c
    a, b, c = a / z, b / z, c / z
    # v1 = (10, 0); v2 = (0, 10); v3 = (20, 10)
    return [a, b, c, 10 * a + 20 * c, 10 * b + 10 * c]
