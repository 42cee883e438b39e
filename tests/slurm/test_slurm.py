"""The whole workflow on a real Slurm, and faults of clusters: each run ends with the results of an undisturbed one.

Tests are in an order in which waits overlap: what Slurm counts in minutes is started first and looked at later.

Needs root and Slurm's programs (``make slurm-test``), so plain pytest leaves it out.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cluster import PROGRAMS, Cluster, processes_of, wait_for

from paths import REPOSITORY, copy_workflow

pytestmark = pytest.mark.slurm
OVERLAYS = [str(REPOSITORY / path) for path in (".test/config/config.yaml", "tests/slurm/four_gpus.yaml")]
SNAKEMAKE = Path(__file__).with_name("snakemake_polling.py")
RESULTS = Path("results") / "tiny"
TIMED = {"training.json", "pretraining.json", "manifest.json", "report.json", "index.html", "tables.tex"}
"""Files of models and the report that hold seconds, or the checksum of one that does."""
COLLEAGUE = 65534
"""User id of somebody else in the group: nobody."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts Slurm's daemons and makes device files")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: make slurm-test installs them")
    # Not below pytest's folders, which are closed to the colleague.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        Path(folder).chmod(0o755)
        with Cluster(Path(folder)) as running:
            yield running


class Run:
    """Snakemake with the Slurm profile, in a folder with a copy of the workflow."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.process: subprocess.Popen | None = None

    def start(self, *arguments: str, user: int | None = None) -> None:
        """Start Snakemake with a umask that lets the group in; what it says goes to snakemake.out."""
        # Ctrl-C must reach it also where this process ignores it, as background jobs of shells do.
        command = ["env", "--default-signal=INT", sys.executable, str(SNAKEMAKE), "--profile", "profiles/slurm"]
        command += ["--slurm-init-seconds-before-status-checks", "1", *arguments]
        command += ["--configfile", "config/config.yaml", *OVERLAYS]
        environment = self.cluster.environment | ({} if user is None else {"HOME": str(self.folder / "home")})
        with (self.folder / "snakemake.out").open("a") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=out, stderr=out, start_new_session=True,
                umask=0o002, user=user, extra_groups=None if user is None else [],
            )  # fmt: skip

    def finish(self, seconds: float = 900) -> int:
        """Wait for Snakemake's end and return its exit status."""
        return self.process.wait(seconds)

    def run(self, *arguments: str) -> None:
        self.start(*arguments)
        assert self.finish(1800) == 0, self.output()

    def output(self) -> str:
        return (self.folder / "snakemake.out").read_text()

    def jobs(self, rule: str = "") -> list[dict[str, str]]:
        """The jobs of a rule that were submitted from this folder."""
        jobs = [job for job in self.cluster.jobs() if job["WorkDir"] == str(self.folder)]
        return [job for job in jobs if job["Comment"].startswith(f"rule_{rule}")]

    def states(self, rule: str = "") -> list[str]:
        return [job["JobState"] for job in self.jobs(rule)]

    def hold(self, rule: str, command: str = "", processes: int = 1) -> tuple[dict[str, str], list[int]]:
        """Stop the newest job of a rule at its work, as if it hung on a stuck file system.

        Args:
            rule: whose job.
            command: what the command lines of the processes to stop hold; the rule's script if empty.
            processes: how many there are.

        Returns:
            The job, and the ids of its stopped processes.
        """
        held: list[int] = []
        # Families of models share their scripts.
        kind = rule.partition("_")[0]
        script = kind if kind in ("train", "classify", "explain") else rule

        def found() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            running = [job for job in self.jobs(rule) if job["JobState"] == "RUNNING"]
            for pid in processes_of(running[-1]["JobId"]) if running else ():
                line = _command_line(pid)
                if pid not in held and line.startswith(sys.executable) and (command or f".{script}.py") in line:
                    os.kill(pid, signal.SIGSTOP)
                    held.append(pid)
            return len(held) == processes

        wait_for(found, 400, f"{processes} processes of {rule}")
        return self.jobs(rule)[-1], held

    def wait_for_checkpoint(self, step: int) -> None:
        whole = self.folder / RESULTS / f"checkpoints/vlm/checkpoint-{step}/fingerprint.json"
        wait_for(whole.exists, 400, str(whole))

    def remove(self, *outputs: str) -> None:
        """Remove outputs, files or folders."""
        for output in outputs:
            path = self.folder / RESULTS / output
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def set_site(self, **values: str) -> None:
        """Fill in the site's block of the profile."""
        profile = self.folder / "profiles" / "slurm" / "config.yaml"
        text = profile.read_text()
        for name, value in values.items():
            text, found = re.subn(rf"(?m)^(  {name}: +)\S+", rf"\g<1>{value}", text)
            assert found == 1, name
        profile.write_text(text)

    def contents(self) -> dict[str, object]:
        """Every file of the run with its content; of those that hold seconds, what else is in them."""
        root = self.folder / RESULTS
        found: dict[str, object] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_file() and not name.startswith(("logs/", "benchmarks/", "tensorboard/")):
                found[name] = _content(path)
        return found


