"""The demonstration, `python -m gitbridge.demo`, and its weights: in the package, so that every install has them."""
