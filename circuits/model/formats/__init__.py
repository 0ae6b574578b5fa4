"""How a model lies on disk: Hugging Face Llama folders, and the paper's own layout."""
