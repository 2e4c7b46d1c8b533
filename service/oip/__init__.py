"""Open Inference Protocol v2, with its binary extension: tensors in, tensors out, by name."""
