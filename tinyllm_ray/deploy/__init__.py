"""A trained student goes to work: served over HTTP by Ray Serve, or exported to ONNX, GGUF or a hub."""
