"""Doors to the outside: mail now, others later."""
