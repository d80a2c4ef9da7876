"""ONNX: export, the torch-free runtime, and the way back to a differentiable module."""
