"""Any OpenAI-compatible chat endpoint: asked in parallel within limits, every answer kept as soon as it arrives."""

from jaxforget.endpoint.ask import Answer, Endpoint
from jaxforget.endpoint.settings import Settings, model_name, settings_from

__all__ = ["Answer", "Endpoint", "Settings", "model_name", "settings_from"]
