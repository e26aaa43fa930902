"""Recall against speed: the best of an engine's settings, and its speed at a recall that none of them has exactly."""
import math


def front(points):
    """(recall, speed) pairs that no other beats in both, by rising recall."""
    out = []
    for recall, speed in sorted(points, key=lambda p: (-p[0], -p[1])):
        if not out or speed > out[-1][1]:
            out.append((recall, speed))
    return out[::-1]


def at(points, recall):
    """Speed at a recall; between two settings the logarithm of the speed is taken to fall evenly. None: not reached.
    Below the least recall measured the speed of that setting: nothing faster was tried."""
    best = front(points)
    if not best or best[-1][0] < recall:
        return None
    above = next(i for i, p in enumerate(best) if p[0] >= recall)
    if above == 0:
        return best[0][1]
    (r0, s0), (r1, s1) = best[above - 1:above + 1]
    share = (recall - r0) / (r1 - r0)
    return math.exp(math.log(s0) * (1 - share) + math.log(s1) * share)
