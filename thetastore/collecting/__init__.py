"""What nothing needs any more, found and let go of: `docs/format/collecting.md` is the protocol."""
