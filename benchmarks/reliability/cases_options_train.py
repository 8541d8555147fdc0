"""Cases of bad options of the workstation's verbs: taps, train, prune, export."""

from __future__ import annotations

from harness import Case
from option_lines import table

TAPS = table("""
+ taps --classes 1 --exits 1 | num_classes; 2 to 255; 1
+ taps --classes -3 --exits 1 | num_classes; 2 to 255; -3
+ taps --classes 256 --exits 1 | num_classes; 2 to 255; 256
+ taps --classes 1e400 | --classes; integer; '1e400'
+ taps --classes two | --classes; integer; 'two'
+ taps --exits -1 | --exits; '-1'
+ taps --exits 64 | 64 exits asked for; only 3 points; blocks.1.0
+ taps --exits 65 | --exits; less than or equal to 64
+ taps --output-stride 7 | --output-stride; 8, 16 or 32; 7
+ taps --size 0x0 | not a size: '0x0'
+ taps --size 96 | not a size: '96'; WIDTHxHEIGHT
+ taps --size -96x64 | not a size: '-96x64'
+ taps --size 96x64x3 | not a size: '96x64x3'
+ taps --size 99999x99999 | not a size; 8192
+ taps --heads , | --heads; no name
+ taps --exits 2 --heads unet | not a head: 'unet'; fcn, deeplab
+ taps --exits 2 --heads fcn/c0 | not a head; channels; 0
+ taps --exits 2 --heads fcn/r3 | not a head; reduction; 3
+ taps --exits 2 --heads fcn/b9 | not a head; blocks; 9
+ taps --exits 2 --heads fcn/d | not a head; dilation needs extra blocks
+ taps --exits 2 --heads fcn/c64/c32 | not a head; 'c32'
+ taps --exits 2 --heads fcn,fcn | two exits have the same tap and head
+ taps --taps blocks.9 | no module 'blocks.9'; near it; blocks.4
+ taps --taps blocks.0.0,blocks.0.0 | tap is named twice
+ taps --taps blocks.0.0 --exits 3 | --taps; --exits 3; leave one of them out
+ taps --exits 1 --final-head unet | not a head: 'unet'
taps test_efficentnet | timm has no network 'test_efficentnet'; near it: test_efficientnet
taps . | not a network: '.'; timm:NAME
taps tim:resnet50 | no source of networks is called 'tim'; near it: timm
taps torchvision:fcn_resnet5 | fcn_resnet5 is not known to torchvision; fcn_resnet50
taps smp:Unett/resnet18 | no architecture 'Unett'; Unet
taps smp:Unet/resnet19 | no encoder 'resnet19'; resnet18
taps smp:Unet | not a network: 'smp:Unet'; ARCH/ENCODER
taps smp:Unet/resnet18 --output-stride 16 | takes no output stride; leave it out
taps nothing.py:make | no file nothing.py
taps mobilenet-v9 | no recipe is called 'mobilenet-v9'; dilated-mobilenetv2
taps /etc/passwd | not a network: '/etc/passwd'
""")

TRAIN = table("""
+ train --epochs -1 | --epochs; greater than or equal to 0; -1
+ train --epochs 1.5 | --epochs; integer; '1.5'
+ train --epochs 0 --exit-epochs 0 | nothing would be trained
+ train --epochs 0 --exits 1 | epochs=0; final head; new; --from
+ train --exits 9 | 9 exits asked for; only 3 points
+ train --batch-size 1 | --batch-size; greater than or equal to 2; 1
+ train --batch-size -8 | --batch-size; -8
+ train --crop 0x0 | not a size: '0x0'
+ train --crop 320 | not a size: '320'
+ train --zoom 1 | --zoom; not a range: '1'
+ train --zoom 2,1 | zoom; the smaller scale comes first
+ train --zoom nan,2 | --zoom; finite; nan
+ train --zoom 0,2 | --zoom; greater than 0.05
+ train --jitter -0.1 | --jitter; greater than or equal to 0
+ train --jitter 1 | --jitter; less than 1
+ train --hard-share 0 | --hard-share; greater than 0
+ train --learning-rate 0 | --learning-rate; greater than 0
+ train --learning-rate 1e400 | --learning-rate; finite; inf
+ train --learning-rate fast | --learning-rate; number; 'fast'
+ train --backbone-rate -1 | --backbone-rate; greater than or equal to 0
+ train --weight-decay nan | --weight-decay; finite; nan
+ train --warm-up 1 | --warm-up; less than 1
+ train --averaging 1 | --averaging; less than 1
+ train --seed -1 | --seed; greater than or equal to 0
+ train --seed 99999999999999999999 | --seed; less than
+ train --validate-every 0 | --validate-every; greater than or equal to 1
+ train --train-images -1 | --train-images; greater than or equal to 0
+ train --truth-weight 2 | --truth-weight; less than or equal to 1
+ train --temperature 0 | --temperature; greater than 0
+ train --halving 9 | --halving; less than or equal to 8
+ train --halving 3 --exit-epochs 2 | halving; more epochs than halvings
+ train --halving 1 --scheme final-only | halving; phase 2; final-only
+ train --scheme twophase | --scheme; 'twophase' is not one of; two-phase
+ train --scheme final-only --epochs 0 --exit-epochs 3 | final-only; needs epochs
+ train --early-exit first | --early-exit; 'first' is not one of
+ train --distillation negative | --distillation; 'negative' is not one of
+ train --filtered none | --filtered; 'none' is not one of
+ train --optimiser adam | --optimiser; 'adam' is not one of; 'adamw'
+ train --schedule linear | --schedule; 'linear' is not one of
+ train --keep first | --keep; 'first' is not one of
+ train --precision fp16 | --precision; 'fp16' is not one of; bfloat16
+ train --no-resume | no such option; --no-resume
+ train --flip yes | unexpected extra argument; yes
+ train --exits 1 --weights {work}/none.safetensors | cannot read the weights; none.safetensors
+ train --exits 1 --weights {image} | .safetensors; 0010
+ train --exits 1 --from {work}/none | not a run; none; network.json
+ train --exits 1 --from {package} | not a run; package
+ train --from {run} --network test_resnet --exits 1 | cannot begin with the run; test_efficientnet; test_resnet
+ train --out {run} | there is a run in; --resume
+ train --out {run} --resume --network test_resnet | begun with network test_efficientnet, not test_resnet
+ train --out {run} --resume --exits 3 | begun with exits 2, not 3
+ train --out {run} --resume --seed 7 | begun with seed 0, not 7
+ train --out {run} --resume --weights {run}/weights.safetensors | not begun with the weights; --weights
+ train --out {run} --resume --from {run} | not begun with the weights; --from
+ train --out {data} | cannot train into; scenes
+ train --out {image} | cannot train into; 0010
+ train --out {image}/run | cannot write; 0010-easy.png is no folder
+ train --out /proc/run | cannot write /proc/run
train {work}/none --out {work}/run | no dataset at; none
train {package} --out {work}/run | cannot tell the layout of; package
""")

