"""Imported before NumPy and PyTorch, it has them start no threads: a process that is forked must have one alone."""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
