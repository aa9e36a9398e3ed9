"""What changed between the tensors of two files."""
