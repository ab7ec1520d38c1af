"""Fitting: coordinates, objectives, seeds, polish and the door ``fit``."""
