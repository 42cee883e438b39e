"""The time that a run still needs, from a clock that the tests set."""

import pytest

from nuvlm.workflow.progress import Progress, clock_time

LINKS = [("simulate", "train"), ("train", "classify"), ("classify", "all")]
EXPECTED = {"simulate": 10.0, "train": 100.0, "classify": 5.0, "all": 0.0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    progress = Progress({"simulate": 4, "train": 1, "classify": 2, "all": 1}, 2, LINKS, clock)
    progress.expected = dict(EXPECTED)
    return progress


def run(progress: Progress, clock: Clock, job: int, rule: str, seconds: float) -> str | None:
    progress.start(job, rule)
    clock.now += seconds
    return progress.finish(job)


def test_nothing_is_claimed_before_a_job_has_ended(progress: Progress, clock: Clock):
    assert progress.seconds_left() is None
    progress.start(1, "simulate")
    clock.now = 100
    assert progress.seconds_left() is None
    assert "left" not in progress.status()


def test_other_jobs_scale_with_those_that_were_measured(progress: Progress, clock: Clock):
    assert run(progress, clock, 1, "simulate", 20) is None
    # Twice as slow as expected: the chain is one simulation, training and one classification.
    assert progress.seconds_left() == pytest.approx(20 + 200 + 10)
    for job in (2, 3):
        run(progress, clock, job, "simulate", 20)
    assert run(progress, clock, 4, "simulate", 20) == "simulate"
    assert progress.seconds_left() == pytest.approx(200 + 10)
    progress.start(5, "train")
    clock.now += 150
    assert progress.seconds_left() == pytest.approx(50 + 10)
    clock.now += 150
    assert progress.seconds_left() == pytest.approx(30 + 10), "overdue: a tenth of its time more"
    assert progress.finish(5) == "train"
    run(progress, clock, 6, "classify", 8)
    assert progress.seconds_left() == pytest.approx(8)
    run(progress, clock, 7, "classify", 8)
    assert progress.seconds_left() == 0
    assert progress.stage("classify") == "[ 6:36] classify               2 of 2"


def test_all_work_is_shared_by_the_cores(clock: Clock):
    for cores, left in ((1, 900.0), (3, 300.0), (None, 100.0)):
        clock.now = 0
        progress = Progress({"simulate": 10}, cores, [], clock)
        run(progress, clock, 0, "simulate", 100)
        assert progress.seconds_left() == pytest.approx(left)


def test_what_nobody_has_measured_has_no_time_left(progress: Progress, clock: Clock):
    del progress.expected["train"]
    for job in range(4):
        run(progress, clock, job, "simulate", 10)
    assert progress.seconds_left() is None
    run(progress, clock, 5, "train", 90)
    assert progress.seconds_left() == pytest.approx(5)


def test_a_small_share_of_the_work_says_nothing(clock: Clock):
    progress = Progress({"simulate": 1000}, 1, [], clock)
    run(progress, clock, 0, "simulate", 10)
    assert progress.seconds_left() is None
    for job in range(1, 50):
        run(progress, clock, job, "simulate", 10)
    assert progress.seconds_left() == pytest.approx(9500)
    assert progress.stage("simulate").endswith("about 3 h left")


def test_the_status_names_what_runs(progress: Progress, clock: Clock):
    run(progress, clock, 1, "simulate", 20)
    progress.start(2, "simulate")
    progress.start(3, "train")
    assert progress.status() == "[ 0:20] 1 of 8 jobs, about 4 min left; running: simulate 1 of 4, train"
    progress.fail(3)
    assert progress.failed == {"train": 1}
    assert "train" not in progress.status()


def test_times_are_those_of_a_clock():
    assert [clock_time(seconds) for seconds in (0, 59.9, 192, 3792)] == ["0:00", "0:59", "3:12", "1:03:12"]
