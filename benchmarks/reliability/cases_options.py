"""Cases of bad options: every verb that a device needs, the way they are given, and the places where results would go."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cases_options_train
from harness import Case, Things, copied
from option_lines import filled, table, words

USAGE = table("""
flywith | no such command; flywith
--banana | no such option; --banana
data paint {work} | no such command; paint
taps | missing argument; NETWORK
evaluate {package} --out {work}/x | missing argument; DATA
evaluate {package} {data} | missing option; --out
profile {package} --out | --out; requires an argument
search --records {records} --profile {profile} --out {work}/x | missing option; --mode; budgeted, anytime, input-dependent
trim {package} | missing argument; DEPLOYMENT
run | missing argument; INPUT
+ run {image} | unexpected extra argument; 0010
+ evaluate --split | --split; requires an argument
+ profile --pases 3 | no such option; --pases; --passes
+ run --dead 3 | no such option; --dead
+ cascade --cascade {package} | --cascade; requires 2 arguments
demo extra --out {work}/demo | unexpected extra argument; extra
data check {data} {data} | unexpected extra argument
sweep | missing argument; PLAN
run -x.jpg --package {small} --out {work}/a | no such option; -x
+ evaluate --split "" | empty word after --split
evaluate "" {data} --out {work}/x | empty word after evaluate
search --records "" --profile {profile} --mode budgeted --out {work}/x | empty word after --records
""")

DEVICE = table("""
+ evaluate --split validation | no split 'validation'; train, val, test
+ evaluate --split ../val | no split '../val'
+ evaluate --engine tflite | --engine; 'tflite' is not one of; openvino
+ evaluate --engine onnxruntime-cuda | cannot do onnxruntime-cuda; CUDAExecutionProvider; onnxruntime-gpu
+ profile --engine onnxruntime-tensorrt | cannot do onnxruntime-tensorrt; TensorrtExecutionProvider
+ evaluate --precision fp16 | onnxruntime does not compute in fp16; fp32; openvino
+ profile --precision bf16 | onnxruntime does not compute in bf16
+ evaluate --precision int8 | --precision; 'int8' is not one of
+ evaluate --threads -1 | --threads; greater than or equal to 0; '-1'
+ evaluate --threads 1.5 | --threads; integer; '1.5'
+ profile --threads 100000 | --threads; less than or equal to 1024; '100000'
+ evaluate --shards 3 | --shards goes with --ray
+ evaluate --shards 0 | --shards; greater than or equal to 1
+ evaluate --ray 127.0.0.1:1 | no Ray cluster at 127.0.0.1:1; refused
+ profile --passes 0 | --passes; greater than or equal to 1; '0'
+ profile --passes 1e3 | --passes; integer; '1e3'
+ profile --energy-seconds -1 | --energy-seconds; greater than or equal to 0
+ profile --energy-seconds nan | --energy-seconds; 'nan'
+ profile --energy-seconds 61 | --energy-seconds; less than or equal to 60
+ trim --no-confidence | confidence; merge; budgeted or anytime
+ trim --merge --no-confidence | confidence; policy
+ run --deadline-ms 0 | deadline; positive number of milliseconds; 0
+ run --deadline-ms -1 | deadline; positive; -1
+ run --deadline-ms nan | deadline; positive; nan
+ run --deadline-ms 1e400 | deadline; positive; inf
+ run --deadline-ms soon | --deadline-ms; number; 'soon'
+ run --mode fast | --mode; 'fast' is not one of; anytime
+ run --package {package} --mode input-dependent | no input-dependent deployment; offramp search
+ run --live | only a video file can be played live; 0010
run {data}/test/images --package {small} --out {work}/a --live | only a video file; images
+ run --overlays gif | --overlays; 'gif' is not one of; png
+ run --threads -1 | --threads; '-1'
+ run --precision bf16 | onnxruntime does not compute in bf16
+ run --engine cuda | --engine; 'cuda' is not one of
run {work}/none.jpg --package {small} --out {work}/a | no such input; none.jpg
run camera:9 --package {small} --out {work}/a | no camera 9; /dev/video9
run camera:x --package {small} --out {work}/a | camera:0; camera:x
run camera:-1 --package {small} --out {work}/a | camera:0; camera:-1
run nosuch://x --package {small} --out {work}/a | cannot read the video; nosuch://x; protocol
run --package {small} --out {work}/a -- -x.jpg | no such input; -x.jpg
+ view --port -1 | --port; '-1'
+ view --port 65536 | --port; less than or equal to 65535
+ view --port http | --port; integer; 'http'
+ view --engine onnxruntime-cuda | cannot do onnxruntime-cuda
view {package} {work}/none.jpg --no-open | no such input; none.jpg
+ report --images 0 --data {data} | --images; greater than or equal to 1
+ report --images 5 | --split and --images; --data
+ report --split train | --split and --images; --data
+ report --data {data} --split valid | no split 'valid'
+ report --records {records} --records {records} | records of one split; val, val
+ report --run {package} | not a training run; run.json
report {run} --out {work}/r.html --run {run} | --run goes with a package
report {run} --out {work}/r.html --data {data} | gallery; package
+ draw --images 2 | cannot draw 2 images; 3 or more
+ draw --images -3 | --images; '-3'
+ draw --images many | --images; integer; 'many'
+ draw --size 16x16 | cannot draw at 16x16; 64x48
+ draw --size 5000x5000 | cannot draw at 5000x5000; 4096x4096
+ draw --size 0x0 | not a size: '0x0'; WIDTHxHEIGHT
+ draw --seed -1 | --seed; '-1'
+ draw --seed 1.5 | --seed; integer; '1.5'
""")

EXCHANGED = table("""
evaluate {data} {package} --out {work}/x | not a package; scenes; manifest.json
evaluate {run} {data} --out {work}/x | not a package; run; offramp export
evaluate {package}/manifest.json {data} --out {work}/x | not a package; is not a folder
evaluate {package} {work}/none --out {work}/x | no dataset at; none
profile {profile} --out {work}/x | not a package; here.profile
trim {chosen} {package} --out {work}/x | not a package; chosen.json
trim {package} {profile} --out {work}/x | not a deployment; 'profile'
trim {small} {chosen} --out {work}/x | belongs to another package
run {image} --package {run} --out {work}/a | not a package; run
run {image} --package {image} --out {work}/a | not a package; 0010
run {work} --package {small} --out {work}/a | no images in
view {run} --no-open | not a package
report {records} --out {work}/r.html | neither a run nor a package; val.records
report {data} --out {work}/r.html | not a training run; scenes
+ report --deployment {profile} | not a deployment; 'profile'
+ report --run-log {chosen} | not a run log; 'deployment'
data check {image} | no dataset at; 0010
sweep {image} {data} --out {work}/s | the plan; no YAML
sweep {chosen} {data} --out {work}/s | the plan; networks
""")

SEARCH = table("""
search --mode budgeted --out {work}/x | --records needs its --profile; 0 and 0; --sweep
+ budgeted --records {records} | --records needs its --profile; 2 and 1
search --sweep {work}/none --mode budgeted --out {work}/x | cannot read the sweep; none
+ budgeted --sweep {work} | --sweep; leave out --records and --profile
+ budgeted --max-latency-ms 0 | --max-latency-ms; greater than 0
+ budgeted --max-latency-ms nan | --max-latency-ms; finite; nan
+ budgeted --max-latency-ms 1e400 | --max-latency-ms; finite; inf
+ budgeted --max-latency-ms fast | --max-latency-ms; number; 'fast'
+ budgeted --max-latency-ms 1e-9 | no deployment meets max-latency-ms; the least is; ask for at least
+ budgeted --max-p95-latency-ms -1 | --max-p95-latency-ms; greater than 0
+ budgeted --max-p95-latency-ms 1e-9 | no deployment meets max-p95-latency-ms; the least is
+ budgeted --max-worst-latency-ms -inf | --max-worst-latency-ms; finite; -inf
+ budgeted --max-macs 0 | --max-macs; greater than 0
+ budgeted --max-macs 1 | no deployment meets max-macs 1; the least is
+ budgeted --max-energy-mj 1 | max-energy-mj; profile does not say; measure
+ budgeted --max-parameter-bytes 1.5 | --max-parameter-bytes; integer; '1.5'
+ budgeted --max-parameter-bytes 1MB | --max-parameter-bytes; integer; '1MB'
+ budgeted --max-parameter-bytes 1 | no deployment meets max-parameter-bytes 1; the least is
+ budgeted --max-memory-bytes -1 | --max-memory-bytes; greater than 0; -1
+ budgeted --max-memory-bytes 1 | no deployment meets max-memory-bytes 1
+ budgeted --max-drop-pp -1 | --max-drop-pp; greater than or equal to 0
+ budgeted --max-drop-pp 101 | --max-drop-pp; less than or equal to 100
+ budgeted --max-drop-pp 1 --min-miou 0.99 | no deployment reaches min-miou 0.99; the best reaches
+ budgeted --min-miou 60 | --min-miou; less than or equal to 1; 60
+ budgeted --min-miou -0.1 | --min-miou; greater than or equal to 0
+ budgeted --min-iou car | --min-iou; CLASS=IOU; 'car'
+ budgeted --min-iou =0.5 | min-iou; no class ''; car
+ budgeted --min-iou car= | --min-iou; number; ''
+ budgeted --min-iou car=half | --min-iou; number; 'half'
+ budgeted --min-iou car=2 | --min-iou; less than or equal to 1
+ budgeted --min-iou cat=0.5 | min-iou; no class 'cat'; car
+ budgeted --min-iou car=0.99 | no deployment reaches; car=0.99; at most car
+ budgeted --min-iou car=0.1 --min-iou car=0 | --min-iou; 'car' is limited twice
+ budgeted --max-exits 0 | --max-exits; greater than or equal to 1
+ dependent --max-exits 17 | --max-exits; less than or equal to 16
+ dependent --max-exits two | --max-exits; integer; 'two'
+ dependent --policies edges | --policies; 'off-edges'; 'edges'
+ dependent --policies all,,mean | --policies; got ''
+ anytime --deadlines-ms 10 | --deadlines-ms; FROM,TO; '10'
+ anytime --deadlines-ms 10,5 | deadlines_ms; the shortest comes first
+ anytime --deadlines-ms -1,10 | --deadlines-ms; greater than or equal to 0; '-1'
+ anytime --deadlines-ms nan,nan | --deadlines-ms; finite; 'nan'
+ anytime --deadlines-ms 0,inf | --deadlines-ms; finite; 'inf'
+ anytime --deadlines-ms a,b | --deadlines-ms; number; 'a'
+ anytime --deadlines-ms 0,0.001 | no exit is ready at any of the deadlines; the fastest takes
+ budgeted --deadlines-ms 1,10 | deadlines; anytime; budgeted
+ dependent --max-risk 0 | --max-risk; greater than 0
+ dependent --max-risk 1 | --max-risk; less than 1
+ dependent --max-risk 0.1 --expected-risk 0.1 | max_risk; expected_risk; one of them
+ budgeted --max-risk 0.5 | risk; input-dependent
+ anytime --expected-risk 0.5 | risk; input-dependent
+ dependent --expected-risk 1.5 | --expected-risk; less than 1
+ dependent --max-risk 0.9 --confidence 1 | --confidence; less than 1
+ dependent --max-risk 0.9 --confidence 95 | --confidence; less than 1; 95
+ dependent --confidence 0.5 | confidence; max_risk
+ dependent --calibration {records} | calibration; max-risk or expected-risk
+ dependent --max-risk 0.9 --calibration {records} | calibration records hold images that exits are chosen by
+ dependent --max-candidates 0 | --max-candidates; greater than or equal to 1
+ dependent --max-candidates 1e9 | --max-candidates; integer; '1e9'
+ dependent --workers -1 | --workers; '-1'
+ dependent --workers 100000 | --workers; less than or equal to 1024
+ dependent --package {work}/both | --cascade SMALL LARGE and --package; together
+ dependent --cascade {package} {package} --package {work}/both | --cascade; both packages; 1 of each
+ cascade | --cascade SMALL LARGE and --package; together
+ cascade --package {work}/both --front {work}/front.csv | --front is of one package
+ cascade --package {work}/both --max-risk 0.5 | limit on risk; small network
+ cascade --package {package} | will not write the cascade over; package
+ cascade --package {package}/both | inside the package
+ cascade --package {image} | cannot write the folder; 0010; a file of that name
""")

TARGETS = table("""
+ evaluate --out {work} | cannot write the file; a folder of that name exists
+ evaluate --out {image} | will not replace; 0010; not records
+ evaluate --out {image}/val.records | cannot write; 0010-easy.png is no folder
+ evaluate --out /proc/val.records | cannot write /proc/val.records
+ evaluate --out /dev/full | cannot write the file /dev/full; device
+ profile --out {work} | cannot write the file; a folder of that name exists
+ profile --out {records} | will not replace; val.records; not a profile
+ profile --out /dev/null | cannot write the file /dev/null; device
+ profile --out {package}/manifest.json | will not replace; manifest.json; not a profile
+ budgeted --out {records} | will not replace; val.records; not a deployment
+ budgeted --out {profile} | will not replace; here.profile; not a deployment
+ budgeted --out /proc/chosen.json | cannot write /proc/chosen.json
+ budgeted --front {work}/chosen.json | --out and --front are the same file
+ budgeted --front {profile} | will not replace; here.profile; not a front
+ trim --out {package} | will not trim; into itself
+ trim --out {package}/small | inside the package
+ trim --out {run} | will not replace; run; manifest.json
+ trim --out {image} | cannot write the folder; 0010; a file of that name
+ trim --out {image}/x | cannot write; 0010
+ run --out {image} | will not write into; 0010; no earlier run
+ run --out {data}/test/images | will not write into; images
+ run --out {small} | will not write into; small
+ run --out {image}/answers | cannot write; 0010
+ report --out {package}/manifest.json | will not replace; manifest.json; not a page
+ report --out {image}/r.html | cannot write; 0010-easy.png is no folder
+ report --out /proc/r.html | cannot write /proc/r.html
+ single --single-file {small}/net.onnx | will not write; among the package's own graphs
+ single --single-file {work} | FILE.onnx
+ draw {run} | unexpected extra argument
data draw {run} --size 64x48 | will not replace; run; drawn.json
data draw {image}/d --size 64x48 | cannot write; 0010-easy.png is no folder
data draw /proc/d --size 64x48 | cannot write /proc/d
demo --out {image} | will not write the demo into; 0010
demo --out {data} | will not write the demo into; scenes
""")


def _over_somebodys_work(verb: str) -> Case:
    """What is to be replaced is an earlier result, and holds a folder that is not of it."""

    def prepare(work: Path, things: Things) -> Sequence[object]:
        old = copied(things.package if verb != "draw" else things.data, work)
        (old / "mine").mkdir()
        (old / "mine" / "notes.txt").write_text("a week's work", encoding="utf-8")
        line = {"draw": f"data draw {old} --size 64x48", "trim": f"+ trim --out {old}", "export": f"+ export --out {old}"}
        return filled(line[verb], work, things)

    return Case(f"options: {verb} over a folder that holds another's", prepare, says=("will not replace", "mine", "lost"))


def _not_utf8(work: Path, things: Things) -> Sequence[object]:
    return ("run", os.fsdecode(bytes(work) + b"/caf\xe9.jpg"), "--package", things.small, "--out", work / "answers")


def _same_labels(work: Path, out: str) -> bool:
    """Whether a run answered for one image, whatever it was called."""
    del out
    return len(list((work / "answers" / "labels").iterdir())) == 1


def _named(name: str) -> Case:
    def prepare(work: Path, things: Things) -> Sequence[object]:
        (work / name).write_bytes(things.image.read_bytes())
        return ("run", "--package", things.small, "--out", work / "answers", "--", work / name)

    return Case(f"options: run of an image called {name!r}", prepare, right=_same_labels)


def _last_of_two(work: Path, out: str) -> bool:
    del work
    return len(json.loads(out)["exits"]) == 2  # one early exit, and the final one


RIGHT = (
    Case("options: --exits given twice, the last one counts", words("+ taps --exits 2 --exits 1 --json"), right=_last_of_two),
    _named("-x.png"),
    _named("two words.png"),
    _named("größe-漢字.png"),
    _named("$(reboot);'\"&.png"),
)

CASES: tuple[Case, ...] = (
    *cases_options_train.CASES,
    *USAGE,
    *DEVICE,
    *EXCHANGED,
    *SEARCH,
    *TARGETS,
    *(_over_somebodys_work(verb) for verb in ("draw", "trim", "export")),
    Case("options: run of a file whose name is not UTF-8", _not_utf8, says=("no such input", "caf")),
    *RIGHT,
)
