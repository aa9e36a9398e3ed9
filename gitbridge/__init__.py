"""gitbridge: puts thetastore under ordinary Git."""
