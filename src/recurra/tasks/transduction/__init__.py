"""From sequence to sequence with answers that are known, one file each."""