def _content(path: Path) -> object:
    if path.suffix == ".parquet" and {"predictions", "explanations"} & {*path.parts}:
        return pd.read_parquet(path).drop(columns="seconds").to_csv()
    timed = path.name in TIMED and not path.parent.name.endswith(".zarr")
    return None if timed or (path.suffix == ".json" and "predictions" in path.parts) else path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory) -> Run:
    """A finished run without faults."""
    run = Run(cluster, copy_workflow(tmp_path_factory.mktemp("undisturbed")))
    run.run()
    return run


@pytest.fixture(scope="module")
def fork(undisturbed, tmp_path_factory) -> Iterator[Callable[[], Run]]:
    """Make a copy of the finished run in another folder."""
    copies: list[Run] = []

    def make() -> Run:
        folder = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(undisturbed.folder, folder)
        (folder / "snakemake.out").unlink()
        copies.append(Run(undisturbed.cluster, folder))
        return copies[-1]

    yield make
    for copy in copies:
        if copy.process is not None and copy.process.poll() is None:
            copy.process.kill()
            copy.process.wait()
        for job in copy.jobs():
            if job["JobState"] in ("RUNNING", "PENDING"):
                copy.cluster.command("scancel", job["JobId"])


@pytest.fixture
def run(fork) -> Run:
    return fork()


def assert_as_undisturbed(run: Run, undisturbed: Run) -> None:
    found, expected = run.contents(), undisturbed.contents()
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]]


def resources(job: dict[str, str]) -> tuple[str, str]:
    """Memory and time limit of a job."""
    return re.search(r"mem=(\w+)", job["TRES"])[1], job["TimeLimit"]


def test_every_job_ran_once_where_it_should(undisturbed):
    jobs = undisturbed.jobs()
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert len({job["Comment"] for job in jobs}) == len(jobs)
    nodes = {job["Comment"]: job["NodeList"] for job in jobs}
    gpus = {comment for comment, node in nodes.items() if node == "gpu01"}
    assert {re.match(r"rule_([a-z]+_[a-z]+)", comment)[1] for comment in gpus} == {
        *("train_cnn", "classify_cnn", "explain_cnn"),
        *("train_vit", "classify_vit", "explain_vit"),
        *("finetune_vlm", "classify_vlm", "explain_vlm"),
    }
    (training,) = undisturbed.jobs("finetune_vlm")
    assert training["TresPerJob"] == "gres:gpu:4"
    assert (training["NumNodes"], training["CPUs/Task"], training["TimeLimit"]) == ("1", "32", "1-00:00:00")
    assert "mem=144000M" in training["TRES"]


def test_the_fine_tuning_runs_four_processes(undisturbed):
    summary = json.loads((undisturbed.folder / RESULTS / "models/vlm/training.json").read_text())
    assert summary["processes"] == 4
    assert summary["strategy"] == "ddp"
    log = (undisturbed.folder / RESULTS / "logs/finetune_vlm/vlm.log").read_text()
    assert set(re.findall(r"\[rank (\d)\] nuvlm\.models\.vlm\.model: loaded", log)) == set("0123")


