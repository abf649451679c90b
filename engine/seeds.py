"""Seeds from named axes: a seed is a function of what it is for, never of timing or of the method that asks.

    seed(run=0, step=3, problem="train-00007", request=1, sample=0)

Leaving the method out is deliberate: all methods then see the same problems in the same order with the same draws, and
differences between them are paired.
"""

import hashlib
import json
import random


def seed(**axes: int | str) -> int:
    """A 63-bit seed from named axes; the order in which they are written does not matter."""
    text = json.dumps(axes, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def problem_order(run: int, count: int, start: int, size: int, axis: str = "order") -> list[int]:
    """Positions `start` .. `start + size - 1` of an endless stream over `count` problems: each epoch is one permutation.
    Streams of another `axis` are others."""

    def permutation(epoch: int) -> list[int]:
        order = list(range(count))
        random.Random(seed(run=run, axis=axis, epoch=epoch)).shuffle(order)
        return order

    epochs = {epoch: permutation(epoch) for epoch in range(start // count, (start + size - 1) // count + 1)}
    return [epochs[position // count][position % count] for position in range(start, start + size)]
