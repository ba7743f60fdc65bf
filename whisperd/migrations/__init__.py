"""Numbered SQL files, applied in order by db.py."""