@pytest.mark.parametrize("rule", ["simulate_events", "smear_and_downsample", "classify_cnn", "classify_vlm"])
def test_jobs_of_a_stage_run_side_by_side(undisturbed, rule):
    jobs = undisturbed.jobs(rule)
    assert max(job["StartTime"] for job in jobs[:2]) < min(job["EndTime"] for job in jobs[:2])


@pytest.fixture(scope="module")
def limited(fork) -> tuple[Run, Run, str]:
    """Two runs whose jobs are about to reach their time limits, and the id of the second one's job.

    The limits are shortened while the jobs run, as Slurm counts in minutes.
    """
    listing = fork()
    listing.remove("events.parquet")
    listing.start(str(RESULTS / "events.parquet"))
    job, _ = listing.hold("list_events")
    listing.cluster.command("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=1")

    training = fork()
    training.set_site(gpus="gres", gpu_model="a100")
    training.remove("models/vlm")
    training.start(str(RESULTS / "models/vlm/training.json"))
    training.wait_for_checkpoint(3)
    # held until Slurm, which looks every 30 s, sends SIGTERM, and SIGCONT with it
    job, _ = training.hold("finetune_vlm", "nuvlm.models.vlm.training", 4)
    assert job["TresPerNode"] == "gres:gpu:a100:4"
    training.cluster.command("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=5")
    return listing, training, job["JobId"]


def test_a_cancelled_job_is_tried_again(limited, run, undisturbed):
    """With more of everything, but for a training, which resumes: twice 12 hours would be beyond the partition."""
    run.set_site(gpu_model="a100")
    run.remove("predictions/vlm/nominal/0.parquet", "models/cnn_tuned")
    targets = ("predictions/vlm/nominal/0.parquet", "models/cnn_tuned/training.json")
    run.start(*(str(RESULTS / target) for target in targets))
    for rule in ("classify_vlm", "train_cnn"):
        job, _ = run.hold(rule)
        assert job["TresPerJob"] == "gres:gpu:a100:1"
        run.cluster.command("scancel", job["JobId"])
    assert run.finish() == 0, run.output()
    assert run.states("classify_vlm") == run.states("train_cnn") == ["CANCELLED", "COMPLETED"]
    assert [resources(job) for job in run.jobs("classify_vlm")] == [("40000M", "08:00:00"), ("80000M", "16:00:00")]
    assert [resources(job) for job in run.jobs("train_cnn")] == 2 * [("12000M", "12:00:00")]
    assert_as_undisturbed(run, undisturbed)


def test_what_changes_during_a_run_waits_for_the_next_start(cluster, undisturbed, tmp_path):
    """Settings that are edited, and a file that arrives that a pattern matches."""
    run = Run(cluster, copy_workflow(tmp_path / "run"))
    data = run.folder / "data"
    data.mkdir()
    for shard, name in enumerate("ab"):
        shutil.copy(undisturbed.folder / RESULTS / f"voxels/sim0000{shard}.h5", data / f"{name}.h5")
    settings = run.folder / "config" / "config.yaml"
    original = settings.read_text()
    arguments = [str(RESULTS / "events.parquet"), "--config", "input={source: voxels, files: ['data/*.h5']}"]
    run.start(*arguments)
    _, held = run.hold("smear_and_downsample")
    shutil.copy(data / "a.h5", data / "c.h5")
    edited = yaml.safe_load(original)
    edited["pixelmap"]["centre"] = "centroid"
    settings.write_text(yaml.safe_dump(edited))
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    assert run.finish() == 0, run.output()
    assert {*pd.read_parquet(run.folder / RESULTS / "events.parquet")["shard"]} == {"a", "b"}
    attributes = json.loads((run.folder / RESULTS / "pixelmaps/a.zarr/zarr.json").read_text())["attributes"]
    assert attributes["centre"] == yaml.safe_load(original)["pixelmap"]["centre"]
    run.start("--dry-run", *arguments)
    assert run.finish() == 0
    again = run.output().rpartition("Job stats:")[2]
    assert [int(re.search(rf"{rule} +(\d)", again)[1]) for rule in ("smear_and_downsample", "crop_displays")] == [1, 3]
    # As it was planned, all is there.
    settings.write_text(original)
    (data / "c.h5").unlink()
    run.start("--dry-run", *arguments)
    assert run.finish() == 0
    assert "Nothing to be done" in run.output()


