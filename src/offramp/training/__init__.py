"""The step `train`."""
