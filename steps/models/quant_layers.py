def quantized_like(layer):
    raise NotImplementedError
