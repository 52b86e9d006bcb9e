"""Measure how good a model is: loss, perplexity, bits per byte, HellaSwag."""
