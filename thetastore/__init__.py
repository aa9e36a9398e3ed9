"""thetastore: a content-addressed storage engine for model parameters. Bytes in, digests out."""
