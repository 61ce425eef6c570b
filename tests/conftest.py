"""What holds for every test: no test may reach the Hub."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from threads, and suffer beside other work
