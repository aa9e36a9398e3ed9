"""Named models with versions, in a store without Git: what refs say, put into the words that people use."""
