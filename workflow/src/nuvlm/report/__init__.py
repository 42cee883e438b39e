"""The report: figures, event browser, page, JSON schema, LaTeX tables, and the comparison of two runs.

May import evaluation and all below it.
"""
