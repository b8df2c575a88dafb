"""How far a response repeats itself: the one measure that the hook logs and the dynamics report shows."""

LENGTH = 4  # words of a run; two or three words recur in any prose
LAST = 128  # words that are looked at: a loop, once entered, lasts to the end, and each request pays for every word


def measure_repetition(response: str) -> float:
    """Share of the runs of four words that came before among the last 128 words; 0.0 for fewer than eight words.

    A loop of one sentence approaches 1.0, prose stays below about 0.1. Linear time.
    """
    words = response.rsplit(None, LAST)[-LAST:]
    if len(words) < 2 * LENGTH:
        return 0.0
    runs = len(words) - LENGTH + 1
    return 1.0 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / runs
