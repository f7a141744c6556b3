"""MegatronBERT checkpoints as Megatron-LM writes them, to checkpoints that transformers reads."""
