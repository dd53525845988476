"""How far a measured share can be trusted."""

import math

from qkv.errors import DataError


def wilson_interval(hits: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share that was measured in independent trials; 95 % unless told.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference". Unlike the
    share plus and minus its standard error it is right for few trials, and for shares near 0 or 1.

    Args:
        hits: trials that succeeded.
        trials: all of them.
        z: standard deviations of a normal distribution on either side.

    Raises:
        DataError: there are no trials, or hits that are none of them.
    """
    if not 0 <= hits <= trials or not trials:
        raise DataError(
            f"{hits} hits in {trials} trials; expected at least one trial, and 0 to as many hits"
        )
    share, spread = hits / trials, z * z / trials
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
