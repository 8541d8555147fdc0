"""Networks with exits: where they come from, taps, heads, confidence, and the wrapper that joins them."""

from offramp import torchvision_import  # noqa: F401 - so that timm and others that import torchvision work after this
from offramp.models.attach import attach_exits
from offramp.models.multi_exit import MultiExitNetwork

__all__ = ["MultiExitNetwork", "attach_exits"]
