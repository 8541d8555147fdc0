"""torchvision's Python parts work beside any build of torch, in a process that has imported nothing before."""

import subprocess
import sys


def test_in_a_fresh_process_and_twice():
    code = """
from offramp import torchvision_import
import torch, torchvision
from torchvision import tv_tensors
from torchvision.transforms import v2

declared = len(torchvision_import._kept_alive)
torchvision_import.import_torchvision()
assert len(torchvision_import._kept_alive) == declared, "declared again"
import offramp.torchvision_import
assert sys.modules["torchvision"] is torchvision, "imported again"

mask = tv_tensors.Mask(torch.tensor([[1, 2, 3]]))
print(v2.functional.horizontal_flip(mask).tolist())
import timm
print(timm.create_model("test_resnet", num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape[1])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys" + code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[[3, 2, 1]]", "3"]


def test_other_errors_pass(monkeypatch):
    import pytest

    from offramp import torchvision_import

    def fail(_name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_import.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_import.import_torchvision()
