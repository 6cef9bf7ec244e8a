"""Formal languages, one file each: trained on short words, judged on long ones."""
