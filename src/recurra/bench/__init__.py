"""Measurements that `recurra bench` prints: times and memory of layers, of one step, and the swap table."""
