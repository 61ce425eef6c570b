"""What holds for every test: no test may reach the Hub, and each may import what tests share by its plain name."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from threads, and suffer beside other work
sys.path.append(str(Path(__file__).parent))  # `from pipelines import PIPELINES`; importlib mode adds no folder itself
