"""A first session with the pool: estimate pi on one engine, then on all of them."""

import sys
import time

import ipyparallel as ipp

SHARES_PER_ENGINE = 6
# About as long as one engine shall take for all of it: long enough to compare, short enough to wait.
SECONDS_OF_ONE_ENGINE = 4.0


def hits(samples, seed):
    """How many of `samples` random points fall into the quarter circle."""
    import random

    point = random.Random(seed).random
    return sum(point() ** 2 + point() ** 2 < 1.0 for _ in range(samples))


def rate(view):
    """Points per second, of the slowest engine. The first call lets engines load what they need."""
    view.apply_sync(hits, 1_000, 0)
    samples = 50_000
    started = time.perf_counter()
    view.apply_sync(hits, samples, 0)
    return samples / (time.perf_counter() - started)


def estimate(label, view, samples, shares):
    """Prints one line of the comparison; returns the seconds it took."""
    started = time.perf_counter()
    counts = view.map_sync(hits, [samples] * shares, range(shares))
    elapsed = time.perf_counter() - started
    total = samples * shares
    print(
        f"  {label:<12} pi = {4 * sum(counts) / total:.5f}"
        f"   {total / 1e6:6.1f} million points   {elapsed:6.2f} s",
        flush=True,
    )
    return elapsed


client = ipp.Client(sys.argv[1])
count = len(client)
shares = SHARES_PER_ENGINE * count
samples = int(rate(client[:]) * SECONDS_OF_ONE_ENGINE / shares)

print(f"Estimating pi by throwing points at a circle, {count} engine{'s' * (count != 1)}:", flush=True)
one = client.load_balanced_view(targets=client.ids[:1])
time_of_one = estimate("one engine", one, samples, shares)
if count > 1:
    time_of_all = estimate("all engines", client.load_balanced_view(), samples, shares)
    print(f"  {time_of_one / time_of_all:.1f} times as fast on {count} engines")
client.close()
