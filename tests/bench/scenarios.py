"""The scenarios: each starts a subject, loads it and returns flat numbers by name. Nothing here judges them."""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from processes import Peak
from subjects import LEAN_ENGINES_MAX, LoadError, environment, pool

ALL = ("stock", "ours", "raw")
CONTROLLERS = ("stock", "ours")
# Seconds after which a measurement ends with what there is.
LIMIT = 120


@dataclass(frozen=True)
class Settings:
    """How much of everything."""

    load: Path
    venv: Path
    task_engines: tuple
    mux_engines: tuple
    register_engines: int
    seconds: float
    large: tuple
    slow_mb: int
    wait: float
    settle: float

    @classmethod
    def full(cls, load, venv):
        large = ((10_000_000, 60), (100_000_000, 8))
        return cls(load, venv, (4, 64, 256, 1024, 4096), (1, 16, 256), 1024, 4, large, 256, 45, 60)

    @classmethod
    def quick(cls, load, venv):
        return cls(load, venv, (4, 64), (1, 16), 128, 1, ((10_000_000, 20),), 64, 10, 20)


def start(subject, settings):
    """Spawn to first answer, and what an idle controller takes."""
    with pool(subject, settings.load) as p:
        time.sleep(1)
        members = p.group.members()
        return {
            "usable_s": p.usable_s,
            "idle_rss_mb": p.group.rss(members),
            "idle_pss_mb": p.group.pss(members),
            "processes": len(members),
            "idle_cpu": p.group.idle_rate(),
        }


def register(subject, settings):
    """One engine, then many that all start at the same moment."""
    with pool(subject, settings.load) as p:
        one = p.load.do("engines", count=1)
        result = {"one_s": one["request_to_notified_s"]["max"]}
    with pool(subject, settings.load) as p:
        count = settings.register_engines
        answer = p.load.do("engines", limit=120, count=count)
        return result | {
            f"{count}/all_in_s": answer["notified_s"]["max"],
            f"{count}/reply_p50_s": answer["reply_s"]["p50"],
            f"{count}/replies_later_than_5_s": answer["replies_later_than_5_s"],
        }


def tasks(subject, settings):
    """Load-balanced tasks: one per engine under way, then all submitted at once."""
    result = {}
    for wanted in settings.task_engines:
        engines = min(wanted, LEAN_ENGINES_MAX)
        try:
            result |= tasks_at(subject, settings, engines)
        except LoadError as error:
            result[f"{engines}/error"] = str(error)
    return result


def tasks_at(subject, settings, engines):
    with pool(subject, settings.load) as p, Peak(p.group) as peak:
        began = time.monotonic()
        p.engines(engines)
        result = {f"{engines}/registration_s": time.monotonic() - began}
        p.load.do("tasks", window=min(engines, 64), count=256, seconds=1)
        p.group.settle(0, 5)
        idle = p.group.idle_rate()
        cpu, began = p.group.cpu(), time.monotonic()
        rate, done, busy, unfinished = repeat(p, settings.seconds, "tasks", window=engines)
        result[f"{engines}/window_per_s"] = rate
        if unfinished:
            return result | {f"{engines}/error": f"after {LIMIT} s {done} tasks were done and {unfinished} were not"}
        if not p.group.settle(idle, settings.settle):
            result[f"{engines}/behind"] = True
        cpu = p.group.cpu() - cpu - idle * (time.monotonic() - began)
        result |= {f"{engines}/window_rss_mb": peak.rss, f"{engines}/window_pss_mb": peak.pss}
        # As many as take some seconds: for a controller that slows down in long queues the fewer, the better.
        count = max(1000, min(100_000, int(rate * settings.seconds)))
        burst = p.load.do("tasks", limit=LIMIT, count=count)["outcome"]
        result |= {
            f"{engines}/burst_count": count,
            f"{engines}/burst_per_s": burst["done"] / burst["seconds"],
            f"{engines}/cpu_ms": 1000 * cpu / done,
            f"{engines}/load_busy": max(busy, burst["load_cpu"] / burst["seconds"]),
        }
    return result | {f"{engines}/burst_rss_mb": peak.rss, f"{engines}/burst_pss_mb": peak.pss}


def mux(subject, settings):
    """Small messages to one engine after the other and back."""
    result = {}
    for engines in settings.mux_engines:
        with pool(subject, settings.load) as p, Peak(p.group) as peak:
            p.engines(engines)
            p.load.do("mux", window=512, count=1000)
            p.group.settle(0, 5)
            idle = p.group.idle_rate()
            cpu, began = p.group.cpu(), time.monotonic()
            # A stock hub needs many times longer to digest what passes; more would only prolong that.
            limits = {"count": 20_000} if subject.stock else {}
            rate, done, busy, _ = repeat(p, settings.seconds, "mux", window=512, **limits)
            if not p.group.settle(idle, settings.settle):
                result[f"{engines}/behind"] = True
            cpu = p.group.cpu() - cpu - idle * (time.monotonic() - began)
            result |= {
                f"{engines}/per_s": rate,
                f"{engines}/cpu_s_per_100k": 1e5 * cpu / done,
                f"{engines}/load_busy": busy,
            }
        result[f"{engines}/peak_rss_mb"] = peak.rss
    return result


