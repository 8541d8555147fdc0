"""Networks with exits: backbones, taps, heads, and the wrapper that joins them."""
