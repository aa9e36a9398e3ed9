"""Upgrades of store formats, and imports from other tools."""
