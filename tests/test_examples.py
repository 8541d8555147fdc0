import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_drive_answers_for_every_frame(package, scenes):
    frames = scenes / "test" / "images"
    command = [sys.executable, str(EXAMPLES / "drive.py"), str(package), str(frames), "--deadline-ms", "5000"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == sorted(path.name for path in frames.iterdir())
    # With seconds to spend, every frame gets the final exit.
    assert all(": final after " in line for line in lines)
