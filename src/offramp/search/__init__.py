"""The step `search`: records and a profile -> the deployment that meets the limits best.

All candidates are compared, exactly: what every exit answered on every image is in the records, what it costs in the profile.
"""

from __future__ import annotations

from offramp.search.cascade import cascade_manifest, require_cascade_target, search_cascade, write_cascade
from offramp.search.catalogue import Catalogue, catalogue, estimate_again
from offramp.search.choose import front, search, search_all
from offramp.search.space import Candidate

__all__ = [
    "Candidate",
    "Catalogue",
    "cascade_manifest",
    "catalogue",
    "estimate_again",
    "front",
    "require_cascade_target",
    "search",
    "search_all",
    "search_cascade",
    "write_cascade",
]
