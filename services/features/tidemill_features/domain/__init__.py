"""What the service computes, pure and synchronous: no clock, no dice, no network, no await."""
