"""Running a package, without torch."""
