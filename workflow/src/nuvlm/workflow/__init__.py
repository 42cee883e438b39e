"""What the Snakemake rules ask while they are parsed: configuration, shards, paths, code digests, the plan.

May import every package; no stage imports it.
"""
