"""Client for OpenAI-compatible chat endpoints: parallel calls within limits; every answer is saved on arrival."""

from jaxforget.endpoint.ask import Answer, Endpoint
from jaxforget.endpoint.settings import Settings, model_name, settings_from

__all__ = ["Answer", "Endpoint", "Settings", "model_name", "settings_from"]
