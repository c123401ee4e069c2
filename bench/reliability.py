"""What a run survives, and whether its memory stays flat, on the small model on a CPU. Prints the tables of RELIABILITY.md.

python bench/reliability.py kills      SIGKILL at random moments, resumed each time, beside an unbroken run; 20 minutes
python bench/reliability.py memory     2,000 updates, and its plot bench/memory_over_time.png; 6 minutes
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

import matplotlib.pyplot as plt
import numpy as np
from watch import memory_of, tree_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gm.checkpoint.io import open_tensors
from gm.training.state_file import STATE_FILE

PHASES = {  # the last words on the screen -> what a run was doing
    r"starting MindSpore$|^$": "starting",
    r"class images": "class images",
    r"^building|loading": "loading the networks",
    r"encoding|embedding": "encoding",
    r"compiling": "compiling",
    r"^training|^step|^trained|^done|python": "training, saving",
}


@dataclass(frozen=True)
class Job:
    """A training command and where it writes."""

    folder: Path
    updates: int
    more: tuple[str, ...] = ()

    def words(self, resume: bool = False) -> list[str]:
        """The command line."""
        work, name = self.folder, "A photo of a {}dog"
        given = [
            *("--config", ROOT / "configs/training/small_dreambooth_lora_cpu.yaml", "--device_target", "CPU"),
            *("--weight", ROOT / "checkpoints/small_sdxl.safetensors", "--set", f"data.total_step={self.updates}"),
            *("--instance_data_path", work.parent / "photos", "--instance_prompt", name.format("sks ")),
            *("--class_data_path", work / "class", "--class_prompt", name.format(""), "--num_class_images", 12),
            *("--sample_step", 10, "--sample_batch_size", 4, "--save_path", work / "runs", *self.more),
        ]
        return [sys.executable, str(ROOT / "train_dreambooth.py"), *map(str, given), *(["--resume", "True"] if resume else [])]

    @property
    def state(self) -> Path:
        return self.folder / "runs" / STATE_FILE

    def start(self) -> subprocess.Popen:
        """Start it, or go on where its state is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = open(self.folder / "screen.txt", "wb")
        return subprocess.Popen(self.words(resume=self.state.exists()), stdout=log, stderr=log, cwd=self.folder)

    def finish(self) -> float:
        """Run to the end; the seconds it took."""
        start = time.perf_counter()
        if self.start().wait():
            raise SystemExit((self.folder / "screen.txt").read_text()[-2000:])
        return time.perf_counter() - start

    def phase(self) -> str:
        """What the run was doing when it ended."""
        screen = (self.folder / "screen.txt").read_text().replace("\r", "\n").strip().splitlines()
        last = next((line for line in reversed(screen) if line.strip()), "")
        return next((phase for words, phase in PHASES.items() if re.search(words, last)), last[:60])

    def lora(self, step: int) -> Path:
        return self.folder / "runs" / f"SDXL_base_1.0_{step}_lora.ckpt"


def records(job: Job) -> list[dict]:
    """The lines of metrics.jsonl; none is cut off."""
    return [json.loads(line) for line in (job.folder / "runs/metrics.jsonl").read_text().splitlines()]


def draw_photos(folder: Path) -> None:
    """Five photos of the drawn subject."""
    words = [ROOT / "tools/draw_world.py", "--subject", "training", "--size", "64", "--output", folder]
    subprocess.run([sys.executable, *map(str, words)], check=True)


def contents(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file."""
    with open_tensors(path) as file:
        file.verify_checksum()
        return {name: file.read(name) for name in file.names}


def kills(folder: Path, number: int, updates: int) -> None:
    """End a run by SIGKILL at random moments, resume it each time, and compare it with an unbroken one."""
    often = ("--save_ckpt_interval", "2", "--cache_dir", "cache", "--compile_cache_dir", "graphs")
    unbroken, broken = (Job(folder / name, updates, often) for name in ("unbroken", "broken"))
    seconds = unbroken.finish()
    killed: dict[str, int] = {}
    chance, lost, whole, left = random.Random(0), [], 0, number
    while left:
        run = broken.start()
        try:
            run.wait(chance.uniform(0, seconds))
            Path(broken.state).unlink()  # it has come to its end: once more from nothing, with what it cached
            for path in (broken.folder / "runs").glob("*"):
                path.unlink()
            continue
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
        left -= 1
        phase = broken.phase()
        killed[phase] = killed.get(phase, 0) + 1
        if broken.state.exists():
            step = int(contents(broken.state)["state.counters"][0])
            assert contents(broken.lora(step)), "no LoRA beside the state"
            whole += 1
            lost.append(len(records(broken)) - step)
    broken.finish()
    same = all(
        np.array_equal(contents(unbroken.lora(updates))[name], value) for name, value in contents(broken.lora(updates)).items()
    )
    lines = [records(job) for job in (unbroken, broken)]
    told = [[(one["step"], one["loss"], one["grad_norm"]) for one in of_job] for of_job in lines]
    litter = [path.name for path in broken.folder.rglob(".*.tmp")]
    print("| killed while | times |\n|---|---|")
    print("\n".join(f"| {phase} | {times} |" for phase, times in sorted(killed.items())))
    print(
        f"\n{number} kills; in {whole} of them a state was there, each time whole and with its LoRA file; updates done again after a"
    )
    print(
        f"kill: {np.mean(lost or [0]):.1f} on average, at most {max(lost or [0])}; final LoRA bit-equal: {same}; metrics equal, {updates}"
    )
    print(f"lines: {told[0] == told[1] and len(told[0]) == updates}; unfinished files left: {len(litter)}")


def memory(folder: Path, updates: int) -> None:
    """Watch the memory of a long run."""
    job = Job(folder / "long", updates, ("--save_ckpt_interval", "100", "--max_num_ckpt", "3"))
    run, seen = job.start(), []
    metrics = job.folder / "runs/metrics.jsonl"
    while run.poll() is None:
        time.sleep(2)
        step = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        now = [memory_of(pid)[0] for pid in tree_of(run.pid)]  # the command is a child of the process that was started
        seen.append((step, max(now, default=0) / 2**20))
    if run.returncode:
        raise SystemExit((job.folder / "screen.txt").read_text()[-2000:])
    steps, resident = np.array([one for one in seen if one[0] > 0 and one[1] > 0]).T
    print("| update | resident MiB |\n|---|---|")
    for step in (updates // 20, updates // 4, updates // 2, 3 * updates // 4, updates - 10):
        print(f"| {step} | {resident[np.abs(steps - step).argmin()]:.0f} |")
    later = steps > updates / 4
    slope = np.polyfit(steps[later], resident[later] * 1024, 1)[0]
    print(
        f"\nslope over the last three quarters: {slope:+.2f} KiB an update; files in the folder: {len(list(metrics.parent.iterdir()))}"
    )
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.plot(steps, resident)
    axes.set(xlabel="update", ylabel="resident memory, MiB", ylim=(0, None), title="Training the small model on a CPU")
    figure.tight_layout()
    figure.savefig(ROOT / "bench" / "memory_over_time.png", dpi=100)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "memory"))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "reliability", help="where the runs go")
    parser.add_argument("--number", type=int, default=20, help="kills")
    parser.add_argument("--updates", type=int, help="of the run: 40 or 2,000")
    options = parser.parse_args(argv)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    draw_photos(folder / "photos")
    if options.what == "kills":
        kills(folder, options.number, options.updates or 40)
    else:
        memory(folder, options.updates or 2000)


if __name__ == "__main__":
    sys.exit(main())
