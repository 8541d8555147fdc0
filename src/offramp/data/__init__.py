"""Labelled images: dataset layouts, folders, checks, and drawn scenes."""
