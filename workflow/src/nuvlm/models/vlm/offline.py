"""Import this before any Hugging Face library to keep it offline: compute nodes have no network.

Only `fetch_base_model` needs the network.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
