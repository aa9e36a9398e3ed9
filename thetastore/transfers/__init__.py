"""Objects from one store to another."""
