"""What is produced: Manifest, Records, Profile, Deployment, RunLog. Steps meet only in these files.

Each is saved under a temporary name and renamed, carries what it was made from, and refuses to load when it is damaged, of
another version or of another kind.
"""

from __future__ import annotations

from offramp.artifacts.base import FORMAT, Artifact, Provenance, device_name, load_json, require_same_package
from offramp.artifacts.deployment import Certificate, Deployment, Doubt, Effort, Expected, RunnerUp
from offramp.artifacts.package import (
    MANIFEST,
    FloatLayer,
    GraphEntry,
    HeadEntry,
    Lowering,
    Manifest,
    graph_file,
    load_manifest,
    needed_outputs,
    package_identity,
)
from offramp.artifacts.profile import Measurement, Profile
from offramp.artifacts.records import Records, RecordsInfo, load_records
from offramp.artifacts.run_log import Frame, RunLog, Tally
from offramp.artifacts.sweep import SWEEP, Sweep, SweptPackage, SweptTrial

__all__ = [
    "FORMAT",
    "MANIFEST",
    "SWEEP",
    "Artifact",
    "Certificate",
    "Deployment",
    "Doubt",
    "Effort",
    "Expected",
    "FloatLayer",
    "Frame",
    "GraphEntry",
    "HeadEntry",
    "Lowering",
    "Manifest",
    "Measurement",
    "Profile",
    "Provenance",
    "Records",
    "RecordsInfo",
    "RunLog",
    "RunnerUp",
    "Sweep",
    "SweptPackage",
    "SweptTrial",
    "Tally",
    "device_name",
    "graph_file",
    "load_json",
    "load_manifest",
    "load_records",
    "needed_outputs",
    "package_identity",
    "require_same_package",
]
