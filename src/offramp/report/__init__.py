"""Artifacts in, one self-contained HTML page or one picture sheet out."""

from __future__ import annotations

from offramp.report.page import write_report
from offramp.report.sheet import Answer, SheetRow, picture_sheet

__all__ = ["Answer", "SheetRow", "picture_sheet", "write_report"]
