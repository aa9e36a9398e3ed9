"""Merges of tracked files: what the merge driver and the commands around it do. docs/merge.md says what users see."""
