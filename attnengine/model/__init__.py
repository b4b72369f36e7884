"""The model room: loading a model and capturing its attention. Its modules import torch and transformers."""
