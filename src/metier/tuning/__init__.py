"""Trained models: small classifiers that cost no token."""
