"""Coverage-guided fuzzing of every door that takes a file from outside; see `doors` for what they are.

    python benchmarks/reliability/fuzz.py DOOR|all --hours H [--corpus DIR] [--out docs/fuzz.json]

A finding is an exception that is not InputError, more than 5 s for one input, or more than 2 GB of memory. Each is kept as a
file in DIR/findings; with `all` the doors take turns. DIR keeps what was learnt, so that the next call goes on from there, and
a line for every turn in DIR/turns.jsonl, which the summary is made of: `--hours 0` writes it anew and tries all findings again.
A signal to end (kill PID) ends the present turn and writes it, too. Takes atheris (pip install 'offramp[fuzz]').
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 5
MEMORY_MB = 2048
LONGEST = 1 << 16
"""Bytes of an input."""

STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
EXECUTED_SO_FAR = re.compile(r"^#(\d+)\t", re.MULTILINE)
WORDS = (
    *('"NaN"', '"Infinity"', '"-1"', '"null"', '"1e999"', '"../"', '"IHDR"', '"IDAT"', '"PLTE"', '"tRNS"', '"eXIf"'),
    '"iCCP"',
)


def main() -> None:
    """Fuzz, or with a hidden option be the process that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("door")
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--turn-minutes", type=float, default=5.0)
    parser.add_argument("--corpus", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inner", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--replay", type=Path, help="try one input again: says how it ends and how long it takes")
    options = parser.parse_args()
    if options.replay is not None:
        print(json.dumps(_replayed(options.door, options.replay, options.corpus)))
    elif options.inner is not None:
        _fuzz(options.door, options.corpus, options.inner, options.folder)
    else:
        _take_turns(options)


# ---------------------------------------------------------------------------------------------------------- the process that
# fuzzes: libFuzzer takes it over and never returns.


def _fuzz(name: str, work: Path, seconds: int, folder: Path) -> None:
    import atheris  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    # What is imported here is instrumented, some of it when a door is opened, or first met.
    with atheris.instrument_imports(include=["offramp", "PIL"]):
        from doors import DOORS, finding_of  # noqa: PLC0415
        from harness import make_things  # noqa: PLC0415
        from seeds import keys_of  # noqa: PLC0415

        things = make_things(work / "things")
        door, seeds = DOORS[name], DOORS[name].seeds(things)
        meet = door.opened(things, folder)
        for seed in seeds:
            finding_of(meet, seed)
    from mutating import mutated  # noqa: PLC0415

    corpus, findings = work / "corpus" / name, work / "findings" / name
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
    findings.mkdir(parents=True, exist_ok=True)
    words = work / f"{name}.dict"
    keys = sorted(key for key in keys_of(seeds) if re.fullmatch(r"[\x20-\x7e]+", key) and not set(key) & {'"', "\\"})
    words.write_text("\n".join([*(f'"{key}"' for key in keys), *WORDS]) + "\n", encoding="ascii")
    known = {path.name for path in findings.iterdir()}

    def meet_one(data: bytes) -> None:
        error = finding_of(meet, data)
        if error is not None and (signature := _signature(error)) not in known:
            known.add(signature)
            (findings / signature).write_bytes(data)
            said = "".join(traceback.format_exception(error))
            (findings / f"{signature}.txt").write_text(said, encoding="utf-8", errors="replace")

    def change(data: bytes, longest: int, seed: int) -> bytes:
        draw = random.Random(seed)  # noqa: S311 - no secret
        changed: bytes = mutated(data, draw)[:longest] if draw.random() < 0.5 else atheris.Mutate(data, longest)
        return changed

    arguments = [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST}",
        f"-dict={words}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *arguments], meet_one, custom_mutator=change)
    atheris.Fuzz()


