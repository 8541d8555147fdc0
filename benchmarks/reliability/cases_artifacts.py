"""Cases of bad artifacts and of strangers' files: packages, records and what is beside them, runs."""

from __future__ import annotations

import cases_measured
import cases_packages
import cases_records
import cases_runs
import cases_strangers
from harness import Case

CASES: tuple[Case, ...] = (
    *cases_packages.CASES,
    *cases_records.CASES,
    *cases_measured.CASES,
    *cases_runs.CASES,
    *cases_strangers.CASES,
)
