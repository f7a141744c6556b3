"""Integer-only inference of an encoder, as I-BERT defines it: nothing but integers from the embedding to the head.

Knows nothing of artifacts or backends. Source of the arithmetic: Kim, Gholami, Yao, Mahoney and Keutzer, "I-BERT:
Integer-only BERT Quantization" (arXiv 2101.01321).
"""
