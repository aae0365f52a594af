"""Does P(IK) pay on real decoders? The measuring of models, and the page that is made of what was measured."""
