"""What ships: ONNX export, the runtimes that decode an exported folder, and their measurement."""