def repeat(p, seconds, what, **fields):
    """Runs a scenario, whose requests are built beforehand, until they have taken `seconds` in sum."""
    done = spent = busy = unfinished = 0
    while spent < seconds and not unfinished:
        outcome = p.load.do(what, seconds=seconds - spent, limit=LIMIT, **fields)["outcome"]
        done, spent, busy = done + outcome["done"], spent + outcome["seconds"], busy + outcome["load_cpu"]
        unfinished = outcome["unfinished"]
        if p.subject.stock:
            break
    return done / spent, done, busy / spent, unfinished


def large(subject, settings):
    """Payloads to four engines and from them."""
    result = {}
    with pool(subject, settings.load) as p:
        p.engines(4)
        for size, count in settings.large:
            name = f"{size // 1_000_000}MB"
            for way in ("request", "reply"):
                with Peak(p.group) as peak:
                    cpu = p.group.cpu()
                    fields = {f"{way}_bytes": size}
                    outcome = p.load.do("mux", window=4, count=count, seconds=30, **fields)["outcome"]
                gigabytes = outcome["done"] * size / 1e9
                result |= {
                    f"{name}/{way}_gb_per_s": gigabytes / outcome["seconds"],
                    f"{name}/{way}_cpu_s_per_gb": (p.group.cpu() - cpu) / gigabytes,
                    f"{name}/{way}_peak_rss_mb": peak.rss,
                }
        time.sleep(5)
        result["after_rss_mb"] = p.group.rss()
    return result


def latency(subject, settings):
    """Round trips one at a time, nothing else going on."""
    result = {}
    with pool(subject, settings.load) as p:
        p.engines(4)
        p.group.settle(0, 5)
        for channel in ("mux",) if subject.raw else ("mux", "task"):
            times = p.load.do("latency", channel=channel, seconds=settings.seconds)
            result |= {f"{channel}/{at}_us": 1e6 * times[at] for at in ("p50", "p90", "p99")}
    return result


def slow(subject, settings):
    """A client, then an iopub subscriber, that stops reading: what others and the controller's memory notice."""
    result = {}
    for what in ("stopped_client",) if subject.raw else ("stopped_client", "stopped_subscriber"):
        with pool(subject, settings.load) as p:
            p.engines(4)
            with Peak(p.group) as peak:
                answer = p.load.do(what, megabytes=settings.slow_mb, limit=60)
            time.sleep(3)
            result |= {
                f"{what}/before_p99_us": 1e6 * answer["before_s"]["p99"],
                f"{what}/meanwhile_p99_us": 1e6 * answer["meanwhile_s"]["p99"],
                f"{what}/meanwhile_max_us": 1e6 * answer["meanwhile_s"]["max"],
                f"{what}/peak_rss_mb": peak.rss,
                f"{what}/after_rss_mb": p.group.rss(),
                f"{what}/dropped": answer["dropped"],
            }
            if what == "stopped_subscriber":
                result[f"{what}/lost_by_the_other"] = answer["printed"] - answer["received_by_the_other"]
    return result


def failure(subject, settings):
    """Engines that die, with and without a nanny to tell, and one that freezes."""
    result = {}
    with pool(subject, settings.load) as p:
        p.engines(8)
        for name, fields in (
            ("killed", {"nanny": True}),
            ("killed_retry", {"nanny": True, "retries": 1}),
            ("unplugged", {}),
        ):
            answer = p.load.do("kill", limit=settings.wait, **fields)
            ended = answer["task_ended_s"]
            result[f"{name}/task_ended_s"] = ended if ended is not None else f"> {settings.wait:.0f} s"
        answer = p.load.do("freeze", limit=settings.wait)
        gone = answer["unregistered_s"]
        result["frozen/unregistered_s"] = gone if gone is not None else f"> {settings.wait:.0f} s"
    return result


def python(subject, settings):
    """The stock client and four stock engines."""
    script = Path(__file__).with_name("real_pool.py")
    result = {}
    with pool(subject, settings.load) as p, Peak(p.group) as peak:
        command = [str(settings.venv / "bin" / "python"), str(script), str(p.directory)]
        sizes = [str(size) for size, _ in settings.large]
        with (p.directory / "real_pool.out").open("w+") as errors:
            process = subprocess.Popen(
                [*command, *sizes],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(p.directory),
            )
            try:
                out, _ = process.communicate(timeout=300)
            except subprocess.TimeoutExpired:
                raise LoadError("the stock client did not finish within 300 s") from None
            finally:
                # It stops its engines on SIGTERM.
                process.terminate()
                process.wait(30)
            errors.seek(0)
            if process.returncode != 0:
                last = errors.read().strip().splitlines()[-1:]
                raise LoadError(f"the stock client failed: {last}")
        result = json.loads(out)
        time.sleep(5)
        result["after_rss_mb"] = p.group.rss()
    return result | {"peak_rss_mb": peak.rss}


# name: (function, subjects, most rounds that make sense)
SCENARIOS = {
    "start": (start, ("stock", "ours"), 9),
    "register": (register, CONTROLLERS, 9),
    "tasks": (tasks, CONTROLLERS, 9),
    "mux": (mux, ("raw", "stock", "ours", "ours-nodb"), 9),
    "large": (large, ALL, 9),
    "latency": (latency, ALL, 9),
    "slow": (slow, ALL, 9),
    # A stock controller takes 35 s twice, and the same 35 s every time.
    "failure": (failure, CONTROLLERS, 1),
    "python": (python, CONTROLLERS, 9),
}
