"""The step `export`: a trained network to a package of ONNX graphs."""
