"""What every stage uses: errors, logs, strict settings, the event classes, and files that are complete or absent.

Imports no other package of NuVLM.
"""
