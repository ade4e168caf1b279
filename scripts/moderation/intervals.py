"""Shares with their 95 % interval (Wilson), as the tables of coordinator/moderation/EVALUATION.md print them."""
import math


def interval(k, n):
    if n == 0:
        return (0.0, 1.0)
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n)))


def share(k, n):
    low, high = interval(k, n)
    return f"{100 * k / max(n, 1):.1f} % ({k} of {n}; {100 * low:.1f} to {100 * high:.1f})"
