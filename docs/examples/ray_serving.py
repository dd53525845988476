"""Replicas of qkv's server on a Ray cluster: serve run ray_serving:app."""

from fastapi import FastAPI
from ray import serve

MODELS = ["sentiment-small"]


def build() -> FastAPI:
    """Load the models of a replica, and return the server's application."""
    from qkv.serve.app import make_app
    from qkv.serve.models import read_models

    models = read_models(
        MODELS, device="cpu", dtype=None, allow_download=False, max_rows=16, max_waiting=64
    )
    models.start()
    return make_app(models)  # answers to local names; hosts=["api.example.org"] to others


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
@serve.ingress(build)
class Server:
    """One replica."""


app = Server.bind()
