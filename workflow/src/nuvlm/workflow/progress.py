"""Progress of a run and the time that it still needs, from the start and end of its jobs.

Only what was measured is extrapolated: the time left is unknown until the run has shown how fast this machine is.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

SETTLED = 0.05
"""Share of the work after which the time left is given."""

OVERDUE = 0.1
"""A job that runs longer than expected goes on for this share of the time that it has taken."""


@dataclass(frozen=True)
class Running:
    """A job that has started."""

    rule: str
    start: float
    """Seconds on the clock of :class:`Progress`."""


class Progress:
    """Jobs of a run by rule.

    Args:
        jobs: rule -> number of jobs that will run.
        cores: jobs of one thread that can run at the same time; None for no limit.
        links: (rule, rule that needs its output).
        clock: seconds from any origin.
    """

    def __init__(
        self,
        jobs: Mapping[str, int],
        cores: int | None = None,
        links: Iterable[tuple[str, str]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs = dict(jobs)
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.running: dict[int, Running] = {}
        """Job number -> job."""
        self.expected: dict[str, float] = {}
        """Rule -> seconds of one of its jobs, as measured elsewhere; 0 for rules that only collect files."""
        self._cores = cores
        self._needed_by: dict[str, list[str]] = {}
        for rule, needs in links:
            self._needed_by.setdefault(rule, []).append(needs)
        self._seconds: dict[str, list[float]] = {}
        self._clock = clock
        self._begin = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._begin

    def start(self, job: int, rule: str) -> None:
        self.running[job] = Running(rule, self._clock())

    def finish(self, job: int) -> str | None:
        """Count a finished job; returns its rule if it was the last one of it."""
        found = self.running.pop(job, None)
        if found is None:
            return None
        self.done[found.rule] += 1
        self._seconds.setdefault(found.rule, []).append(self._clock() - found.start)
        return found.rule if self.done[found.rule] == self.jobs.get(found.rule) else None

    def fail(self, job: int) -> None:
        found = self.running.pop(job, None)
        if found is not None:
            self.failed[found.rule] += 1

    def seconds_left(self) -> float | None:
        """Seconds until the end, or None where too little is known.

        The larger of two lower bounds: all work over all cores, and the longest chain of jobs that need each other.
        A job takes the mean of the finished ones of its rule; before there is one, what `expected` says, times how
        slow the measured jobs were in comparison. A job that takes longer is expected to go on for a tenth of its time.
        """
        one = self._seconds_of_one()
        if one is None:
            return None
        now = self._clock()
        work: dict[str, float] = {}
        first: dict[str, float] = {}
        for rule, number in self.jobs.items():
            ages = [now - job.start for job in self.running.values() if job.rule == rule]
            rests = [max(one[rule] - age, OVERDUE * age) if one[rule] else 0.0 for age in ages]
            waiting = max(number - self.done[rule] - len(rests), 0)
            work[rule] = waiting * one[rule] + sum(rests)
            first[rule] = one[rule] if waiting else max(rests, default=0.0)
        spent = sum(map(sum, self._seconds.values())) + sum(now - job.start for job in self.running.values())
        total = spent + sum(work.values())
        if spent < SETTLED * total:
            return None
        chain = max((self._chain(rule, first) for rule in self.jobs), default=0.0)
        return max(chain, sum(work.values()) / self._cores if self._cores else 0.0)

    def _chain(self, rule: str, seconds: Mapping[str, float]) -> float:
        following = (self._chain(needs, seconds) for needs in self._needed_by.get(rule, []))
        return seconds.get(rule, 0.0) + max(following, default=0.0)

    def _seconds_of_one(self) -> dict[str, float] | None:
        """Rule -> seconds of one job, or None where that of a job still to run is not known."""
        mean = {rule: sum(all_) / len(all_) for rule, all_ in self._seconds.items()}
        known = [rule for rule in mean if self.expected.get(rule)]
        expected = sum(self.expected[rule] * len(self._seconds[rule]) for rule in known)
        slowness = sum(sum(self._seconds[rule]) for rule in known) / expected if expected else None
        one = {}
        for rule in self.jobs:
            if rule in mean:
                one[rule] = mean[rule]
            elif self.expected.get(rule) == 0:
                one[rule] = 0.0
            elif rule in self.expected and slowness is not None:
                one[rule] = self.expected[rule] * slowness
            else:
                return None
        return one

    def stage(self, rule: str) -> str:
        """``[ 3:12] simulate_events 7 of 10``, and the time left where it is known."""
        return f"{self._time()} {rule:<22} {self.done[rule]} of {self.jobs[rule]}{self._left()}"

    def status(self) -> str:
        """All that is running now, with the time left where it is known."""
        rules = dict.fromkeys(job.rule for job in self.running.values() if self.expected.get(job.rule) != 0)
        counts = {rule: f" {self.done[rule]} of {self.jobs[rule]}" if self.jobs[rule] > 1 else "" for rule in rules}
        running = ", ".join(rule + count for rule, count in counts.items())
        total = sum(self.jobs.values())
        text = f"{self._time()} {self.done.total()} of {total} jobs{self._left()}"
        return f"{text}; running: {running}" if running else text

    def _time(self) -> str:
        return f"[{clock_time(self.elapsed):>5}]"

    def _left(self) -> str:
        left = self.seconds_left()
        if not left:
            return ""
        if left < 60:
            return ", less than a minute left"
        minutes = round(left / 60)
        return f", about {minutes} min left" if minutes < 120 else f", about {round(minutes / 60)} h left"


def clock_time(seconds: float) -> str:
    """``3:12``, or ``1:03:12`` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
