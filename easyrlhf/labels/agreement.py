"""How far those who label agree: measures of tables of labels, all pure functions of numpy arrays."""

import numpy as np

from easyrlhf.errors import InputError


def krippendorff_alpha(counts: np.ndarray, values: np.ndarray, level: str) -> float | None:
    """Krippendorff's alpha (2011): 1 for perfect agreement, 0 for that of chance; None where nothing varies.

    counts  [N, V]  how many labels each of the items has of each value; items with fewer than two count for nothing
    values  [V]     what the values are, ascending
    level   "nominal", where values are equal or not, or "interval", where their squared difference counts
    Raises InputError where the library that computes it is not installed.
    """
    try:
        import krippendorff
    except ImportError as error:
        raise InputError(
            "Krippendorff's alpha needs a library that is not installed; pip install 'easyrlhf[label]'"
        ) from error
    pairable = counts[counts.sum(axis=1) >= 2]
    if (pairable.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=pairable, value_domain=values, level_of_measurement=level))
