from pathlib import Path

import pytest

from offramp.errors import InputError
from offramp.specs import TrainingSpec
from offramp.sweeping.plan import DeviceEntry, Variant, read_plan

WHOLE = """
networks:
  - {network: mobilenetv2_100, heads: [skip]}
  - {network: mobilenetv2_050, output_stride: 16, weights: small.safetensors, training: {epochs: 0, seed: 3}}
  - {network: nets/own.py:make, name: ours, taps: [down.1], exits: 0}
sizes: [480x360, [320, 240]]
training: {epochs: 41, scheme: joint, crop: 96x64, zoom: [0.8, 1.5]}
device: {threads: 1, precision: fp32, passes: 7}
splits: [test]
"""


@pytest.fixture
def plan_of(tmp_path):
    def write(text):
        (tmp_path / "plan.yaml").write_text(text)
        return tmp_path / "plan.yaml"

    return write


def test_a_plan_says_what_train_would_be_told(plan_of, tmp_path):
    (tmp_path / "small.safetensors").touch()
    plan = read_plan(plan_of(WHOLE))
    first, second, own = plan.trials
    assert (first.name, second.name, own.name) == ("mobilenetv2_100", "mobilenetv2_050-os16", "ours")
    assert first.choice.heads == ("skip",)
    assert first.choice.exits == 6
    # As offramp train has it: a fifth of 41 epochs, rounded up, for phase 2; 12 where there is no phase 1.
    shared = {"scheme": "joint", "crop": (96, 64), "zoom": (0.8, 1.5)}
    assert first.training == TrainingSpec(epochs=41, exit_epochs=9, **shared)
    assert second.training == TrainingSpec(epochs=0, exit_epochs=12, seed=3, **shared)
    assert second.weights == tmp_path / "small.safetensors"
    assert (own.choice.network, own.choice.taps) == (f"{tmp_path}/nets/own.py:make", ("down.1",))
    assert first.variants == (Variant((480, 360)), Variant((320, 240)))
    assert [variant.name for variant in first.variants] == ["480x360", "320x240"]
    assert plan.device == DeviceEntry(threads=1, passes=7)
    assert plan.splits == ("val", "test")


def test_the_documentations_plan_is_one(plan_of, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "approximations.md").read_text(encoding="utf-8")
    text = page.split("## Model choice: offramp sweep")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "mobilenetv2_100.safetensors").touch()
    plan = read_plan(plan_of(text))
    assert [trial.name for trial in plan.trials] == ["mobilenetv2_100", "half-width", "smp-Unet-resnet18"]
    assert plan.trials[2].training.learning_rate == 5e-4


SHORT = "networks: [{network: resnet10t}]\nsizes: [96x64]\n"

REFUSED = {
    "networks: [": "no YAML",
    "- a list": "must have the keys networks, sizes, stored, training, device, splits, got list",
    "sizes: [96x64]": "networks: Field required",
    "networks: []\nsizes: [96x64]": "networks: Tuple should have at least 1 item",
    SHORT + "epochs: 3": "epochs: there is no such key",
    SHORT.replace("resnet10t", "resnet10t, ouput_stride: 8"): "networks.0.ouput_stride: there is no such key",
    SHORT.replace("resnet10t", "resnet10t, output_stride: 5"): "networks.0.output_stride: Input should be 8, 16 or 32, got 5",
    SHORT.replace("resnet10t", "resnet10t, name: ../up"): "networks.0.name: String should match",
    SHORT.replace("resnet10t", "resnet10t, weights: none.safetensors"): "networks.0.weights: there is no file",
    SHORT.replace("96x64", "96"): "sizes.0: ",
    SHORT.replace("96x64", "96x4"): "sizes.0: not a size: '96x4'",
    SHORT + "training: {epoch: 3}": "training.epoch: there is no such option; there are scheme, epochs",
    SHORT + "training: {epochs: many}": "training.epochs: Input should be a valid integer",
    SHORT + "training: {crop: 5}": "training.crop: ",
    SHORT + "training: {crop: 5x5}": "training.crop: not a size",
    SHORT + "training: {epochs: 0, exit_epochs: 0}": "training: epochs and exit_epochs are both 0",
    SHORT.replace("resnet10t", "resnet10t, training: {seed: -1}"): "networks.0.training.seed: Input should be greater",
    SHORT.replace("resnet10t", "resnet10t, training: {sed: 1}"): "networks.0.training.sed: there is no such option",
    SHORT + "device: {engine: abacus}": "device.engine: Input should be 'onnxruntime'",
    SHORT + "device: {passes: 0}": "device.passes: ",
    SHORT + "splits: [train]": "splits.0: Input should be 'val' or 'test', got 'train'",
    "networks: [{network: a}, {network: a, exits: 2}]\nsizes: [96x64]": "networks.0 and networks.1 are both called a",
    "networks: &n [*n]\nsizes: [96x64]": "networks.0: ",
    "!!python/object/apply:os.getcwd []": "no YAML",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_bad_plan_is_refused_by_file_and_key(plan_of, text):
    path = plan_of(text)
    with pytest.raises(InputError) as refused:
        read_plan(path)
    said = str(refused.value)
    assert str(path) in said
    assert REFUSED[text] in said
    assert "pydantic" not in said


def test_a_plan_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the plan"):
        read_plan(tmp_path / "plan.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="no YAML"):
        read_plan(tmp_path / "binary.yaml")