def test_a_group_of_jobs_asks_for_one_node(run, undisturbed):
    run.remove("displays", "pixelmaps")
    targets = [str(RESULTS / f"pixelmaps/sim0000{shard}.zarr/manifest.json") for shard in "01"]
    groups = ["smear_and_downsample=both", "crop_displays=both"]
    run.run(*targets, "--groups", *groups, "--group-components", "both=2")
    (job,) = [job for job in run.cluster.jobs() if job["WorkDir"] == str(run.folder)]
    assert (job["NumNodes"], job["JobState"]) == ("1", "COMPLETED")
    found, expected = run.contents(), undisturbed.contents()
    # The list of pixel-map stores goes with them, and nothing that was asked for needs it.
    assert expected.pop("pixelmaps.json")
    assert found == expected


def test_a_colleague_reads_the_models_and_continues_the_run(undisturbed):
    """Another user of the same group, with the umask of shared folders."""
    with tempfile.TemporaryDirectory(prefix="shared") as shared:
        folder = Path(shared) / "run"
        Path(shared).chmod(0o775)
        shutil.copytree(undisturbed.folder, folder)
        (folder / "snakemake.out").unlink()
        (folder / "home").mkdir()
        (folder / "home").chmod(0o775)
        run = Run(undisturbed.cluster, folder)
        somebody = {"user": COLLEAGUE, "extra_groups": []}
        find = ["find", ".", "!", "-readable", "-o", "-type", "d", "!", "-writable"]
        closed = subprocess.run(find, cwd=folder / RESULTS, capture_output=True, text=True, check=True, **somebody)
        assert closed.stdout + closed.stderr == ""
        try:
            subprocess.run([sys.executable, "-c", ""], check=True, **somebody)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("all can be read and written; to continue the run, others would need this Python")
        run.remove("predictions/cnn_tuned/nominal/0.parquet")
        run.start(str(RESULTS / "predictions/cnn_tuned/nominal/0.parquet"), user=COLLEAGUE)
        assert run.finish() == 0, run.output()
        assert "nobody" in run.jobs("classify_cnn")[-1]["UserId"]
        assert_as_undisturbed(run, undisturbed)


def test_a_job_over_its_memory_is_given_more(run, undisturbed):
    """Slurm samples the memory once a second; torch needs twice the limit for several seconds."""
    run.remove("predictions/cnn_tuned/nominal/1.parquet")
    # these replace the profile's set-resources as a whole
    run.run(
        str(RESULTS / "predictions/cnn_tuned/nominal/1.parquet"),
        "--set-resources", "classify_cnn:mem_mb=400 * attempt", "classify_cnn:slurm_partition='gpu'",
    )  # fmt: skip
    *failed, last = run.jobs("classify_cnn")
    assert failed
    assert {job["JobState"] for job in failed} == {"FAILED"}
    assert "mem=400M" in failed[0]["TRES"]
    assert last["JobState"] == "COMPLETED"
    assert f"mem={400 * (len(failed) + 1)}M" in last["TRES"]
    assert_as_undisturbed(run, undisturbed)


def test_an_interrupted_snakemake_takes_its_jobs_along(run, undisturbed):
    run.remove("displays", "pixelmaps")
    run.start("pixelmaps")
    run.hold("smear_and_downsample")
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    assert run.finish() != 0
    wait_for(lambda: not {"RUNNING", "COMPLETING"} & {*run.states()}, 120, "the jobs' end")
    assert "CANCELLED" in run.states("smear_and_downsample")
    run.run("pixelmaps")
    assert_as_undisturbed(run, undisturbed)


