"""Client for OpenAI-compatible chat endpoints: parallel calls within limits; every answer is saved on arrival."""

from jaxforget.endpoint.ask import Answer, Endpoint
from jaxforget.endpoint.settings import Settings, complete_options, settings_from

__all__ = ["Answer", "Endpoint", "Settings", "complete_options", "settings_from"]
