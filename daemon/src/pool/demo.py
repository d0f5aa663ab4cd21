"""A first session with the pool: estimate pi on one engine, then on all of them."""

import sys
import time

import ipyparallel as ipp

SAMPLES_PER_SHARE = 400_000
SHARES_PER_ENGINE = 4


def hits(samples, seed):
    """How many of `samples` random points fall into the quarter circle."""
    import random

    point = random.Random(seed).random
    return sum(point() ** 2 + point() ** 2 < 1.0 for _ in range(samples))


def estimate(view, shares):
    started = time.perf_counter()
    counts = view.map_sync(hits, [SAMPLES_PER_SHARE] * shares, range(shares))
    elapsed = time.perf_counter() - started
    return 4 * sum(counts) / (SAMPLES_PER_SHARE * shares), elapsed


def line(label, pi, shares, elapsed):
    samples = SAMPLES_PER_SHARE * shares / 1e6
    print(f"  {label:<12} pi = {pi:.5f}   {samples:6.1f} million points   {elapsed:6.2f} s")


client = ipp.Client(sys.argv[1])
count = len(client)
shares = SHARES_PER_ENGINE * count

# A first call makes each engine load what it needs; it is not part of the comparison.
client[:].apply_sync(hits, 1000, 0)

print(f"Estimating pi by throwing points at a circle, {count} engine{'s' * (count != 1)}:")
one = client.load_balanced_view(targets=client.ids[:1])
pi, time_of_one = estimate(one, shares)
line("one engine", pi, shares, time_of_one)
if count > 1:
    pi, time_of_all = estimate(client.load_balanced_view(), shares)
    line("all engines", pi, shares, time_of_all)
    print(f"  {time_of_one / time_of_all:.1f} times as fast on {count} engines")
client.close()
