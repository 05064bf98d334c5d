"""Networks, losses, and collectives across processes."""