def _signature(error: Exception) -> str:
    """What makes two findings the same: the kind of error, and the line of ours that it came through last."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/offramp/" in frame.filename]
    place = f"{Path(frames[-1].filename).stem}-{frames[-1].lineno}" if frames else "outside"
    return f"{type(error).__name__}-{place}"


# --------------------------------------------------------------------------------------------------- the process that counts


def _take_turns(options: argparse.Namespace) -> None:
    from doors import DOORS  # noqa: PLC0415 - the other process imports it under instruments

    if options.door != "all" and options.door not in DOORS:
        sys.exit(f"no such door: {options.door}; there are all, {', '.join(DOORS)}")
    names = list(DOORS) if options.door == "all" else [options.door]
    options.corpus.mkdir(parents=True, exist_ok=True)
    asked_to_end = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        if running is not None:
            running.send_signal(signal.SIGINT)

    running: subprocess.Popen[bytes] | None = None
    memory = Path("/dev/shm")  # noqa: S108 - a new folder in it
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    ends = time.monotonic() + 3600 * options.hours
    # The door that has had least time goes first, so that many short calls are fair, too.
    while names and not asked_to_end and (left := ends - time.monotonic()) > 1:
        spent = {name: sum(turn["seconds"] for turn in _turns(options.corpus) if turn["door"] == name) for name in names}
        name = min(names, key=lambda one: spent[one])
        seconds = max(1, int(min(left, 60 * options.turn_minutes)))
        log = options.corpus / f"{name}.log"
        started = time.monotonic()
        # Writing a file anew thousands of times a minute waits for a disk, and not for memory.
        scratch = tempfile.TemporaryDirectory(prefix="offramp-fuzz-", dir=memory if memory.is_dir() else None)
        with log.open("wb") as file, scratch as folder:
            words = [sys.executable, __file__, name, "--inner", str(seconds), "--corpus", str(options.corpus), "--in", folder]
            running = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)
            running.wait()
        turn = _turn(name, log.read_text(encoding="utf-8", errors="replace"), time.monotonic() - started)
        if turn is None:
            print(f"fuzzing {name} did not begin; see {log}", file=sys.stderr, flush=True)
            names.remove(name)
            continue
        with (options.corpus / "turns.jsonl").open("a", encoding="utf-8") as file_of_turns:
            file_of_turns.write(json.dumps(turn) + "\n")
        _drop_what_load_made_slow(name, options.corpus)
        print(json.dumps(turn), flush=True)
    _summarise(options, names)


def _turn(name: str, log: str, seconds: float) -> dict[str, Any] | None:
    """What libFuzzer said of itself; None if it did not begin."""
    begun = STATUS.search(log[log.find("INITED") :]) if "INITED" in log else None
    if begun is None:
        return None
    ended = STATUS.findall(log)[-1]
    executed = EXECUTED.search(log)
    so_far = EXECUTED_SO_FAR.findall(log)
    return {
        "door": name,
        "seconds": round(seconds, 1),
        "executions": int(executed.group(1)) if executed else int(so_far[-1]) if so_far else 0,
        **dict(zip(("edges_at_start", "features_at_start", "corpus_at_start"), map(int, begun.groups()), strict=True)),
        **dict(zip(("edges", "features", "corpus"), map(int, ended), strict=True)),
    }


def _turns(work: Path) -> list[dict[str, Any]]:
    path = work / "turns.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _findings(name: str, work: Path) -> list[Path]:
    folder = work / "findings" / name
    return sorted(path for path in folder.iterdir() if path.suffix != ".txt") if folder.is_dir() else []


def _drop_what_load_made_slow(name: str, work: Path) -> None:
    """An input that takes long beside other programs, and not by the processor's own time, is no finding."""
    for path in _findings(name, work):
        if path.name.startswith(("timeout-", "slow-unit-")) and not _again(name, path, work)["wrong"]:
            path.unlink()


def _again(name: str, path: Path, work: Path) -> dict[str, Any]:
    """How an input ends in a process of its own."""
    words = [sys.executable, __file__, name, "--replay", str(path), "--corpus", str(work)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return {"wrong": True, "said": "takes longer than 120 s"}
    if done.returncode:
        return {"wrong": True, "said": f"ends the process with {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _replayed(name: str, path: Path, work: Path) -> dict[str, Any]:
    import resource  # noqa: PLC0415 - not on every system

    from doors import DOORS, finding_of  # noqa: PLC0415
    from harness import make_things  # noqa: PLC0415

    things = make_things(work / "things")
    with tempfile.TemporaryDirectory() as folder:
        meet = DOORS[name].opened(things, Path(folder))
        meet(DOORS[name].seeds(things)[0])  # what is loaded once is not the input's fault
        started = time.process_time()
        error = finding_of(meet, path.read_bytes())
        seconds = time.process_time() - started
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}" if error else ""
    return {
        "wrong": bool(error) or seconds > SECONDS or memory_mb > MEMORY_MB,
        "said": said or f"{seconds:.1f} s, {memory_mb:.0f} MB",
    }


def _summarise(options: argparse.Namespace, names: Sequence[str]) -> None:
    turns, doors, findings = _turns(options.corpus), {}, []
    for name in dict.fromkeys((*names, *(turn["door"] for turn in turns))):
        own = [turn for turn in turns if turn["door"] == name]
        if not own:
            continue
        tried = [
            {"door": name, "finding": path.name, **_again(name, path, options.corpus)}
            for path in _findings(name, options.corpus)
        ]
        findings += tried
        doors[name] = {
            "hours": round(sum(turn["seconds"] for turn in own) / 3600, 3),
            "executions": sum(turn["executions"] for turn in own),
            **{key: own[0][key] for key in ("edges_at_start", "features_at_start", "corpus_at_start")},
            **{key: own[-1][key] for key in ("edges", "features", "corpus")},
            "findings": len(tried),
            "still_wrong": sum(one["wrong"] for one in tried),
        }
    totals = {
        key: round(sum(door[key] for door in doors.values()), 3) for key in ("hours", "executions", "findings", "still_wrong")
    }
    print(
        f"{'door':<16} {'hours':>6} {'executions':>11} {'edges':>13} {'features':>15} {'corpus':>7} {'findings':>9} {'open':>5}"
    )
    for name, door in doors.items():
        edges, features = (f"{door[f'{key}_at_start']} to {door[key]}" for key in ("edges", "features"))
        counts = f"{door['corpus']:>7} {door['findings']:>9} {door['still_wrong']:>5}"
        print(f"{name:<16} {door['hours']:>6.2f} {door['executions']:>11} {edges:>13} {features:>15} {counts}")
    print(", ".join(f"{key}: {value}" for key, value in totals.items()))
    if options.out is not None:
        from script import write_json  # noqa: PLC0415

        values = {"benchmark": "fuzz", "atheris": version("atheris"), **totals, "doors": doors, "of_findings": findings}
        write_json(options.out, values)


if __name__ == "__main__":
    main()
