"""Engines: what answers, and what shows hidden states. A new one is a file of its own and an entry here."""

# Name to the settings class, as "module:class"; its `build` makes the engine. A module is imported when it is needed.
ENGINES = {
    "decoder": "cascade.engines.settings:DecoderConfig",
    "vllm": "cascade.engines.vllm:VllmConfig",
    "endpoint": "cascade.engines.settings:EndpointConfig",
    "encoder": "cascade.engines.settings:EncoderConfig",
}
