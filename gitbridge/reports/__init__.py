"""Diffs for people and programs: text, Markdown, JSON, and a page that stands alone. Nothing is computed here."""
