"""A laptop-sized stand-in for Qwen2.5-Math-7B and OpenR1-Math: a world of arithmetic chains and a one-million-parameter
model that knows part of it."""
