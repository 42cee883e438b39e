"""What Snakemake needs to plan a run, and a job on a cluster to start, against the number of shards.

    python benchmarks/planning.py [--shards 1 190 1000 10000] [--checkout FOLDER] [--name after]

Plans `config/paper.yaml` on empty input files (a dry-run, with a new process each), and starts a job of one shard as
Slurm does, up to the point where it would run. `--checkout` measures another checkout, an older one say. Writes
results/planning.json beside this file under `--name`, and the figure docs/images/planning.svg.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "planning.json"
FIGURE = REPOSITORY / "docs" / "images" / "planning.svg"
SHARDS = (1, 190, 1000, 3000, 10000)


def link_workflow(checkout: Path, folder: Path) -> None:
    """A working directory with what Snakemake needs of a checkout, and no results."""
    for name in ("workflow", "config", "resources", "profiles", "Snakefile"):
        (folder / name).symlink_to(checkout / name)
    (folder / "results").mkdir()


def run(folder: Path, *arguments: str, fails: bool = False) -> tuple[str, dict[str, float]]:
    """What Snakemake prints, and its seconds, CPU seconds and peak memory."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    before = os.times()
    environment = {**os.environ, "PYTHONPATH": str(folder / "workflow" / "src"), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*command, *arguments], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if bool(process.returncode) != fails:
        raise RuntimeError(text)
    cost = {
        "seconds": os.times().elapsed - before.elapsed,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1000,
    }
    return text, {name: round(value, 2) for name, value in cost.items()}


def edges(plan: str) -> int:
    """Input files of all jobs, from the output of a dry-run."""
    return sum(len(files.split(", ")) for files in re.findall(r"^    input: (.+)$", plan, flags=re.MULTILINE))


def measure(checkout: Path, shards: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_workflow(checkout, folder)
        (folder / "data").mkdir()
        for shard in range(shards):
            (folder / "data" / f"beam{shard:06d}.h5").touch()
        configuration = ["--configfile", "config/config.yaml", "config/paper.yaml"]
        configuration += ["--config", "input={files: ['data/*.h5']}"]
        plan, _ = run(folder, "--dry-run", *configuration)
        _, planning = run(folder, "--dry-run", "--quiet", *configuration)
        # A start of the run, which freezes what was planned and ends with its first job: the files are empty.
        target = "results/paper/displays/beam000000.zarr/manifest.json"
        run(folder, *configuration, "--", target, fails=True)
        # The arguments of a job that the main process submits.
        job = ["--dry-run", "--quiet", "--mode", "subprocess", "--force", "--nolock", "--ignore-incomplete"]
        job += ["--allowed-rules", "smear_and_downsample"]
        _, start = run(folder, *job, *configuration, "--", target)
    jobs = re.search(r"^total +(\d+)$", plan, flags=re.MULTILINE)
    assert jobs is not None
    return {"shards": shards, "jobs": int(jobs[1]), "edges": edges(plan), "plan": planning, "job_start": start}


def draw(results: dict[str, Any]) -> None:
    """CPU seconds, memory and edges against shards, for every checkout that was measured."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    panels = {
        "planning, CPU s": lambda row: row["plan"]["cpu_seconds"],
        "peak memory, MB": lambda row: row["plan"]["peak_mb"],
        "input files of all jobs": lambda row: row["edges"],
        "start of a job, CPU s": lambda row: row["job_start"]["cpu_seconds"],
    }
    with plt.rc_context({"svg.hashsalt": "planning", "font.size": 9}):
        figure, axes = plt.subplots(1, len(panels), figsize=(12, 3), layout="constrained")
        for axis, (title, value) in zip(axes, panels.items(), strict=True):
            for name, rows in results["measured"].items():
                shards = [row["shards"] for row in rows]
                axis.loglog(shards, [value(row) for row in rows], marker="o", label=name)
            axis.set(xlabel="shards", title=title)
            axis.grid(alpha=0.3)
        axes[0].legend()
        figure.savefig(FIGURE, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=SHARDS)
    parser.add_argument("--checkout", type=Path, default=REPOSITORY)
    parser.add_argument("--name", default="now", help="key of the results, and label in the figure")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"measured": {}}
    results["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    rows = []
    for shards in options.shards:
        rows.append(measure(options.checkout.resolve(), shards))
        print(json.dumps(rows[-1]), flush=True)
        results["measured"][options.name] = rows
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    draw(results)


if __name__ == "__main__":
    main()
