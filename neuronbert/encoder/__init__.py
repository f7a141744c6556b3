"""One encoder for the quantized and the length-adaptive models: BERT's and RoBERTa's, step by step."""
