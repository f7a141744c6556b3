"""Quantization: a checkpoint's modules with quantizers in them, and the integers that a program computes with."""
