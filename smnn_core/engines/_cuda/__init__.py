"""The CUDA engine without CUDA: kernels (`kernels.cu`), their source as one text, and the calls that launch them."""
