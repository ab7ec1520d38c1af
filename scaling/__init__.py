"""Scaling laws of precision, fitted from results tables."""
