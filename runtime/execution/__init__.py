"""Executors of lowered graphs, and what all of them share: steps, recipes, weights, samplers."""