def test_a_killed_snakemake_leaves_a_job_that_harms_nobody(run, undisturbed):
    """The job continues while a second Snakemake, after --unlock, starts the same training."""
    run.set_site(gpus="none")
    run.remove("models/vlm")
    # Two of 144 GB do not fit the node. This replaces the profile's set-resources as a whole.
    small = [f"finetune_vlm:{resource}" for resource in ("mem_mb=60000", "gpu=0", "slurm_partition='cpu'")]
    target = [str(RESULTS / "models/vlm/training.json"), "--set-resources", *small]
    run.start(*target)
    run.wait_for_checkpoint(1)
    _, ranks = run.hold("finetune_vlm", "nuvlm.models.vlm.training", 4)
    assert run.process is not None
    run.process.kill()
    run.finish()
    run.start(*target)
    assert run.finish() != 0
    assert "--unlock" in run.output()
    run.run("--unlock")
    run.start(*target)
    wait_for(lambda: len(run.jobs("finetune_vlm")) == 2, 200, "a second job")
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    assert run.finish() == 0, run.output()
    wait_for(lambda: "RUNNING" not in run.states(), 120, "the orphan's end")
    orphan, *others = run.jobs("finetune_vlm")
    assert orphan["EndTime"] > others[0]["StartTime"]
    assert_as_undisturbed(run, undisturbed)
    # Without it, the newer times of identical files would rerun what follows from them.
    run.run("--touch")
    run.start("--dry-run")
    assert run.finish() == 0
    assert "Nothing to be done" in run.output()


def test_jobs_that_reach_their_time_limit(limited, undisturbed):
    """A hanging job is killed; a training gets SIGTERM before its limit and resumes from its checkpoint."""
    listing, training, job = limited
    assert training.finish() == 0, training.output()
    assert training.states("finetune_vlm") == ["FAILED", "COMPLETED"]
    log = training.folder / f"results/slurm-logs/rule_finetune_vlm/vlm/{job}.log"
    assert len(re.findall(r"by SIGTERM at step \d+, checkpoint written", log.read_text())) == 4
    summary = json.loads((training.folder / RESULTS / "models/vlm/training.json").read_text())
    assert summary["resumed_from_step"] >= 3
    assert summary["steps"] == len(summary["losses"])
    assert [resources(job)[0] for job in training.jobs("finetune_vlm")] == 2 * ["144000M"]
    assert training.jobs("finetune_vlm")[1]["TimeLimit"] == "1-00:00:00"
    assert_as_undisturbed(training, undisturbed)

    assert listing.finish() == 0, listing.output()
    assert listing.states("list_events") == ["TIMEOUT", "COMPLETED"]
    assert [job["TimeLimit"] for job in listing.jobs("list_events")] == ["00:01:00", "02:00:00"]
    assert_as_undisturbed(listing, undisturbed)


def test_a_job_that_is_preempted_and_one_whose_node_dies_start_again(run, undisturbed):
    """Slurm queues it again, and Snakemake waits."""
    run.remove("voxels/sim00000.h5")
    run.start(str(RESULTS / "voxels/sim00000.h5"))
    job, _ = run.hold("simulate_events")
    everything = ["--nodes=1", "--cpus-per-task=64", "--mem=0", "--output=/dev/null"]
    urgent = run.cluster.command("sbatch", "--parsable", "--partition=urgent", *everything, "--wrap=true").strip()
    wait_for(lambda: run.states("simulate_events") == ["PENDING"], 120, "Slurm to take the job away")
    wait_for(lambda: run.cluster.state(urgent) == "COMPLETED", 200, "the urgent job")
    # Slurm would wait two minutes, and at once is too soon: the node still has to forget the first start
    start = ["scontrol", "update", f"JobId={job['JobId']}", "StartTime=now+10"]
    run.cluster.command(*start)
    run.hold("simulate_events")
    run.cluster.kill_node("cpu01")
    wait_for(lambda: run.states("simulate_events") == ["PENDING"], 120, "Slurm to take the job away")
    run.cluster.start_node("cpu01")
    run.cluster.command("scontrol", "update", "NodeName=cpu01", "State=RESUME")
    run.cluster.command(*start)
    assert run.finish() == 0, run.output()
    # the controller's late order to end what was on the node may hit the new start: then Snakemake tries again
    first, *others = run.jobs("simulate_events")
    assert first["Restarts"] == "2"
    assert [first, *others][-1]["JobState"] == "COMPLETED"
    assert_as_undisturbed(run, undisturbed)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:  # it has ended meanwhile
        return ""
