"""Answers kept and given again: what is the same question, what means the same, and who may have it."""
