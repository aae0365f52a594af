"""Engines: what answers, and what shows hidden states. A new one is a file of its own and an entry here."""

# Where the settings of each are, which say the rest; nothing is imported before it is asked for.
ENGINES = {
    "decoder": "cascade.engines.settings:DecoderConfig",
    "endpoint": "cascade.engines.settings:EndpointConfig",
    "encoder": "cascade.engines.settings:EncoderConfig",
}
