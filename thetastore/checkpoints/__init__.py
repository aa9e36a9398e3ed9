"""Files of tensors into a store and out again: whole, by tensor, and composed from tensors that are elsewhere."""
