"""Measuring: protocols, detectors, statistics, and what presents the numbers (tables, plots, sheets, reports).

Rates and recalls are in `safeencoders.metrics`, one layer below. Nothing is imported here, so that
``import safeencoders.evaluation`` costs nothing; import the module you need.
"""
