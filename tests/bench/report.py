"""Turns what was measured into Markdown tables: every number by subject, and the summary for the README."""

import statistics

# Above this share of a core, the generator may have been the bottleneck, and the rate is a lower bound.
LOAD_BUSY = 0.9
TASK_TARGETS = {64: "≥ 30 ×", 1024: "≥ 100 ×"}


def number(value):
    """Three digits, and no more zeros than needed."""
    if isinstance(value, (bool, str)):
        return str(value).lower() if isinstance(value, bool) else value
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return (
        f"{value:.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.2g}"
    )


def middle(values):
    """The median, or what was said in place of a number."""
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return statistics.median(numbers) if numbers else values[0]


def cell(values):
    """Median and, over several rounds, the range."""
    if not values:
        return "–"
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    text = number(middle(values))
    if len(numbers) > 1 and min(numbers) != max(numbers):
        text += f" [{number(min(numbers))}–{number(max(numbers))}]"
    return text


def ratio(results, scenario, key, subject, against):
    """How many times `against` the subject is. None when either has no number."""
    try:
        ours = middle(results[scenario][subject][key])
        theirs = middle(results[scenario][against][key])
        return ours / theirs
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def everything(results, labels):
    """One table a scenario: every metric, every subject, and the ratios of one run."""
    parts = []
    for scenario, by_subject in results.items():
        subjects = [name for name in labels if name in by_subject]
        keys = list(dict.fromkeys(key for subject in subjects for key in by_subject[subject]))
        against = [
            (own, other) for other in ("stock", "raw") for own in ("ours", "ours-nodb") if {own, other} <= set(subjects)
        ]
        head = [
            scenario,
            *(labels[name] for name in subjects),
            *(f"{labels[own]} / {labels[other]}" for own, other in against),
        ]
        rows = []
        for key in keys:
            row = [key, *(cell(by_subject[name].get(key, [])) for name in subjects)]
            for own, other in against:
                times = ratio(results, scenario, key, own, other)
                row.append("" if times is None else f"{number(times)}")
            rows.append(row)
        parts.append(f"### {scenario}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def task_lines(results):
    """The summary's lines for the numbers of engines that were measured."""
    by_subject = results.get("tasks", {})
    counts = {
        int(key.split("/")[0]) for numbers in by_subject.values() for key in numbers if key.endswith("/window_per_s")
    }
    for key, text in (("burst_per_s", "all submitted at once"), ("window_per_s", "one per engine under way")):
        for n in sorted(counts):
            target = TASK_TARGETS.get(n, "nearly flat" if n > 1024 else "")
            yield f"load-balanced tasks/s, {n} engines, {text}", "tasks", f"{n}/{key}", "ours", "stock", target
    for n in sorted(counts):
        yield (
            f"CPU per task, hub and database included, {n} engines, ms",
            "tasks",
            f"{n}/cpu_ms",
            "ours",
            "stock",
            "≤ 1/30 ×",
        )


# Text, scenario, key, subject, compared with, target.
SUMMARY = [
    *(
        (f"mux round trips/s, engines: {n}, all recorded", "mux", f"{n}/per_s", "ours", "raw", "> 1 ×")
        for n in (1, 16, 256)
    ),
    *(
        (f"mux round trips/s, engines: {n}, no database", "mux", f"{n}/per_s", "ours-nodb", "raw", "≥ 1.5 ×")
        for n in (1, 16, 256)
    ),
    *(
        (f"CPU per 100,000 of them, engines: {n}, {text}, s", "mux", f"{n}/cpu_s_per_100k", subject, "raw", "")
        for subject, text in (("ours", "all recorded"), ("ours-nodb", "no database"))
        for n in (1, 16, 256)
    ),
    *(
        (f"{size} {text}, GB/s", "large", f"{size}/{way}_gb_per_s", "ours", "raw", "≥ 0.9 ×")
        for size in ("10MB", "100MB")
        for way, text in (("request", "to engines"), ("reply", "from engines"))
    ),
    ("controller memory (RSS), transfers of the stock client, MB", "python", "peak_rss_mb", "ours", "stock", "< 200"),
    ("the same 5 s later", "python", "after_rss_mb", "ours", "stock", "< 50"),
    ("controller memory (PSS), idle, MB", "start", "idle_pss_mb", "ours", "stock", "< 10"),
    ("controller memory (PSS), 1024 engines under load, MB", "tasks", "1024/window_pss_mb", "ours", "stock", "< 60"),
    ("the same, all tasks submitted at once, MB", "tasks", "1024/burst_pss_mb", "ours", "stock", ""),
    ("start to usable, s", "start", "usable_s", "ours", "stock", "< 0.05"),
    ("1024 engines at once, all in, s", "register", "1024/all_in_s", "ours", "stock", "< 2"),
    ("registration request → `client.ids`, fake engine, s", "register", "one_s", "ours", "stock", "≤ 0.5"),
    (
        "registration request → `client.ids`, stock engine, s",
        "python",
        "engine_request_to_ids_s",
        "ours",
        "stock",
        "≤ 0.5",
    ),
    ("killed engine → task failed, s", "failure", "killed/task_ended_s", "ours", "stock", "< 0.2"),
    ("killed engine → task done elsewhere, s", "failure", "killed_retry/task_ended_s", "ours", "stock", "< 0.2"),
    ("engine gone without a word → task failed, s", "failure", "unplugged/task_ended_s", "ours", "stock", "< 0.2"),
    ("frozen engine → unregistered, s", "failure", "frozen/unregistered_s", "ours", "stock", "< 3"),
    ("p99 round trip beside a stopped client, µs", "slow", "stopped_client/meanwhile_p99_us", "ours", "stock", ""),
    ("controller memory (RSS) then, MB", "slow", "stopped_client/peak_rss_mb", "ours", "stock", "bounded"),
    (
        "p99 round trip beside a stopped subscriber, µs",
        "slow",
        "stopped_subscriber/meanwhile_p99_us",
        "ours",
        "stock",
        "",
    ),
    ("controller memory (RSS) then, MB", "slow", "stopped_subscriber/peak_rss_mb", "ours", "stock", "bounded"),
    ("`apply_sync` of the stock client, ms", "python", "apply_one_ms", "ours", "stock", ""),
    ("100 MB pushed to all four engines, ms", "python", "100MB/push_all_ms", "ours", "stock", ""),
    ("100 MB broadcast to all four engines, ms", "python", "100MB/broadcast_push_ms", "ours", "stock", ""),
]


def summary(results, labels):
    """The table for the README: only what was measured."""
    rows = []
    for text, scenario, key, subject, against, target in [*task_lines(results), *SUMMARY]:
        by_subject = results.get(scenario, {})
        if not any(key in by_subject.get(name, {}) for name in (subject, against)):
            continue
        times = ratio(results, scenario, key, subject, against)
        own = cell(by_subject.get(subject, {}).get(key, []))
        busy = by_subject.get(subject, {}).get(f"{key.split('/')[0]}/load_busy", [0])
        # The generator had no CPU left: the controller may be faster than this.
        if key.endswith("per_s") and middle(busy) > LOAD_BUSY:
            own = f"≥ {own}"
        # Beside ours without a database, stock with one would mislead.
        others = [by_subject.get(name, {}) if subject == "ours" or name == "raw" else {} for name in ("stock", "raw")]
        row = [text, *(cell(other.get(key, [])) for other in others)]
        rows.append([*row, own, "" if times is None else f"{number(times)} × {labels[against]}", target])
    return table(["", labels["stock"], labels["raw"], labels["ours"], "ratio", "target"], rows)
