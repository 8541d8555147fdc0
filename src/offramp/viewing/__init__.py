"""A page of this machine's own that shows a package at work: answers, times and what changes them, live."""
