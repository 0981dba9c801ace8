"""One long array, shared among the cores piece by piece."""

from tinyllama.backends.threads import cores, run_in_threads

PIECE = 2**16           # elements: a whole number of cache lines, and of the blocks that the kernels sum


def run_over_slices(function, size):
    """Call function(start, stop) for pieces that make up range(size), in threads where there is work enough.

    Returns the results in the order of the pieces.
    """
    pieces = -(-size // PIECE)                                                  # rounded up
    each = -(-pieces // min(cores(), max(pieces, 1))) * PIECE
    bounds = [(start, min(start + each, size)) for start in range(0, size, each)] if size else []
    return run_in_threads([lambda start=start, stop=stop: function(start, stop) for start, stop in bounds])
