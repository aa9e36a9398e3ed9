"""The command `thetastore`: a store without Git, one module a command."""
