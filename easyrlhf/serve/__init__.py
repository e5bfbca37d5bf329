"""Language models behind HTTP: what OpenAI clients ask, answered by the project's own decoding loop."""
