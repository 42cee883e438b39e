"""Imported before anything of Hugging Face: its libraries then ask no server, as compute nodes reach none.

Only `fetch_base_model` needs the network.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
