"""How an object is stored, and how it might be stored in less: reading it, choosing, and copies found by anchors."""