PRUNE = table("""
+ prune --keep 0 | keep must be a share between 0 and 1; 0
+ prune --keep 1 | keep must be a share between 0 and 1; 1
+ prune --keep nan | keep must be a share; nan
+ prune --keep most | --keep; number; 'most'
+ prune --epochs -1 | epochs; greater than or equal to 0; -1
+ prune --learning-rate nan | learning_rate; finite; nan
+ prune --crop 0x0 | not a size: '0x0'
+ prune --batch-size 1 | batch_size; greater than or equal to 2
+ prune --seed -1 | seed; greater than or equal to 0
+ prune --scheme all | --scheme; 'all' is not one of
+ prune --network {work}/mine.py:make | the network of; is timm:test_efficientnet
+ prune --out {run} | a folder of its own; run
+ prune --out {data} | cannot prune into; scenes
+ prune --out {image}/p | cannot write; 0010
+ prune --out /proc/p | cannot write /proc/p
prune {package} {data} --out {work}/p | not a run; package
prune {run} {run} --out {work}/p | cannot tell the layout of; run
""")

EXPORT = table("""
export {run} | --out PACKAGE; --single-file
+ export --single-file {work}/x.onnx | one of both; --out; --single-file
+ export --labels 1/3 | --labels; '1/3'; 1/4
+ export --labels 4 | --labels; '4'; 1/4
+ export --size 0x0 | not a size: '0x0'
+ export --group road | --group; 'road'; CLASS+CLASS=NAME
+ export --group road+sea=ground | no class 'sea'; road
+ export --group road+pavement=car | another class is called 'car'
+ export --group road+pavement=a --group road+tree=b | 'road' is named twice
+ export --group sky+building+road+pavement+tree+pole+car+person=all | fewer than two classes
+ export --precision int4 --data {data} | --precision; 'int4' is not one of
+ export --precision int8 | --precision int8; needs --data
+ export --data {data} | --precision; --data
+ export --max-drop-pp 1 | --max-drop-pp goes with --precision int8
+ export --calibration-images 5 | --calibration-images goes with --precision int8
+ lower --precision bf16 --spare final | --spare goes with --precision int8
+ lower --max-drop-pp nan | --max-drop-pp; 'nan'
+ lower --max-drop-pp 101 | --max-drop-pp; less than or equal to 100
+ lower --calibration-images 0 | --calibration-images; greater than or equal to 1
+ lower --spare nobody | no exit 'nobody'; final
+ lower --size 96x64 | is a package; has size
+ lower --out {package} | will not lower; into itself
+ lower --out {package}/inner | inside the package
+ lower --out {image}/p | cannot write; 0010
export {small} --out {work}/p --precision bf16 --data {data} | small is trimmed; lower the package
export {package} --out {work}/p | not a run; package
+ export --out {run} | will not replace; run; manifest.json
+ export --out {image} | cannot write the folder; 0010
+ export --out /proc/p | cannot write /proc/p
+ export --network resnet18 | is timm:test_efficientnet, not resnet18
+ export --feed-thresholds | --feed-thresholds goes with --single-file
export {run} --single-file {work}/x.onnx | is a run; offramp trim
+ single --size 96x64 | --size; go with --out
+ single --spare final | --spare goes with --precision int8
+ single --single-file {work}/net.onx | FILE.onnx; net.onx
+ single --single-file {small}/manifest.json | FILE.onnx; manifest.json
+ single --feed-thresholds | thresholds
""")

CASES: tuple[Case, ...] = (*TAPS, *TRAIN, *PRUNE, *EXPORT)
