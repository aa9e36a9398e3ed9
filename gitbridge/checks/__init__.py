"""What `git theta check` looks for in what is about to be committed, or to be merged: rules with released names."""
