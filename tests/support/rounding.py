"""How far two float32 results may lie apart that are equal but for the order in which their sums are taken."""

UNIT = 2.0**-24  # a float32 result is off by at most this share of itself
# Sums on the way from a weight of a test's student to its loss or score: four layers of width 32 with inner width 64
# and at most 128 positions (5 * 32 + 64 + 128 terms each), 400 logits, and the tokens of a batch, fewer than 400.
STUDENT_TERMS = 4 * (5 * 32 + 64 + 128) + 400 + 400


def rounding(terms: int) -> float:
    """Largest share by which two orders of summing `terms` numbers of one sign can differ.

    Each order is off by at most `terms` units (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 4.2).
    Numbers that pass through several sums count the terms of all of them. A token that is missing or counted twice
    changes a mean of 400 tokens by 1/400, ten times as much as rounding(STUDENT_TERMS) = 1/3800.
    """
    return 2 * terms * UNIT
