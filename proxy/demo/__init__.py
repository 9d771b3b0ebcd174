"""The embedded misbehaving upstream and the demonstration that runs on it."""
