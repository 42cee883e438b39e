"""Used by all stages: errors, logs, strict settings, event classes, and files that are whole or absent and are checked.

Imports no other package of NuVLM.
"""
