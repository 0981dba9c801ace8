"""Schedules: the learning rate as a function of the step."""

import math

# name -> the learning rate after the warm-up, while progress runs from 0 to 1
SCHEDULES = {
    "constant": lambda peak, low, progress: peak,
    "linear": lambda peak, low, progress: (1 - progress) * peak + progress * low,
    "cosine": lambda peak, low, progress: low + (peak - low) * (1 + math.cos(math.pi * progress)) / 2,
}


def learning_rate_at(step, *, schedule, peak, warmup_steps, total_steps, final_fraction):
    """The learning rate of a step, counted from 0: a straight line up to `peak`, then what the schedule says.

        step < warmup_steps     peak · (step + 1) / warmup_steps
        "constant"              peak
        "linear"                (1 - progress) · peak + progress · low
        "cosine"                low + (peak - low) · (1 + cos(π · progress)) / 2

    low = peak · final_fraction; progress runs from 0 in the first step after the warm-up to 1 in the last of
    `total_steps`, and stays there. Raises ValueError for a schedule of another name. Sources: Goyal et al. 2017
    (warm-up), Loshchilov & Hutter 2017 (cosine). Derived in chapter 12.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(map(repr, SCHEDULES))}, got {schedule!r}")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1), 1.0)
    return SCHEDULES[schedule](peak, peak * final_fraction, progress)
