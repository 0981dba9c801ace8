"""Schedules: the learning rate as a function of the step."""

import math


def warmup_cosine(step, *, peak, warmup_steps, total_steps, final_fraction=0.1):
    """The learning rate of a step, counted from 0: a straight line up to `peak`, then half a cosine down.

        step < warmup_steps     peak · (step + 1) / warmup_steps
        otherwise               low + (peak - low) · (1 + cos(π · progress)) / 2,   low = peak · final_fraction

    progress runs from 0 at the end of the warm-up to 1 at the last step. Sources: Goyal et al. 2017 (warm-up),
    Loshchilov & Hutter 2017 (cosine). Derived in chapter 12.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1), 1.0)
    low = peak * final_fraction
    return low + (peak - low) * (1 + math.cos(math.pi * progress)) / 2
