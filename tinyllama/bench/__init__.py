"""What the commands under `tinyllama bench` measure: this machine's limits, where the time goes, and PyTorch's time."""
